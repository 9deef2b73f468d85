"""Driver: runs any recording through any separator, in constant memory.

    analyse   every window, in threads, once
    link      once: number of sources, and their order in every window
    masks     every window, in threads; cross-faded, applied to the recording's own spectrum

Loud sound below 70 Hz (DC, hum, rumble) is split off first: no separator gets it, no mask modulates
it, and all sources (or the background) share it.

Of several channels, those with speech are averaged; their power where their mean would cancel.
Differences of level and phase refine the masks (dpcl.separators.spatial). A call with one party in
each channel is separated by its channels.

A separator works on one channel at its own rate. Its masks are applied to the spectrum of every
channel at the recording's rate. So nothing is resampled, the stereo image is kept, and the sources
(and the background) sum to the recording. Files: dpcl.apps.files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dpcl.errors import (
    FLOOR_DB,
    MOST_CHANNELS,
    MOST_SOURCES,
    InputError,
    check_floor,
    check_mixture,
    check_recording,
    check_sources,
    check_voices,
    sources_or_alias,
)
from dpcl.io import Progress, Report, as_report, no_report
from dpcl.recordings.cache import WindowCache, Workers
from dpcl.recordings.recording import InMemory, Recording, Scan, as_floats, blocks, scan
from dpcl.recordings.timeline import LevelMeter, estimate_timeline
from dpcl.separators.base import Link, Separation, Separator, Timeline
from dpcl.separators.registry import build
from dpcl.separators.spatial import Spatial
from dpcl.signal.band import Band, bins_below, split_low
from dpcl.signal.channels import party_spectra, power_mean
from dpcl.signal.features import first_bin
from dpcl.signal.reader import AudioReader
from dpcl.signal.stft import BlockISTFT, BlockSTFT, Windows

ANALYSED, LINKED = 0.5, 0.9  # approximate shares of the time after these two steps
VALUES = 1 << 22  # values of the masked spectra in one block
LEAST_SPEECH = 0.5  # s of one talker in the recording of a known voice
MOST_DIRECTIONS = 8  # channels whose differences count; others get the masks only


@dataclass(frozen=True)
class Piece:
    """Next piece of a separated recording.

    Attributes:
        sources: (C, channels, n); with the background they sum to the recording.
        background: (channels, n); None for a separator without one.
        masks: (C, l, F) of the recording's STFT, for the l frames that were masked last.
    """

    sources: Tensor
    background: Tensor | None
    masks: Tensor


class RecordingSeparation:
    """Separation of one recording; a context manager, because it may hold a temporary file.

    Args:
        recording: samples that can be read more than once.
        separator: any separator.
        num_sources: number of sources; None to estimate it.
        most: upper limit of the estimated number.
        report: function called with the share of the work that is done, of 1.
        scanned: result of `scan`; None to scan the recording.
        threads: number of threads; None for the number that torch uses.
        background: False shares the background among the sources.
        timeline: measure who speaks when, for `timeline`.
        spatial: refine the masks by the differences of several channels.
        floor: level in dB to which inactive sources of several windows are attenuated.

    Raises:
        InputError: The recording is empty or cannot be read, or the floor is out of range.
    """

    def __init__(
        self,
        recording: Recording,
        separator: Separator,
        num_sources: int | None = None,
        most: int = MOST_SOURCES,
        report: Report = no_report,
        scanned: Scan | None = None,
        threads: int | None = None,
        background: bool = True,
        timeline: bool = False,
        spatial: bool = True,
        floor: float = FLOOR_DB,
    ) -> None:
        check_floor(floor)
        self.recording, self.wanted, self.most = recording, num_sources, most
        self.background, self.floor = background, floor
        self.scan = scanned or scan(recording)
        if not separator.low_apart:
            self.scan = replace(self.scan, rumble=False)
        # All values are scaled near 1, since squares of very large or very small samples exceed
        # the range of float32. A power of two is exact.
        self._exponent = math.frexp(self.scan.peak)[1]
        self._scaled = replace(self.scan, peak=math.ldexp(self.scan.peak, -self._exponent))
        self.band = Band(recording.sample_rate, separator.sample_rate, separator.stft)
        hops = separator.sample_rate / separator.stft.hop  # frames per second
        frames = self.band.stft.frames(self.scan.samples)
        overlap = round(separator.overlap_seconds * hops)
        whole = math.isinf(separator.window_seconds)
        longest = max(frames, overlap + 1) if whole else round(separator.window_seconds * hops)
        self.windows = Windows(frames, longest, overlap)
        self._report = report
        self._workers = Workers(threads)
        self._cache = WindowCache(self.windows, self._workers)
        self._link: Link | None = None
        channels = self.scan.channels  # one party in each, if that many sources are wanted
        apart = channels is not None and channels.apart and len(channels.speech) <= most
        apart = apart and not separator.knows_voices
        fits = apart and channels is not None and num_sources in (None, len(channels.speech))
        self._parties = channels if fits else None
        if fits:  # each party keeps the rumble of its channel
            self.scan = replace(self.scan, rumble=False)
        self._array: tuple[int, ...] = ()  # channels whose differences refine the masks
        if spatial and channels is not None and channels.differ and not fits:
            step = -(-len(channels.speech) // MOST_DIRECTIONS)
            self._array = channels.speech[::step]
            weights = None if channels.cancels else channels.weights(self._array)
            separator = Spatial(separator, weights)
        self.separator = separator.prepared(self.windows.count)
        stft, rate = self.band.stft, recording.sample_rate
        first = first_bin(rate, stft.window)
        self._meter = LevelMeter(stft.hop / rate, first) if timeline else None

    def close(self) -> None:
        """End the threads and remove the cache."""
        self._workers.close()
        self._cache.close()

    def __enter__(self) -> RecordingSeparation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @torch.no_grad()
    def analyse(self) -> None:
        """Step 1: analyse every window and cache the result."""
        spectra = self._spectra()
        most = max(1, self.separator.windows_at_once)
        # Every thread gets the same number of windows, so that none waits at the end.
        rounds = -(-self.windows.count // (most * self._workers.number))
        batch = -(-self.windows.count // (rounds * self._workers.number))
        for analysed in self._workers.map(self._analyse, self.windows.gather(spectra, batch)):
            self._cache.keep(analysed)
            self._report(Progress(ANALYSED * len(self._cache) / self.windows.count, 1))

    @torch.no_grad()
    def link(self) -> Link:
        """Step 2: link the windows; the first call does the work.

        Returns:
            The link, with the number of sources.
        """
        if self._link is None and self._parties is not None:
            self._link = Link(len(self._parties.speech))
        if self._link is None:
            if not len(self._cache):
                self.analyse()
            link = self.separator.link(self._cache, self.wanted, self.most)
            if not link.num_sources and not self.background:  # one source gets all sound
                link = self.separator.link(self._cache, 1, self.most)
            self._link = replace(link, floor=self.floor)
            self._report(Progress(LINKED, 1))
        return self._link

    def pieces(self) -> Iterator[Piece]:
        """Step 3: yield the separated recording from its beginning, some seconds at a time.

        Yields:
            Pieces, in order.
        """
        link = self.link()
        stft = self.band.stft
        analysis, synthesis = BlockSTFT(stft), BlockISTFT(stft, self.scan.samples)
        low = _Queue()  # the part below 70 Hz, until the samples above it are separated
        rows = link.num_sources + link.background

        def apply(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
            masks, spectrum = pair
            # All channels share the masks, which keeps the stereo image.
            wide = self.band.extend(masks, (spectrum / self._scaled.peak).abs().mean(0))
            if link.background and not self.background:
                wide = _without_background(wide)
            meter = self._meter
            powers = meter.measure(wide[: link.num_sources], spectrum) if meter else None
            return wide, synthesis.frames(wide[:, None] * spectrum), powers

        def divide(spectrum: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            """Divide a recording with one party in each channel."""
            assert self._parties is not None
            window = stft.window / self.recording.sample_rate
            images = party_spectra(spectrum, self._parties, window)  # (C, channels, l, F)
            power = images.abs().square().sum(1) + torch.finfo(torch.float32).tiny
            wide = power / power.sum(0)
            powers = self._meter.measure(wide, spectrum) if self._meter else None
            return wide, synthesis.frames(images), powers

        def piece(samples: Tensor, masks: Tensor) -> Piece:  # samples (rows, channels, n)
            sources = link.num_sources
            if self.scan.rumble:
                below = low.take(samples.shape[-1])
                if len(samples) > sources:
                    samples[sources] += below
                else:
                    samples = samples + below / sources
            samples = _times_power(samples, self._exponent)
            rest = samples[sources] if len(samples) > sources else None
            return Piece(samples[:sources], rest, masks[:sources])

        above = self._above(self._blocks(), low.put)
        spectra = _frames(above, analysis)  # (channels, l, F)
        size = max(16, VALUES // (stft.bins * self.recording.channels * rows))
        done = 0
        if self._parties is not None:
            parts = (part for spectrum in spectra for part in torch.split(spectrum, size, 1))
            applied = self._workers.map(divide, parts)
        else:
            masks = self.windows.join(self._cache.map(self._masks))
            applied = self._workers.map(apply, _in_step(masks, spectra, size))
        for wide, frames, powers in applied:
            done += wide.shape[1]
            if self._meter and powers is not None:
                self._meter.keep(powers)
            yield piece(synthesis.add(frames), wide)
            self._report(Progress(LINKED + (1 - LINKED) * done / self.windows.frames, 1))
        yield piece(synthesis.finish(), wide[:, :0])

    @torch.no_grad()
    def voice(self) -> tuple[Tensor, float]:
        """Return the voice vector (D,) of a recording of one talker, and its speech in s."""
        self.analyse()
        return self.separator.voice(self._cache)

    def levels(self) -> Tensor:
        """Return levels (C, n) of the sources in dB, in frames of a timeline; after `pieces`."""
        assert self._meter is not None
        return self._meter.levels(self.scan.samples / self.recording.sample_rate)

    def timeline(self) -> Timeline:
        """Return who speaks when; after `pieces`, of a separation with `timeline`."""
        stft, rate = self.band.stft, self.recording.sample_rate
        return estimate_timeline(
            self.levels(), self.link(), stft.hop / rate, self.scan.samples / rate
        )

    @torch.no_grad()
    def embeddings(self) -> Tensor | None:
        """Return the embeddings (L, F', K) of a recording of one window; None for a longer one."""
        if self.windows.count > 1 or self._parties is not None:
            return None
        return next(self._cache.map(lambda _, analysis: self.separator.embeddings(analysis)))

    def _spectra(self) -> Iterator[Tensor]:
        """Yield blocks (l, M, F') of the spectra that the separator gets, in its band."""
        channels, peak, array = self.scan.channels, self._scaled.peak, list(self._array)
        cancels = channels is not None and channels.cancels
        mono = (self._scaled.mono(block).unsqueeze(0) for block in self._blocks())
        wide = (block / peak for block in self._blocks())
        samples = wide if cancels or array else mono
        frames = _frames(self._above(samples), BlockSTFT(self.band.stft))
        first = bins_below(self.separator.sample_rate, self.separator.stft.window)
        for spectrum in frames:
            if array:
                spectrum = spectrum[array]
            elif channels is not None and cancels:
                spectrum = power_mean(spectrum, channels.speech).unsqueeze(0)
            cropped = self.band.crop(spectrum, self.separator.bins).transpose(0, 1)
            if self.scan.rumble:  # zero in all frames: removed
                cropped[..., :first] = 0
            yield cropped

    def _above(
        self, blocks: Iterator[Tensor], below: Callable[[Tensor], None] = lambda low: None
    ) -> Iterator[Tensor]:
        """Yield blocks without the part below 70 Hz, which `below` gets, if it is loud."""
        if not self.scan.rumble:
            yield from blocks
            return
        for high, low in split_low(blocks, self.recording.sample_rate):
            below(low)
            yield high

    def _blocks(self) -> Iterator[Tensor]:
        """Yield blocks (channels, n) of the recording, scaled to a peak of 0.5 to 1."""
        return (_times_power(block, -self._exponent) for block in blocks(self.recording))

    @torch.no_grad()  # gradient mode is a setting of each thread; the same below
    def _analyse(self, spectra: Tensor) -> tuple[Tensor, ...]:
        """Analyse spectra (W, L, M, F') of some windows."""
        return self._cache.packed(self.separator.analyse(spectra.transpose(1, 2)))

    @torch.no_grad()
    def _masks(self, window: int, analysis: tuple[Tensor, ...]) -> Tensor:
        """Estimate the masks of one window."""
        assert self._link is not None
        return self.separator.masks(window, analysis, self._link)


class _Queue:
    """Samples (channels, n) that wait until as many others are finished."""

    def __init__(self) -> None:
        self._waiting = torch.zeros(0, 0)

    def put(self, samples: Tensor) -> None:
        """Append samples."""
        waiting = self._waiting
        self._waiting = torch.cat([waiting, samples], -1) if waiting.numel() else samples

    def take(self, count: int) -> Tensor:
        """Remove and return the first samples."""
        first, self._waiting = self._waiting[:, :count], self._waiting[:, count:]
        return first


def _times_power(samples: Tensor, exponent: int) -> Tensor:
    """Multiply by 2**exponent, which may exceed float32; clip the result at its limit."""
    limit = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        scaled = np.ldexp(samples.numpy(), exponent)
    return torch.from_numpy(scaled if exponent < 100 else scaled.clip(-limit, limit))


def _without_background(masks: Tensor) -> Tensor:
    """Share the last of masks (C + 1, l, F) among the others in proportion: (C, l, F)."""
    sources = masks[:-1]
    total = sources.sum(0, keepdim=True)
    return torch.where(total > 1e-6, sources / total.clamp_min(1e-6), 1 / len(sources))


def _frames(samples: Iterator[Tensor], analysis: BlockSTFT) -> Iterator[Tensor]:
    """Yield blocks of frames (channels, l, F) for blocks of samples (channels, n)."""
    for block in samples:
        yield analysis.push(block)
    yield analysis.finish()


def _in_step(
    masks: Iterator[Tensor], spectra: Iterator[Tensor], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield masks (C, l, F') and spectra (channels, l, F) of the same l <= size frames."""
    mask = spectrum = torch.zeros(0, 0, 0)
    while True:
        if not mask.shape[1]:
            following = next(masks, None)
            if following is None:
                return
            mask = following
        while not spectrum.shape[1]:
            spectrum = next(spectra)
        count = min(mask.shape[1], spectrum.shape[1], size)
        yield mask[:, :count], spectrum[:, :count]
        mask, spectrum = mask[:, count:], spectrum[:, count:]


def separate_recording(
    samples: ArrayLike | Tensor,
    sample_rate: int,
    separator: Separator,
    sources: int | None = None,
    background: bool = True,
    threads: int | None = None,
    report: Report = no_report,
    spatial: bool = True,
    floor: float = FLOOR_DB,
) -> Separation:
    """Separate samples in memory with a separator.

    Args:
        samples: (T,) or (channels, T), floating point of any level.
        sample_rate: in Hz.
        separator: any separator.
        sources: number of sources, 1 to 10; estimated if omitted.
        background: False shares the background among the sources.
        threads: number of threads; None for the number that torch uses.
        report: called with the share of the work that is done, of 1.
        spatial: refine the masks by the differences of several channels.
        floor: level in dB to which inactive sources of several windows are attenuated.

    Returns:
        Sources (C, T) or (C, channels, T), masks (C, L, F) of the recording's own STFT, embeddings
        (L, F', K) of a recording of one window, the background if the separator estimates it, and
        who speaks when.

    Raises:
        InputError: The samples are empty, not finite, of another shape or integers, or the number
            of sources, the rate or the floor is out of range.
    """
    check_sources(sources)
    recording = as_floats(samples)
    check_recording(recording.shape, sample_rate)
    sample_rate = int(sample_rate)  # a whole float is accepted
    if not np.isfinite(recording).all():
        raise InputError("the samples hold NaN or infinite values; repair the recording first")
    with RecordingSeparation(
        InMemory(np.atleast_2d(recording), sample_rate),
        separator,
        sources,
        report=report,
        threads=threads,
        background=background,
        timeline=True,
        spatial=spatial,
        floor=floor,
    ) as separation:
        pieces = list(separation.pieces())
        embeddings, link = separation.embeddings(), separation.link()
        timeline = separation.timeline()
    estimates = torch.cat([piece.sources for piece in pieces], dim=-1)  # (C, channels, T)
    masks = torch.cat([piece.masks for piece in pieces], dim=1)
    rests = [piece.background for piece in pieces if piece.background is not None]
    rest = torch.cat(rests, dim=-1) if rests else None  # (channels, T)
    if recording.ndim == 1:
        estimates, rest = estimates[:, 0], None if rest is None else rest[0]
    return Separation(
        estimates, masks, embeddings, rest, link.confidence, timeline, sample_rate, link.names
    )


def separate(
    samples: ArrayLike | Tensor,
    sample_rate: int,
    sources: int | None = None,
    model: str = "default",
    progress: Any = None,
    spatial: bool = True,
    floor: float = FLOOR_DB,
    voices: Mapping[str, Voice] | None = None,
) -> Separation:
    """Separate a recording with a shipped model, another method, or a weights file.

    Args:
        samples: (T,) or (channels, T), floating point of any level.
        sample_rate: in Hz, 1,000 to 1,000,000.
        sources: number of sources, 1 to 10; estimated if omitted.
        model: name of a shipped model or of a method (`casa`, `spectral`), hf://ORG/NAME, or path
            of a weights file.
        progress: function of the seconds of audio done and in all, or a bar of tqdm or rich.
        spatial: refine the masks by differences of level and phase between channels.
        floor: level in dB to which inactive talkers are attenuated in recordings longer than 10 s.
        voices: file of a talker alone, or its samples at `sample_rate`, by name. Sources with these
            voices get the names, for a model that finds talkers by voice.

    Returns:
        Sources (C, T) or (C, channels, T) of the same rate, length and level. With the background
        they sum to the recording; see `Separation`.

    Raises:
        InputError: The samples are empty, not finite, of another shape or integers (which have no
            full scale), an argument is out of range, or the model is unknown.

    Example:
        >>> import dpcl, torch
        >>> dpcl.separate(torch.randn(16000), 8000, sources=2).sources.shape
        torch.Size([2, 16000])
    """
    report = as_report(progress)
    samples = as_floats(samples)
    check_recording(samples.shape, sample_rate)
    seconds = samples.shape[-1] / sample_rate

    def report_seconds(share: Progress) -> None:
        """Report the share of the work as seconds of audio."""
        report(Progress(share.done * seconds, seconds, "s of audio"))

    check_floor(floor)
    separator = build(model)
    if voices:
        separator = enrol(separator, voices, sample_rate)
    return separate_recording(
        samples,
        sample_rate,
        separator,
        sources,
        report=report_seconds,
        spatial=spatial,
        floor=floor,
    )


Voice = str | os.PathLike[str] | ArrayLike | Tensor  # file, or samples


def enrol(separator: Separator, voices: Mapping[str, Voice], sample_rate: int = 8000) -> Separator:
    """Return a separator that gives sources the names of known voices.

    Args:
        separator: finds talkers by voice.
        voices: file of a talker alone, or samples (T,) or (channels, T), by name.
        sample_rate: of the samples, in Hz.

    Raises:
        InputError: The separator does not find talkers by voice, a name is no part of a file name,
            or a recording cannot be read or has too little speech of one talker.
    """
    check_voices(voices)
    vectors, listener = {}, separator.with_voices({})
    for name, voice in voices.items():
        with ExitStack() as stack:
            recording: Recording
            if isinstance(voice, (str, os.PathLike)):
                recording = stack.enter_context(AudioReader(Path(voice)))
            else:
                recording = InMemory(np.atleast_2d(as_floats(voice)), int(sample_rate))
            run = RecordingSeparation(recording, listener, 1, spatial=False)
            vector, seconds = stack.enter_context(run).voice()
        if seconds < LEAST_SPEECH:
            raise InputError(
                f"--voice {name}: has {seconds:.1f} s of speech of one talker; give a recording"
                " with some seconds of this talker alone"
            )
        vectors[name] = vector
    return separator.with_voices(vectors)


class LoadedSeparator:
    """Callable separator: mixture in, sources out.

    Attributes:
        separator: the separator that the driver runs.
        sample_rate: sample rate of the mixtures in Hz.
    """

    def __init__(self, separator: Separator) -> None:
        self.separator = separator
        self.sample_rate = separator.sample_rate

    def __call__(
        self,
        mixture: ArrayLike | Tensor,
        sources: int | None = None,
        *,
        num_sources: int | None = None,
    ) -> Separation:
        """Separate mixtures at `sample_rate`.

        Args:
            mixture: (..., T), floating point; a batch is separated one by one.
            sources: number of sources. If omitted it is estimated; a batch gets the largest
                estimate.
            num_sources: deprecated name of `sources`.

        Returns:
            Sources (..., C, T) and masks (..., C, L, F).

        Raises:
            InputError: The mixture is empty or not finite.
        """
        wanted = sources_or_alias(sources, num_sources)
        mixtures = torch.from_numpy(as_floats(mixture))
        if mixtures.ndim > 1 and mixtures.shape[-1] <= MOST_CHANNELS < mixtures.shape[-2]:
            raise InputError(
                f"mixture: shape {tuple(mixtures.shape)} is a batch of very short mixtures; give"
                " (..., T), perhaps mixture.T"
            )
        check_mixture(mixtures)
        rate, separator = self.sample_rate, self.separator
        if mixtures.ndim < 2:
            return separate_recording(mixtures, rate, separator, wanted)
        lead, rows = mixtures.shape[:-1], mixtures.reshape(-1, mixtures.shape[-1])
        found = [separate_recording(x, rate, separator, wanted) for x in rows]
        most = max(len(one.sources) for one in found)
        found = [
            one if len(one.sources) == most else separate_recording(x, rate, separator, most)
            for x, one in zip(rows, found, strict=True)
        ]

        def stacked(name: str) -> Tensor | None:
            values = [getattr(one, name) for one in found]
            if any(value is None for value in values):
                return None
            tensor = torch.stack(values)
            return tensor.view(*lead, *tensor.shape[1:])

        estimates = stacked("sources")
        assert estimates is not None
        return Separation(estimates, stacked("masks"), stacked("embeddings"), stacked("background"))


def load_separator(name: str = "default") -> LoadedSeparator:
    """Load a shipped model, another method or a weights file as a callable.

    Args:
        name: name of a shipped model or of a method, or path of a weights file.

    Returns:
        The callable; its weights stay in memory for the next call.

    Raises:
        InputError: The name is unknown, or dpcl did not write the file.

    Example:
        >>> import dpcl, torch
        >>> dpcl.load_separator("default")(torch.randn(8000), 2).sources.shape
        torch.Size([2, 8000])
    """
    return LoadedSeparator(build(name))
