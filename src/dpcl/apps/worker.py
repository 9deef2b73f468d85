"""Work of the service: the order of a client, and the process that separates its recording."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dpcl.apps.process import heavy_imports
from dpcl.errors import FLOOR_DB, InputError

COLUMNS = 2000  # columns of a waveform
Work = Callable[["Order", Path, Callable[[float], None]], dict[str, Any]]


@dataclass(frozen=True)
class Order:
    """Order of a client: a recording and how to separate it.

    Attributes:
        name: name of the recording, without folders.
        sources: number of sources; None to estimate it.
        model: separator, as `dpcl.separate` takes it.
        seconds: longest recording that is accepted, s.
        spatial, floor: as `dpcl.separate` takes them.
        voices: names of known voices, and their files below the folder of the job.
        only: name of the only source to write, one of `voices`.
    """

    name: str
    sources: int | None = None
    model: str = "default"
    seconds: float = 3600.0
    spatial: bool = True
    floor: float = FLOOR_DB
    voices: tuple[tuple[str, str], ...] = ()
    only: str | None = None


def separate_job(order: Order, folder: Path, report: Callable[[float], None]) -> dict[str, Any]:
    """Separate the recording of a job; runs in a worker process.

    Args:
        order: the order of the client.
        folder: folder of the job.
        report: called with the share of the work that is done.

    Returns:
        Files of the sounds and of the documents of the timeline, names of the sources, segments of
        the timeline, peaks of the waveforms, seconds, sample rate and warnings.

    Raises:
        InputError: The recording cannot be read, or is longer than allowed.
    """
    from dpcl.apps.files import Separated, separate_files
    from dpcl.signal.reader import AudioReader

    path = folder / "recording" / order.name
    with AudioReader(path) as reader:
        seconds = (reader.frames or 0) / reader.sample_rate
    if seconds > order.seconds:
        raise InputError(
            f"{order.name}: lasts {seconds:.0f} s, and {order.seconds:.0f} s is the limit; cut it"
        )
    finished: list[Separated] = []
    separate_files(
        [path],
        folder / "outputs",
        order.model,
        order.sources,
        done=finished.append,
        report=lambda moved: report(moved.done / moved.total),
        timeline=True,
        spatial=order.spatial,
        floor=order.floor,
        voices={name: folder / file for name, file in order.voices},
        only=order.only,
    )
    (done,) = finished
    sounds = [*done.sources, *([done.background] if done.background else [])]
    documents = [output for output in done.outputs if output not in sounds]
    (timeline,) = (path for path in documents if path.suffix == ".json")
    return {
        "files": [sound.name for sound in sounds],
        "names": [*done.names, *(["background"] if done.background else [])],
        "documents": [path.name for path in documents],
        "timeline": json.loads(timeline.read_text(encoding="utf-8"))["segments"],
        "peaks": peaks(sounds),
        "seconds": done.seconds,
        "sample_rate": done.sample_rate,
        "took": done.took,
        "warnings": [sentence_for_clients(text, folder) for text in done.warnings],
    }


def peaks(paths: Sequence[Path]) -> list[list[int]]:
    """Return the largest magnitude of each column of waveforms, 255 for the largest of all."""
    import numpy as np

    from dpcl.signal.reader import AudioReader

    found: list[list[float]] = []
    for path in paths:
        with AudioReader(path) as reader:
            size = max(1, -(-(reader.frames or 1) // COLUMNS))
            found.append(
                [
                    float(np.abs(block[:, k : k + size]).max(initial=0))
                    for block in reader.blocks(64 * size)
                    for k in range(0, block.shape[1], size)
                ]
            )
    top = max((max(track, default=0) for track in found), default=0) or 1
    return [[round(255 * peak / top) for peak in track] for track in found]


def run_worker(connection: Connection, work: Work) -> None:
    """Run as the process of a worker, which only its server ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    with heavy_imports():  # before the first order
        import dpcl.recordings.separate
        import dpcl.separators.registry  # noqa: F401
    follow_orders(connection, work)


def follow_orders(connection: Connection, work: Work) -> None:
    """Run jobs that arrive through a connection, until it is closed."""
    while True:
        try:
            order, folder = connection.recv()
        except EOFError:
            return
        try:
            result = work(order, folder, lambda share: connection.send(("share", share)))
            connection.send(("done", result))
        except BrokenPipeError:  # the server stopped the job
            return
        except InputError as error:
            connection.send(("failed", sentence_for_clients(str(error), folder)))
        except Exception as error:
            connection.send(
                ("failed", f"the separation failed ({type(error).__name__}); try again")
            )


def sentence_for_clients(text: str, folder: Path | None = None) -> str:
    """Return the sentence of an error without folders of the server and options of commands.

    Args:
        text: the sentence of the command line.
        folder: folder of the job.

    Example:
        >>> sentence_for_clients("/tmp/x/recording/a.wav: is empty", Path("/tmp/x"))
        'a.wav: is empty'
        >>> sentence_for_clients("--voice Ann: the name occurs twice")
        'voice Ann: the name occurs twice'
    """
    if folder is not None:
        own = re.escape(f"{folder}{os.sep}")
        text = re.sub(rf"{own}(recording|voice\d+){re.escape(os.sep)}", "", text)
    return re.sub(r"--(voice|only|model)\b", r"\1", text)
