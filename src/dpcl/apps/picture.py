"""From a recording to a page of pictures: read, separate, draw, write aside, move into place."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dpcl.apps.files import folder_aside, refuse_existing
from dpcl.errors import InputError
from dpcl.separators.limits import check_recording, check_sources
from dpcl.signal.audio import read_audio

if TYPE_CHECKING:
    from dpcl.evaluation.page import Picture
    from dpcl.separators.separation import MaskSeparator

SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".webp", ".tif")
LONGEST = 120.0  # s; more would be too dense to read, and the embeddings take gigabytes


@dataclass(frozen=True)
class Shown:
    """The picture that was written, and which part of the recording it shows."""

    path: Path
    start: float  # s
    end: float  # s
    seconds: float  # of the whole recording


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
    if not 0 < seconds <= LONGEST:
        raise InputError(f"cannot show {seconds} seconds; give more than 0 and up to {LONGEST:.0f}")
    if find_spec("matplotlib") is None:
        raise InputError("pictures need matplotlib; install it with `pip install dpcl[show]`")
    samples, rate = read_audio(recording)
    try:
        check_recording(samples.shape, rate)
    except InputError as error:
        raise InputError(f"{recording}: {error}") from error
    whole = samples.shape[1] / rate
    if not 0 <= start * rate <= samples.shape[1] - 1:
        raise InputError(f"{recording} lasts {whole:.2f} s: nothing starts at {start} s; give less")
    first = round(start * rate)
    part = samples[:, first : first + max(1, round(seconds * rate))].copy()
    # torch and matplotlib are imported here: a mistyped name is answered at once.
    import matplotlib

    from dpcl.evaluation.figures import STYLE
    from dpcl.evaluation.page import draw_page
    from dpcl.separators.load import load_separator

    del samples
    picture = picture_of(part, rate, load_separator(model), sources, first / rate)
    with matplotlib.rc_context(STYLE), folder_aside(path.parent) as folder:
        draw_page(picture).savefig(folder / path.name)
        (folder / path.name).replace(path)
    end = (first + part.shape[1]) / rate
    return Shown(path, first / rate, end, whole)


def picture_of(
    samples: NDArray[np.float32],
    sample_rate: int,
    separator: MaskSeparator,
    sources: int | None = None,
    start: float = 0.0,
) -> Picture:
    """What there is to draw of samples (channels, T) that begin at `start` (s).

    Magnitudes are the root mean squares over the channels. On the grid of the embeddings, which
    is the network's, the recording's bins are those that lie nearest.
    """
    import torch

    from dpcl.evaluation.figures import Grid
    from dpcl.evaluation.page import Embedded, Picture
    from dpcl.separators.recording import recording_stft, separate_recording

    mono = samples[0] if len(samples) == 1 else samples
    separation = separate_recording(mono, sample_rate, separator, sources)
    masks, vectors = separation.masks, separation.embeddings
    if masks is None:
        raise ValueError("the separator gave no masks to show")
    stft = recording_stft(separator, sample_rate)
    estimates = separation.sources.reshape(len(masks), *samples.shape)  # (C, channels, T)
    spectra = stft(torch.cat([torch.from_numpy(samples)[None], estimates])).abs()
    spectra = spectra.square().mean(1).sqrt()  # (1 + C, L, F)
    grid = Grid(stft.hop / sample_rate, sample_rate / stft.window, start)
    seconds = samples.shape[1] / sample_rate
    if vectors is None:
        return Picture(spectra[0], spectra[1:], masks, grid, seconds)
    own = separator.stft
    theirs = Grid(own.hop / separator.sample_rate, separator.sample_rate / own.window, start)
    frames = torch.arange(vectors.shape[0]) * (theirs.hop / grid.hop)
    bins = torch.arange(vectors.shape[1]) * (theirs.step / grid.step)
    frames = frames.round().long().clamp(max=spectra.shape[1] - 1)
    nearest = bins.round().long().clamp(max=spectra.shape[2] - 1)
    magnitude = spectra[0][frames][:, nearest]
    magnitude[:, bins > spectra.shape[2] - 0.5] = 0  # the recording ends below
    labels = masks.argmax(0)[frames][:, nearest]
    return Picture(
        spectra[0], spectra[1:], masks, grid, seconds, Embedded(vectors, magnitude, labels, theirs)
    )


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
