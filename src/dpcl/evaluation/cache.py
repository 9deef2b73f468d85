"""Score many separators on many mixtures on all cores, each once: scores are kept by cache key."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch

from dpcl.errors import InputError
from dpcl.evaluation.evaluate import score_mixture
from dpcl.evaluation.summary import METRICS, SourceResult, improvements
from dpcl.evaluation.talkers import KnownTalkers, UnknownTalker
from dpcl.mixtures.lists import MixtureRow, row_files
from dpcl.separators.registry import LIVE, LOCAL, Method, find_method

SCORING = ("dpcl.evaluation.metrics", "dpcl.evaluation.metrics", "dpcl.mixtures.lists")
LIBRARIES = ("torch", "numpy", "scipy", "soxr")


def separator_identity(name: str, modules: Sequence[str] = SCORING) -> str:
    """Another word for another separator: its weights by content, its code and all it imports.

    modules: what else its outcome hangs on.
    """
    method = find_method(name)
    own = [method.build.__module__, "dpcl.recordings.separate", "dpcl.evaluation.talkers"]
    if method.weights is not None:
        how = next((how for how in (LOCAL, LIVE) if name.endswith(how) or f":{name}" == how), "")
        name = f"{hashlib.sha256(method.weights.read_bytes()).hexdigest()} {how}"
    return _hash(name, code_identity((*own, *modules)))


def row_identity(row: MixtureRow, root: str | os.PathLike[str], more: Any = None) -> str:
    """Another word for another mixture, whatever it is called; recordings count by their size."""
    sizes = [path.stat().st_size for path in row_files(row, root)]
    names = {"id", "list", "seed"}
    content = {key: value for key, value in asdict(row).items() if key not in names}
    return _hash(content, sizes, more)


def code_identity(modules: Iterable[str]) -> str:
    """Of modules of dpcl and all of dpcl that they import; comments and layout do not count."""
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module], imports = _parsed(module)
            waiting += imports
    return _hash(sorted(found.items()), [version(library) for library in LIBRARIES])


@cache
def _parsed(module: str) -> tuple[str, tuple[str, ...]]:
    """The code of a module, and the modules of dpcl that it imports anywhere in it."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return "", ()
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dpcl":
            imports.append(str(node.module))
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree), tuple(imports)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


Report = Callable[[int, int, str], None]  # pieces of work done and in all, whose
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
        return row_identity(row, self.root, speech)

    def _path(self, name: str) -> Path:
        if name not in self._paths:
            columns = "-".join(("sdr", *sorted(self.metrics)))
            self._paths[name] = self.folder / f"{separator_identity(name)}-{columns}.jsonl"
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
    work: Sequence[Work], store: ScoreStore, workers: int = 1, report: Report = lambda *moved: None
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
        report(len(found), len(work), name)
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
