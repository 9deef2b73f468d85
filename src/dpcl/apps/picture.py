"""From a recording to a page of pictures: read, separate, draw, write aside, move into place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dpcl.apps.files import folder_aside, refuse_existing
from dpcl.errors import InputError
from dpcl.separators.limits import check_recording, check_sources
from dpcl.signal.reader import AudioReader

if TYPE_CHECKING:
    from dpcl.evaluation.page import Picture
    from dpcl.separators.deep_clustering import DeepClustering

SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".webp", ".tif")
LONGEST = 9.5  # s; the network hears 10 s at once, and a page holds no more
_BLOCK = 1 << 18  # samples


@dataclass(frozen=True)
class Shown:
    """The picture that was written, and which part of the recording it shows."""

    path: Path
    start: float  # s
    end: float  # s
    seconds: float  # of the whole recording
    cut_off: bool  # whether that is less than its file promises


def show_file(
    recording: Path,
    out: Path,
    model: str = "default",
    sources: int | None = None,
    start: float = 0.0,
    seconds: float = 8.0,
    force: bool = False,
) -> Shown:
    """Separate a part of a recording, and write a page about it.

    out: a file whose suffix chooses the format, or a folder for STEM.png. What is shown is the
    separation of the part alone, as if the recording had been no longer.
    Raises InputError for a recording that cannot be read, a part that it does not have, an output
    that exists (unless `force`) or cannot be written, what `separate` refuses, and where
    matplotlib is not installed.
    """
    path = _output(recording, out, force)
    check_sources(sources)
    if not 0 <= start < math.inf:
        raise InputError(f"cannot start at {start} s; give 0 or more")
    if not 0 < seconds <= LONGEST:
        raise InputError(f"cannot show {seconds} s; give more than 0 and up to {LONGEST}")
    if find_spec("matplotlib") is None:
        raise InputError("pictures need matplotlib; install it with `pip install dpcl[show]`")
    with AudioReader(recording) as reader:
        try:
            check_recording((reader.channels, reader.frames or 1), reader.sample_rate)
        except InputError as error:
            raise InputError(f"{recording}: {error}") from error
        part, first, whole = _read_part(reader, start, seconds)
        rate = reader.sample_rate
    # torch and matplotlib are imported here: a mistyped name is answered at once.
    import matplotlib

    from dpcl.evaluation.figures import STYLE
    from dpcl.evaluation.page import draw_page
    from dpcl.separators.load import load_separator

    picture = picture_of(part, rate, load_separator(model), sources, first / rate)
    with matplotlib.rc_context(STYLE), folder_aside(path.parent) as folder:
        draw_page(picture).savefig(folder / path.name)
        (folder / path.name).replace(path)
    end = (first + part.shape[1]) / rate
    return Shown(path, first / rate, end, whole / rate, reader.cut_off)


def picture_of(
    samples: NDArray[np.float32],
    sample_rate: int,
    separator: DeepClustering,
    sources: int | None = None,
    start: float = 0.0,
) -> Picture:
    """What there is to draw of samples (channels, T) that begin at `start` (s).

    Magnitudes are the root mean squares over the channels.
    """
    import torch
    from torch.nn import functional

    from dpcl.evaluation.figures import Grid
    from dpcl.evaluation.page import Embedded, Picture
    from dpcl.signal.band import Band
    from dpcl.streaming.separate import separate_recording

    separation = separate_recording(samples, sample_rate, separator, sources)
    masks, vectors = separation.masks, separation.embeddings
    assert masks is not None
    stft = Band(sample_rate, separator.sample_rate, separator.stft).stft
    spectra = stft(torch.cat([torch.from_numpy(samples)[None], separation.sources])).abs()
    spectra = spectra.square().mean(1).sqrt()  # (1 + C, L, F), the mixture first
    grid = Grid(stft.hop / sample_rate, sample_rate / stft.window, start)
    embedded = None
    if vectors is not None:
        # The network hears the first bins of the recording, or more than a slow one has.
        bins = vectors.shape[1]
        missing = (0, max(0, bins - spectra.shape[-1]))
        magnitude = functional.pad(spectra[0, :, :bins], missing)
        labels = functional.pad(masks.argmax(0)[:, :bins], missing)
        embedded = Embedded(vectors, magnitude, labels, grid)
    seconds = samples.shape[1] / sample_rate
    return Picture(spectra[0], spectra[1:], masks, grid, seconds, embedded)


def _read_part(
    reader: AudioReader, start: float, seconds: float
) -> tuple[NDArray[np.float32], int, int]:
    """Samples (channels, n) from `start` for `seconds`, the first's number, and how many in all.

    Raises InputError where the recording ends before.
    """
    rate = reader.sample_rate
    whole, kept = 0, []
    first = round(start * rate)
    last = first + max(1, round(seconds * rate))
    for block in reader.blocks(_BLOCK):
        kept.append(block[:, max(0, first - whole) : max(0, last - whole)])
        whole += block.shape[1]
    if first >= whole:
        raise InputError(
            f"{reader.name} lasts {whole / rate:.2f} s: nothing starts at {start:g} s; give less"
        )
    return np.concatenate(kept, axis=1), first, whole


def _output(recording: Path, out: Path, force: bool) -> Path:
    """Where the picture goes; raises InputError where it must not or cannot."""
    path = out / f"{recording.stem}.png" if out.is_dir() or not out.suffix else out
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path}: no picture is written as {path.suffix!r}; end its name in "
            + ", ".join(SUFFIXES)
        )
    refuse_existing(path, force)
    if path.is_dir():
        raise InputError(f"{path}: is a folder and stays; give another --out")
    nearest = next(folder for folder in path.parents if folder.exists())
    if not nearest.is_dir():
        raise InputError(f"{nearest}: is a file, not a folder; give another --out")
    return path
