"""Content of a page about a recording of any length: averaged magnitudes, masks, embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpcl.errors import InputError
from dpcl.evaluation.figures import Grid, loudness
from dpcl.evaluation.page import Embedded, Picture, busiest
from dpcl.io import Progress, Report, no_report
from dpcl.recordings.recording import InMemory, Recording, scan
from dpcl.recordings.separate import RecordingSeparation
from dpcl.separators.base import Separator
from dpcl.signal.stft import BlockSTFT

COLUMNS = 1600  # largest number of frames in a picture; more are averaged in groups
EMBEDDED = 8.0  # length of the part whose embeddings are shown, s


def picture_of(
    recording: Recording,
    separator: Separator,
    sources: int | None = None,
    start: float = 0.0,
    seconds: float | None = None,
    report: Report = no_report,
) -> Picture:
    """Separate a recording, and return the content of a page about all of it or about a part.

    The whole recording is separated in every case. Magnitudes are root mean squares over the
    channels and over the frames of a column. Embeddings are those of the 8 s in which the sources
    share the most time, encoded alone; their colours are the sources of the whole recording.

    Args:
        recording: samples that can be read more than once.
        separator: any separator.
        sources: number of sources; None to estimate it.
        start: start of the part, s.
        seconds: length of the part, s; None for the rest of the recording.
        report: called with the seconds of audio done and in all.

    Returns:
        The content of the page.

    Raises:
        InputError: The recording ends before `start`, or holds no samples.
    """
    rate, scanned = recording.sample_rate, scan(recording)
    length = scanned.samples / rate
    if start >= length:
        name = getattr(recording, "name", "the recording")
        raise InputError(
            f"{name} lasts {length:.2f} s: nothing starts at {start} s; give a smaller --start"
        )
    seconds = length - start if seconds is None else min(seconds, length - start)

    def report_seconds(share: Progress) -> None:
        """Report the share of the work as seconds of audio."""
        report(Progress(share.done / share.total * length, length, "s of audio"))

    with RecordingSeparation(
        recording, separator, sources, report=report_seconds, scanned=scanned
    ) as separation:
        stft = separation.band.stft
        hop = stft.hop / rate
        first = min(math.ceil(start / hop), separation.windows.frames - 1)
        count = min(math.ceil(seconds / hop) + 1, separation.windows.frames - first)
        planes = _planes(separation, first, count)
    grid = Grid(hop * planes.group, rate / stft.window, start)
    embedded = _embedded(recording, separator, planes, first * stft.hop, grid)
    return Picture(
        planes.magnitudes[0], planes.magnitudes[1:], planes.masks, grid, seconds, embedded
    )


@dataclass(frozen=True)
class _Planes:
    """Separation of a part of a recording, in columns of `group` frames.

    Attributes:
        magnitudes: of the mixture and its sources (1 + C, columns, F).
        masks: (C, columns, F).
        labels: source with the largest mask (frames, F'), uint8, in the band of the separator.
        group: number of frames of a column.
    """

    magnitudes: Tensor
    masks: Tensor
    labels: Tensor
    group: int


def _planes(separation: RecordingSeparation, first: int, count: int) -> _Planes:
    """Run a separation, and average the frames from `first` on in columns."""
    sources = separation.link().num_sources
    stft = separation.band.stft
    bins = min(stft.bins, separation.separator.stft.bins)
    group = -(-count // COLUMNS)
    columns = -(-count // group)
    magnitudes = torch.zeros(1 + sources, columns, stft.bins)
    masks = torch.zeros(sources, columns, stft.bins)
    labels = torch.zeros(count, bins, dtype=torch.uint8)
    analysis, spectrum_at, mask_at = BlockSTFT(stft), 0, 0

    def inside(block: Tensor, at: int) -> tuple[Tensor, slice]:
        """Return the frames of a block (..., l, F) within the part, and where they are there."""
        length = block.shape[-2]
        low = min(max(first - at, 0), length)
        high = max(min(first + count - at, length), low)
        if low == high:
            return block[..., :0, :], slice(0, 0)
        return block[..., low:high, :], slice(at + low - first, at + high - first)

    def average(columns_of: Tensor, block: Tensor, frames: slice) -> None:
        """Add frames (..., l, F) to their columns."""
        index = torch.arange(frames.start, frames.stop) // group
        columns_of.index_add_(-2, index, block)

    for piece in separation.pieces():
        if len(piece.sources) and piece.sources.shape[-1]:
            mixture = piece.sources.sum(0)
            mixture = mixture if piece.background is None else mixture + piece.background
            power = _power(analysis.push(torch.cat([mixture[None], piece.sources])))
            block, frames = inside(power, spectrum_at)
            average(magnitudes, block, frames)
            spectrum_at += power.shape[-2]
        block, frames = inside(piece.masks, mask_at)
        if block.shape[-2]:
            average(masks, block, frames)
            labels[frames] = block[..., :bins].argmax(0).to(torch.uint8)
        mask_at += piece.masks.shape[1]
    power = _power(analysis.finish())
    block, frames = inside(power, spectrum_at)
    average(magnitudes, block, frames)
    sizes = torch.arange(count).div(group, rounding_mode="floor").bincount(minlength=columns)
    sizes = sizes[:, None].float()
    return _Planes((magnitudes / sizes).sqrt(), masks / sizes, labels, group)


def _power(spectra: Tensor) -> Tensor:
    """Return the mean power (C, l, F) over the channels of spectra (C, channels, l, F)."""
    return spectra.abs().square().mean(1)


def _embedded(
    recording: Recording, separator: Separator, planes: _Planes, first: int, grid: Grid
) -> Embedded | None:
    """Return the embeddings of the busiest part of a picture; None for a separator without any.

    first: sample of the recording at which the picture begins.
    """
    rate = recording.sample_rate
    group, magnitude = planes.group, planes.magnitudes[0]
    owners = planes.masks.argmax(0)
    columns = max(1, round(EMBEDDED / grid.hop))
    part = busiest(owners, loudness(magnitude) > 0, columns)
    hop = round(grid.hop * rate / group)  # samples
    begin, frames = part.start * group, (part.stop - part.start) * group
    frames = max(1, min(frames, round(EMBEDDED * rate / hop)))
    samples = _read(recording, first + begin * hop, first + (begin + frames) * hop)
    with RecordingSeparation(InMemory(samples, rate), separator, len(planes.masks)) as separation:
        separation.analyse()
        vectors = separation.embeddings()
        if vectors is None:
            return None
        stft = separation.band.stft
        spectrum = stft(torch.from_numpy(samples)).abs().square().mean(0).sqrt()
    bins = min(vectors.shape[1], stft.bins, planes.labels.shape[1])
    labels = planes.labels[begin : begin + len(vectors), :bins].long()
    length = min(len(vectors), len(labels), len(spectrum))
    own = Grid(hop / rate, grid.step, grid.start + begin * hop / rate)
    return Embedded(vectors[:length, :bins], spectrum[:length, :bins], labels[:length], own)


def _read(recording: Recording, first: int, last: int) -> NDArray[np.float32]:
    """Read some samples (channels, n) of a recording."""
    parts, read = [], 0
    for block in recording.blocks(1 << 18):
        parts.append(block[:, max(0, first - read) : max(0, last - read)])
        read += block.shape[1]
        if read >= last:
            break
    return np.ascontiguousarray(np.concatenate(parts, axis=1))
