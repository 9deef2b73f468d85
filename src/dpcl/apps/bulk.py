"""`dpcl bulk`: many recordings on the machines of a Ray cluster, and a journal of the outcomes."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from dpcl.apps.console import FileFormat, Force, MaxSources, ModelName, Sources, progress
from dpcl.errors import InputError, need_package
from dpcl.io import Progress, Report, no_report
from dpcl.separators.limits import check_sources


def bulk(
    recordings: Annotated[
        list[Path],
        typer.Argument(help="Audio files, and folders in which all are meant.", metavar="REC..."),
    ],
    out: Annotated[Path, typer.Option(help="Folder; below it sources lie as their recordings do.")],
    sources: Sources = None,
    max_sources: MaxSources = 4,
    model: ModelName = "default",
    file_format: FileFormat = "wav",
    address: Annotated[
        str | None,
        typer.Option(
            help="Of a Ray cluster, or auto; this machine if left out.", show_default=False
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Separate many recordings, one on each processor core of a Ray cluster or of this machine.

    What became of each is in OUT/bulk.csv; stopped, the same command goes on. All machines must
    have dpcl and see the same files. A recording that cannot be separated does not stop the others.

    Example: **dpcl bulk recordings --out separated --address auto**
    """
    need_package("bulk", "many machines need", "ray")

    order = Order(model, sources, max_sources, file_format.lower())
    with progress("separating") as move:
        failed, total = separate_on_cluster(recordings, out, order, address, force, move)
    if failed:
        raise InputError(
            f"{failed} of {total} recordings could not be separated; {out / JOURNAL} says why"
        )


JOURNAL = "bulk.csv"  # in the folder of the outputs
COLUMNS = ("recording", "order", "sources", "seconds", "took", "told")
AHEAD = 2  # recordings handed out for every core


@dataclass(frozen=True)
class Order:
    """What is asked for each recording; see `separate_files`."""

    model: str
    sources: int | None
    most: int
    file_format: str

    def __str__(self) -> str:
        number = f"up to {self.most}" if self.sources is None else str(self.sources)
        return f"{self.model}, {number} sources, {self.file_format}"


@dataclass(frozen=True)
class Outcome:
    """What became of a recording."""

    recording: str
    sources: int  # none where it could not be separated
    seconds: float  # of audio
    took: float  # seconds of work
    told: str  # what is wrong with it, or not as one would expect


def separate_on_cluster(
    given: Sequence[Path],
    out: Path,
    order: Order,
    address: str | None = None,
    force: bool = False,
    report: Report = no_report,
) -> tuple[int, int]:
    """Write the sources of all recordings; how many could not be separated, and of how many.

    given: files, and folders whose recordings are all meant, the sources of which lie below `out`
    as they lie below the folder; what is below `out` itself is none. address: of a Ray cluster,
    "auto" for the one that runs, None for this machine alone. Recordings that out/bulk.csv says are
    done by the same order are not done again, unless `force`. report: called
    after each recording.
    Raises InputError for wrong arguments, before anything is written, and where there is no such
    cluster.
    """
    import ray

    from dpcl.separators.registry import build, find_method
    from dpcl.shipped import shipped_models, weights_path

    check_sources(order.sources)
    check_sources(order.most)
    build(order.model)
    weights = find_method(order.model).weights
    shipped = (None, *(weights_path(model.name) for model in shipped_models()))  # on any machine
    model = order.model if weights in shipped else str(Path(order.model).resolve())
    places = find_recordings(given, out)
    journal = out / JOURNAL
    begun = journal.is_file()  # else what is in the folder is not ours to replace
    done = set() if force else _done(journal, str(order))
    left = [recording for recording in places if recording not in done]
    report(Progress(len(places) - len(left), len(places), "recordings"))
    failed = 0
    with _cluster(address) as cores, _opened(journal, anew=force) as file:
        writer = csv.writer(file)
        if force or not begun:
            writer.writerow(COLUMNS)
        one = ray.remote(num_cpus=1)(separate_one)
        orders = (
            one.remote(name, str(places[name].resolve()), model, order, force or begun)
            for name in left
        )
        for number, outcome in enumerate(_in_turn(orders, AHEAD * cores), 1):
            failed += not outcome.sources
            writer.writerow(
                [
                    outcome.recording,
                    str(order),
                    outcome.sources,
                    f"{outcome.seconds:.2f}",
                    f"{outcome.took:.2f}",
                    outcome.told,
                ]
            )
            file.flush()
            report(Progress(len(places) - len(left) + number, len(places), "recordings"))
    return failed, len(places)


def separate_one(recording: str, folder: str, model: str, order: Order, force: bool) -> Outcome:
    """One recording, on the machine that this runs on."""
    from dpcl.apps.files import Separated, separate_files

    finished: list[Separated] = []
    try:
        separate_files(
            [Path(recording)],
            Path(folder),
            model,
            order.sources,
            force,
            finished.append,
            order.file_format,
            most=order.most,
        )
    except InputError as error:
        return Outcome(recording, 0, 0.0, 0.0, str(error))
    except OSError as error:  # a disk that is full, a share that went away
        return Outcome(recording, 0, 0.0, 0.0, f"{error.filename}: {error.strerror}")
    (result,) = finished
    told = " ".join(f"{warning}." for warning in result.warnings)
    return Outcome(recording, len(result.outputs), result.seconds, result.took, told)


def find_recordings(given: Sequence[Path], out: Path) -> dict[str, Path]:
    """Absolute names of recordings -> folders of their sources.

    Raises InputError for a file that is not there, a folder without recordings, and recordings
    whose sources would have the same names.
    """
    import soundfile

    from dpcl.mixtures.corpus import AUDIO_SUFFIXES, is_audio

    suffixes = {f".{name.lower()}" for name in soundfile.available_formats()}
    suffixes |= AUDIO_SUFFIXES | {".oga", ".wv2"}
    places: dict[str, Path] = {}
    taken: dict[tuple[Path, str], Path] = {}
    for path in given:
        found = {path: out}
        if path.is_dir():
            files = (p for p in sorted(path.rglob("*")) if is_audio(p, suffixes))
            inside = (p for p in files if p.is_file() and out.resolve() not in p.resolve().parents)
            found = {p: out / p.parent.relative_to(path) for p in inside}
            if not found:
                raise InputError(f"{path}: holds no recordings; give another folder")
        elif not path.is_file():
            raise InputError(f"{path}: does not exist; check the name of the recording")
        for recording, folder in found.items():
            other = taken.setdefault((folder, recording.stem), recording)
            if other.resolve() != recording.resolve():
                raise InputError(f"{other} and {recording} would share output names; rename one")
            places[str(recording.resolve())] = folder
    return places


def _done(journal: Path, order: str) -> set[str]:
    """Recordings that were separated by this order."""
    if not journal.is_file():
        return set()
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = csv.DictReader(line for line in lines if line.endswith("\n"))
    if tuple(rows.fieldnames or ()) != COLUMNS:
        raise InputError(f"{journal}: is not of dpcl bulk; give another --out")
    return {row["recording"] for row in rows if row["order"] == order and int(row["sources"])}


def _opened(journal: Path, anew: bool) -> TextIO:
    """The journal, to go on behind its last whole line."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    file = journal.open("w" if anew else "a", newline="", encoding="utf-8")
    written = journal.read_bytes()
    file.truncate(written.rfind(b"\n") + 1)  # stopped within a line
    return file


@contextmanager
def _cluster(address: str | None) -> Iterator[int]:
    """Ray, connected; gives how many cores there are."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init("local", include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, ValueError) as error:
        raise InputError(
            f"there is no Ray cluster at {address} ({str(error).splitlines()[0]}); start one with"
            " `ray start --head`, or leave out --address"
        ) from error
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield max(1, int(resources.get("CPU", 1)))
    finally:
        with suppress(Exception):
            ray.shutdown()


def _in_turn(orders: Iterator[Any], ahead: int) -> Iterator[Outcome]:
    """Outcomes as they come, of orders of which so many are out at once."""
    import ray

    out = [*islice(orders, ahead)]
    while out:
        (ready,), out = ray.wait(out, num_returns=1)
        out += islice(orders, 1)
        yield ray.get(ready)
