"""Score many separators on many mixtures on all cores, each once: scores are kept by cache key."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from dpcl.errors import InputError
from dpcl.evaluation.evaluate import score_mixture
from dpcl.evaluation.summary import METRICS, SourceResult, improvements
from dpcl.evaluation.talkers import KnownTalkers, UnknownTalker
from dpcl.io import Progress, Report, no_report
from dpcl.mixtures.lists import MixtureRow, row_files
from dpcl.separators.registry import LIVE, LOCAL, Method, find_method

LIBRARIES = ("dpcl", "torch", "numpy", "scipy", "soxr")


def separator_key(name: str) -> str:
    """Return a key of a separator: its weights by content, else its name, and code_version."""
    method = find_method(name)
    if method.weights is not None:
        how = next((how for how in (LOCAL, LIVE) if f":{name}".endswith(how)), "")
        name = hashlib.sha256(method.weights.read_bytes()).hexdigest() + how
    return _hash(name, code_version())


def row_key(row: MixtureRow, root: str | os.PathLike[str], more: Any = None) -> str:
    """Another word for another mixture, whatever it is called; recordings count by their size."""
    sizes = [path.stat().st_size for path in row_files(row, root)]
    names = {"id", "list", "seed"}
    content = {key: value for key, value in asdict(row).items() if key not in names}
    return _hash(content, sizes, more)


def code_version() -> list[str]:
    """Return the versions of dpcl and of the libraries that scores depend on."""
    return [version(library) for library in LIBRARIES]


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


Work = tuple[str, MixtureRow]  # a separator's name and a mixture
Outcome = TypeVar("Outcome")


class ScoreStore:
    """A folder of scores by what they hang on: one file a separator, one line a mixture.

    Lines are appended as mixtures are done, so what was killed goes on from there.
    """

    def __init__(self, folder: Path, root: Path, metrics: tuple[str, ...]) -> None:
        self.folder, self.root, self.metrics = folder, root, metrics
        self.columns = METRICS + improvements(metrics)
        self._paths: dict[str, Path] = {}  # by separator
        self._known: dict[Path, dict[str, list[dict[str, Any]]]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror})") from error

    def get(self, work: Work) -> list[SourceResult] | None:
        """The scores of a separator on a mixture, where they are known."""
        name, row = work
        scores = self._of(name).get(self._row(work))
        if scores is None:
            return None
        return [
            SourceResult(
                id=row.id,
                corpora=row.corpora,
                genders=row.genders,
                source=index,
                speaker=source.speaker,
                silent=bool(of["silent"]),
                kind=row.kind,
                group=source.group,
                **{key: math.nan if of[key] is None else of[key] for key in self.columns},
            )
            for index, (source, of) in enumerate(zip(row.sources, scores, strict=True), 1)
        ]

    def put(self, work: Work, results: Sequence[SourceResult]) -> None:
        """Keep the scores of a separator on a mixture."""
        columns = ("silent", *self.columns)
        scores = [{column: getattr(result, column) for column in columns} for result in results]
        for of in scores:
            of |= {key: None for key, value in of.items() if value != value}  # NaN is no JSON
        line = json.dumps({"row": self._row(work), "scores": scores}, allow_nan=False)
        path = self._path(work[0])
        with path.open("a", encoding="utf-8") as file:
            # What a killed run left half-written must not swallow this line.
            file.write(line + "\n" if _ends_whole(path) else f"\n{line}\n")
        self._of(work[0])[self._row(work)] = scores

    def _row(self, work: Work) -> str:
        name, row = work
        speech: Any = None
        if find_method(name).needs == "talkers":
            pieces = _talkers(name, str(self.root)).speech(row)
            speech = [[(str(p.path.name), p.start, p.seconds) for p in of] for of in pieces]
        return row_key(row, self.root, speech)

    def _path(self, name: str) -> Path:
        if name not in self._paths:
            columns = "-".join(("sdr", *sorted(self.metrics)))
            self._paths[name] = self.folder / f"{separator_key(name)}-{columns}.jsonl"
        return self._paths[name]

    def _of(self, name: str) -> dict[str, list[dict[str, Any]]]:
        path = self._path(name)
        if path not in self._known:
            known = self._known.setdefault(path, {})
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:  # cut off when a run was killed
                    continue
                known[entry["row"]] = entry["scores"]
        return self._known[path]


def unknown_rows(names: Sequence[str], rows: Sequence[MixtureRow], root: Path) -> set[str]:
    """Ids of mixtures with a talker whom one of the separators would have to know but cannot."""
    unknown = set()
    for name in names:
        if find_method(name).needs == "talkers":
            talkers = _talkers(name, str(root))
            for row in rows:
                try:
                    talkers.speech(row)
                except UnknownTalker:
                    unknown.add(row.id)
    return unknown


def score_all(
    work: Sequence[Work], store: ScoreStore, workers: int = 1, report: Report = no_report
) -> dict[tuple[str, str], list[SourceResult]]:
    """Scores of each piece of work, by separator's name and mixture's id; what is known is kept.

    Raises InputError for what cannot be separated or scored, with what is done before in the store.
    """
    found: dict[tuple[str, str], list[SourceResult]] = {}
    missing = []
    for piece in work:
        results = store.get(piece)
        if results is None:
            missing.append(piece)
        else:
            found[piece[0], piece[1].id] = results
    for piece, results in spread(
        _score, [(*piece, str(store.root), store.metrics) for piece in missing], workers
    ):
        name, row = piece[:2]
        store.put((name, row), results)
        found[name, row.id] = results
        report(Progress(len(found), len(work), "mixtures", name))
    return found


def spread(
    function: Callable[..., Outcome], pieces: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[tuple[tuple[Any, ...], Outcome]]:
    """Each piece of work with its outcome, as they are done; on one core in this process."""
    if workers == 1 or len(pieces) < 2:
        for piece in pieces:
            yield piece, function(*piece)
        return
    with _pool(min(workers, len(pieces))) as pool:
        futures: dict[Future[Outcome], tuple[Any, ...]] = {
            pool.submit(function, *piece): piece for piece in pieces
        }
        for future in as_completed(futures):
            yield futures.pop(future), future.result()


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each; what waits is dropped when something goes wrong."""
    # Not forked: torch's threads do not survive it.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def known_method(name: str, root: str) -> tuple[Method, KnownTalkers | None]:
    """Find a method, and what learns the talkers of the corpus where it needs them."""
    method = find_method(name)
    return method, _talkers(name, root) if method.needs == "talkers" else None


def _score(name: str, row: MixtureRow, root: str, metrics: tuple[str, ...]) -> list[SourceResult]:
    return score_mixture(row, root, *known_method(name, root), metrics)


@lru_cache(maxsize=4)
def _talkers(name: str, root: str) -> KnownTalkers:
    return KnownTalkers(find_method(name), [], root)


def _ends_whole(path: Path) -> bool:
    """Whether a file is empty or ends with its last line."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
