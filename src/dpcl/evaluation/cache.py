"""Score many separators on many mixtures, on all cores.

Scores are stored under a cache key: a hash of weights, code, mixture and metrics. Each pair of
separator and mixture is thus scored once.
"""

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
from dpcl.evaluation.evaluate import KnownTalkers, UnknownTalker, score_mixture
from dpcl.evaluation.metrics import recogniser_name
from dpcl.evaluation.summary import METRICS, SourceResult, improvements, weights
from dpcl.io import Progress, Report, no_report
from dpcl.mixtures.render import row_files
from dpcl.mixtures.rows import MixtureRow
from dpcl.separators.registry import Method, find_method, split_name

LIBRARIES = ("dpcl", "torch", "numpy", "scipy", "soxr")  # packages that scores depend on


def separator_key(name: str) -> str:
    """Return the cache key of a separator: a hash of its weights and of `code_version`.

    A method without weights is hashed by its name.

    Args:
        name: separator, as `find_method` takes it.

    Raises:
        InputError: The name is unknown.
    """
    method = find_method(name)
    if method.weights is not None:
        name = hashlib.sha256(method.weights.read_bytes()).hexdigest() + split_name(name)[1]
    return _hash(name, code_version())


def row_key(row: MixtureRow, root: str | os.PathLike[str], more: Any = None) -> str:
    """Return the cache key of a mixture: a hash of its content, but not of its id, list or seed.

    Recordings are represented by their paths and their sizes in bytes.

    Args:
        row: row of the list.
        root: folder that the paths of the row are relative to.
        more: further content to hash, as JSON can hold it.
    """
    sizes = [path.stat().st_size for path in row_files(row, root)]
    labels = {"id", "list", "seed"}
    content = {key: value for key, value in asdict(row).items() if key not in labels}
    return _hash(content, sizes, more)


def code_version() -> list[str]:
    """Return the versions of dpcl and of the libraries that scores depend on."""
    return [version(library) for library in LIBRARIES]


def _hash(*parts: Any) -> str:
    """Return 24 hexadecimal digits of the SHA-256 of parts that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


Work = tuple[str, MixtureRow]  # a separator's name and a mixture
Outcome = TypeVar("Outcome")


class ScoreStore:
    """Folder of scores by cache key: one file per separator, one line per mixture.

    A line is appended after each mixture, so that an interrupted run resumes where it stopped.

    Args:
        folder: folder of the store; made where it does not exist.
        root: folder that the paths of the mixtures are relative to.
        metrics: metrics besides SI-SDR and SDR.

    Raises:
        InputError: The folder cannot be made.
    """

    def __init__(self, folder: Path, root: Path, metrics: tuple[str, ...]) -> None:
        self.folder, self.root, self.metrics = folder, root, metrics
        self.columns = METRICS + improvements(metrics) + weights(metrics)
        self._paths: dict[str, Path] = {}  # by separator
        self._known: dict[Path, dict[str, list[dict[str, Any]]]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); choose another --cache"
            ) from error

    def get(self, work: Work) -> list[SourceResult] | None:
        """Return the stored scores of a separator on a mixture, one per source; None if missing."""
        name, row = work
        scores = self._entries(name).get(self._key(work))
        if scores is None:
            return None
        return [
            SourceResult(
                id=row.id,
                corpora=row.corpora,
                genders=row.genders,
                source=index,
                speaker=source.speaker,
                silent=bool(values["silent"]),
                kind=row.kind,
                group=source.group,
                **{metric: _number(values[metric]) for metric in METRICS},
                more={key: _number(values[key]) for key in self.columns if key not in METRICS},
            )
            for index, (source, values) in enumerate(zip(row.sources, scores, strict=True), 1)
        ]

    def put(self, work: Work, results: Sequence[SourceResult]) -> None:
        """Store the scores of a separator on a mixture, one per source."""
        scores: list[dict[str, Any]] = [
            {"silent": result.silent} | {column: result.value(column) for column in self.columns}
            for result in results
        ]
        for values in scores:
            values |= {key: None for key, value in values.items() if value != value}  # JSON: no NaN
        line = json.dumps({"row": self._key(work), "scores": scores}, allow_nan=False)
        path = self._path(work[0])
        with path.open("a", encoding="utf-8") as file:
            # An incomplete last line of a killed run must not absorb this line.
            file.write(line + "\n" if _ends_complete(path) else f"\n{line}\n")
        self._entries(work[0])[self._key(work)] = scores

    def _key(self, work: Work) -> str:
        """Return the cache key of a mixture, with the speech of talker models where needed."""
        name, row = work
        speech: Any = None
        if find_method(name).needs == "talkers":
            talkers = _talkers(name, str(self.root)).speech(row)
            speech = [
                [(str(piece.path.name), piece.start, piece.seconds) for piece in pieces]
                for pieces in talkers
            ]
        if "wer" in self.metrics:
            speech = [speech, recogniser_name(), "weights"]
        return row_key(row, self.root, speech)

    def _path(self, name: str) -> Path:
        """Return the file with the scores of a separator."""
        if name not in self._paths:
            columns = "-".join(("sdr", *sorted(self.metrics)))
            self._paths[name] = self.folder / f"{separator_key(name)}-{columns}.jsonl"
        return self._paths[name]

    def _entries(self, name: str) -> dict[str, list[dict[str, Any]]]:
        """Return the scores of a separator by the key of the mixture, read at first use."""
        path = self._path(name)
        if path not in self._known:
            known = self._known.setdefault(path, {})
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:  # incomplete line of a killed run
                    continue
                known[entry["row"]] = entry["scores"]
        return self._known[path]


def unknown_rows(names: Sequence[str], rows: Sequence[MixtureRow], root: Path) -> set[str]:
    """Return the ids of mixtures with a talker for whom a required model cannot be learned.

    Args:
        names: separators; those that need no models of talkers exclude no mixture.
        rows: rows of a list.
        root: folder of the corpus.
    """
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


def _number(stored: float | None) -> float:
    """Return a score from JSON, where null stands for NaN."""
    return math.nan if stored is None else stored


def score_all(
    work: Sequence[Work], store: ScoreStore, workers: int = 1, report: Report = no_report
) -> dict[tuple[str, str], list[SourceResult]]:
    """Score every pair of separator and mixture that the store does not hold yet.

    Args:
        work: pairs of a separator's name and a mixture.
        store: store to read from and to add to.
        workers: number of processes.
        report: called after each mixture with the number of mixtures done and in all.

    Returns:
        Scores, one per source, by the separator's name and the mixture's id.

    Raises:
        InputError: A mixture cannot be separated or scored. The store keeps all scores up to then.
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
    """Call a function for every piece of work, and yield each piece with its outcome when done.

    Args:
        function: function that a child process can import.
        pieces: positional arguments of each call.
        workers: number of processes; with 1, this process does the work.

    Example:
        >>> list(spread(max, [(1, 2), (4, 3)], workers=1))
        [((1, 2), 2), ((4, 3), 4)]
    """
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
    """Start processes of one thread each; on an error the calls that wait are cancelled."""
    # Processes are spawned, as torch's threads do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def known_method(name: str, root: str) -> tuple[Method, KnownTalkers | None]:
    """Find a method, with the learner of talker models where the method needs them.

    Args:
        name: separator, as `find_method` takes it.
        root: folder of the corpus.

    Raises:
        InputError: The name is unknown, or the corpus cannot be read.
    """
    method = find_method(name)
    return method, _talkers(name, root) if method.needs == "talkers" else None


def _score(name: str, row: MixtureRow, root: str, metrics: tuple[str, ...]) -> list[SourceResult]:
    """Score one mixture in a process of the pool."""
    return score_mixture(row, root, *known_method(name, root), metrics)


@lru_cache(maxsize=4)
def _talkers(name: str, root: str) -> KnownTalkers:
    """Return the talker models of a separator, shared by all mixtures of this process."""
    return KnownTalkers(find_method(name), [], root)


def _ends_complete(path: Path) -> bool:
    """Return True if a file is empty or ends with a complete line."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
