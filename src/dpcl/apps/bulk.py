"""`dpcl bulk`: separate many recordings on a Ray cluster, with a journal of the outcomes."""

from __future__ import annotations

import csv
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from dpcl.apps.console import (
    OUT,
    FileFormat,
    Floor,
    Force,
    KnownVoices,
    MaxSources,
    ModelName,
    Only,
    Sources,
    Spatial,
    find_recordings,
    list_omitted,
    progress,
)
from dpcl.errors import FLOOR_DB, InputError, check_floor, check_sources, need_package
from dpcl.io import Progress, Report, no_report


def bulk(
    recordings: Annotated[
        list[Path],
        typer.Argument(
            help="Audio files; folders stand for all recordings in them.", metavar="REC"
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder of the outputs; keeps the subfolders of the inputs."
        ),
    ] = OUT,
    sources: Sources = None,
    max_sources: MaxSources = 4,
    model: ModelName = "default",
    file_format: FileFormat = "wav",
    spatial: Spatial = True,
    floor: Floor = FLOOR_DB,
    voice: KnownVoices = None,
    only: Only = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of a Ray cluster, or auto; this machine if omitted.", show_default=False
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Separate many recordings, one per processor core of a Ray cluster or of this machine.

    The outcome of each recording is recorded in OUT/bulk.csv. Run the same command again to
    resume. All machines must have dpcl and access to the same files. A recording that cannot be
    separated does not stop the others.

    Example: **dpcl bulk recordings --out separated --address auto**
    """
    need_package("bulk", "many machines need", "ray")

    from dpcl.apps.files import read_voices

    voices = tuple((name, str(file.resolve())) for name, file in read_voices(voice or []).items())
    order = Order(model, sources, max_sources, file_format.lower(), spatial, floor, voices, only)
    with progress("separating") as move:
        failed, total = separate_on_cluster(recordings, out, order, address, force, move)
    if failed:
        raise InputError(
            f"{failed} of {total} recordings could not be separated;"
            f" see {out / JOURNAL} for the reasons"
        )


JOURNAL = "bulk.csv"  # file of the journal in the folder of the outputs
COLUMNS = ("recording", "order", "sources", "seconds", "took", "told")  # columns of the journal
AHEAD = 2  # number of recordings submitted per core


@dataclass(frozen=True)
class Order:
    """Settings of the separation of each recording; see `separate_files`.

    Attributes:
        model: separator, as `dpcl.separate` takes it.
        sources: number of sources; None to estimate it.
        most: upper limit for the estimated number of sources.
        file_format: format of the outputs.
        spatial: refine the masks by differences of level and phase between channels.
        floor: level in dB to which inactive talkers are attenuated.
        voices: names of known voices, and absolute names of their recordings.
        only: name of the only source to write, one of `voices`.
    """

    model: str
    sources: int | None
    most: int
    file_format: str
    spatial: bool = True
    floor: float = FLOOR_DB
    voices: tuple[tuple[str, str], ...] = ()
    only: str | None = None

    def __str__(self) -> str:
        """Return the text of the journal's column `order`."""
        number = f"up to {self.most}" if self.sources is None else str(self.sources)
        parts = [self.model, f"{number} sources", self.file_format]
        parts += [] if self.spatial else ["no spatial stage"]
        parts += [] if self.floor == FLOOR_DB else [f"floor {self.floor:g} dB"]
        parts += [f"voice {name}" for name, _ in self.voices]
        parts += [f"only {self.only}"] if self.only else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Outcome:
    """Outcome of one recording: a line of the journal.

    Attributes:
        recording: absolute name of the file.
        sources: number of sources; 0 without any talker, or if the recording failed.
        seconds: duration of the recording, s; 0 if it failed.
        took: time of the separation, s.
        told: error message or warnings; empty if none. <!-- word -->
    """

    recording: str
    sources: int
    seconds: float
    took: float
    told: str


def separate_on_cluster(
    given: Sequence[Path],
    out: Path,
    order: Order,
    address: str | None = None,
    force: bool = False,
    report: Report = no_report,
) -> tuple[int, int]:
    """Write the sources of all recordings, and a journal of the outcomes.

    Recordings that the journal lists as separated with the same settings are skipped, unless
    `force` is True.

    Args:
        given: files, and folders that stand for all recordings in them. Outputs keep the
            subfolders. Files below `out` are not recordings.
        out: folder of the outputs and of the journal.
        order: settings of the separation.
        address: address of a Ray cluster; "auto" for the running one; None for this machine.
        force: separate all recordings again, and replace outputs that exist.
        report: called after each recording.

    Returns:
        Number of recordings that could not be separated, and number of all recordings.

    Raises:
        InputError: An argument is wrong (found before anything is written), or the cluster is not
            available.
    """
    import ray

    from dpcl.apps.files import check_known
    from dpcl.catalogue import SCHEME, shipped_models, weights_path
    from dpcl.mixtures.index import Omitted
    from dpcl.separators.registry import build, find_method

    check_sources(order.sources)
    check_sources(order.most)
    check_floor(order.floor)
    check_known(dict(order.voices), order.only)
    build(order.model)
    weights = find_method(order.model).weights
    shipped = (None, *(weights_path(model.name) for model in shipped_models()))  # on any machine
    anywhere = weights in shipped or order.model.startswith(SCHEME)
    model = order.model if anywhere else str(Path(order.model).resolve())
    omitted = Omitted()
    folders = find_recordings(given, out, omitted)
    journal = out / JOURNAL
    begun = journal.is_file()  # outputs of an earlier run may be replaced, other files not
    done = set() if force else _done(journal, str(order))
    remaining = [recording for recording in folders if recording not in done]
    report(Progress(len(folders) - len(remaining), len(folders), "recordings"))
    failed = 0
    with _cluster(address) as cores, _open_journal(journal, restart=force) as file:
        list_omitted(omitted, out)
        writer = csv.writer(file)
        one = ray.remote(num_cpus=1)(separate_one)
        tasks = (
            (name, one.remote(name, str(folders[name].resolve()), model, order, force, begun))
            for name in remaining
        )
        for number, outcome in enumerate(_as_completed(tasks, AHEAD * cores), 1):
            failed += not (outcome.sources or outcome.seconds)
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
            done_now = len(folders) - len(remaining) + number
            report(Progress(done_now, len(folders), "recordings"))
    return failed, len(folders)


def separate_one(
    recording: str, folder: str, model: str, order: Order, force: bool, resume: bool
) -> Outcome:
    """Separate one recording in a process of the cluster.

    Args:
        recording: absolute name of the file.
        folder: absolute name of the folder of its outputs.
        model: shipped model, or absolute name of a weights file.
        order: settings of the separation.
        force: replace outputs that exist.
        resume: replace outputs that dpcl wrote.

    Returns:
        The outcome; any error becomes its message, so that one recording stops no other.
    """
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
            resume=resume,
            spatial=order.spatial,
            floor=order.floor,
            voices={name: Path(file) for name, file in order.voices},
            only=order.only,
        )
    except InputError as error:
        return Outcome(recording, 0, 0.0, 0.0, str(error))
    except OSError as error:  # a full disk, or a network share that is not available
        return Outcome(recording, 0, 0.0, 0.0, f"{error.filename or recording}: {error.strerror}")
    except Exception as error:
        return _defect(recording, error)
    (result,) = finished
    warnings = " ".join(f"{warning}." for warning in result.warnings)
    return Outcome(recording, len(result.sources), result.seconds, result.took, warnings)


def _defect(recording: str, error: Exception) -> Outcome:
    """Return the outcome of a recording at which the program or its process failed."""
    first, *_ = f"{error}".strip().splitlines() or [""]
    problem = f"{type(error).__name__}: {first}".rstrip(": ")[:200]
    return Outcome(recording, 0, 0.0, 0.0, f"{recording}: failed ({problem}); report this defect")


def _done(journal: Path, order: str) -> set[str]:
    """Return the recordings that the journal lists as separated with these settings."""
    if not journal.is_file():
        return set()
    text = journal.read_text(encoding="utf-8", errors="surrogateescape")
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    if not lines:  # of a run that was killed as it began
        return set()
    reader = csv.DictReader(lines)
    try:
        names, rows = tuple(reader.fieldnames or ()), [*reader]
    except csv.Error as error:  # such as a field of megabytes
        raise InputError(f"{journal}: is damaged ({error}); remove it to start again") from error
    if names != COLUMNS:
        raise InputError(f"{journal}: is not a journal of `dpcl bulk`; give another --out")
    # A damaged line counts as not separated.
    whole = [row for row in rows if row["order"] == order and f"{row['sources']}".isdecimal()]
    # Without sources, a recording failed (0.00 s) or holds no talker.
    return {
        row["recording"] for row in whole if int(row["sources"]) or row["seconds"] != f"{0:.2f}"
    }


def _open_journal(journal: Path, restart: bool) -> TextIO:
    """Open the journal to append after its last complete line, or restart it with its head."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    file = journal.open(
        "w" if restart else "a", newline="", encoding="utf-8", errors="surrogateescape"
    )
    written = journal.read_bytes()
    whole = written.rfind(b"\n") + 1
    file.truncate(whole)  # drops an incomplete last line
    if not whole:
        csv.writer(file).writerow(COLUMNS)
        file.flush()
    return file


@contextmanager
def _cluster(address: str | None) -> Iterator[int]:
    """Connect to Ray, and yield the number of cores."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    end = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            ray.init("local", include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, ValueError) as error:
        raise InputError(
            f"there is no Ray cluster at {address} ({str(error).splitlines()[0]}); start one with"
            " `ray start --head`, or omit --address"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)  # Ray's handler prints addresses of its code
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield max(1, int(resources.get("CPU", 1)))
    finally:
        with suppress(Exception):
            ray.shutdown()


def _as_completed(tasks: Iterator[tuple[str, Any]], ahead: int) -> Iterator[Outcome]:
    """Yield outcomes in the order of completion, with `ahead` tasks submitted at a time.

    A process that was killed, as for its memory, is the outcome of its recording.
    """
    import ray

    names = dict((task, name) for name, task in islice(tasks, ahead))
    while names:
        (ready,), _ = ray.wait([*names], num_returns=1)
        name = names.pop(ready)
        names.update((task, other) for other, task in islice(tasks, 1))
        try:
            outcome = ray.get(ready)
        except Exception as error:  # of the process, or of the cluster
            outcome = _defect(name, error)
        yield outcome
