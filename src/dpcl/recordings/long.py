"""A recording of any length in flat memory: its sources keep who they are from end to end.

First the network hears the recording window by window. A sample of its embeddings of all windows
is clustered at once, so one set of centroids holds for the whole recording: a source is the same
before and after a pause. A model that knows voices then tells who talks when. Last, the masks of
each window are found, joined by cross-fades, and laid over the recording's own spectrum. What the
network heard is kept between the passes, or how like the centroids every bin is, once that is
known: embeddings are ten times as many, and hearing again would take twice the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.io import Progress, Report, no_report
from dpcl.networks.activity import Voices
from dpcl.networks.precision import input_dtype
from dpcl.recordings.cache import STRETCH, Sampling, Spool
from dpcl.recordings.recording import Recording, Scan, blocks, scan
from dpcl.recordings.workers import Workers
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.limits import MOST_SOURCES
from dpcl.signal.band import Band
from dpcl.signal.stft import BlockISTFT, BlockSTFT
from dpcl.signal.windows import Windows

WINDOW = 10.0  # s that the network hears at once, at most
OVERLAP = 0.8  # s that windows share
FEW = 5  # windows that are heard before a faster network would be made
# Windows in one call of the network, at most; an hour takes 1.25 GB with 20 in float32. In bfloat16
# they take half of that, and of 8 windows an LSTM takes up to twice the time.
BATCH, BATCH_BFLOAT16 = 12, 20
BATCH_PER_BIN = 2  # of a network that keeps values of every bin, which are many
QUIET_DB = -50.0  # a window whose loudest bin is so far under the recording's pulls no centroid
HEARING, TELLING = 0.5, 0.9  # of the time, about, has gone by after the first and second pass
PIECE = 1 << 22  # values of a spectrum that are worked on at once


@dataclass(frozen=True)
class Piece:
    """The next stretch of a separated recording."""

    sources: Tensor  # (C, channels, n), they add up to the recording
    masks: Tensor  # (C, l, F) of the recording's STFT: the l frames that were laid last


class LongSeparation:
    """A recording separated in passes; a context manager, as it may hold a temporary file.

    Making one hears it all, after which `num_sources` is known; `pieces` is the last pass.
    sources: how many, None for as many as are found, up to `most`; report: called with the share
    that is done, 0 to 1; scanned: what `scan` found, if that is known already; threads: that hear
    windows, None for as many as torch uses.
    Raises InputError where the recording is empty or cannot be read.
    """

    def __init__(
        self,
        recording: Recording,
        separator: DeepClustering,
        sources: int | None = None,
        report: Report = no_report,
        scanned: Scan | None = None,
        most: int = MOST_SOURCES,
        threads: int | None = None,
    ) -> None:
        if not separator.model.settings.network.embedding:
            raise InputError(
                "the network has no embeddings, which tell the sources of a recording apart from"
                " beginning to end; give one that has"
            )
        self.recording = recording
        self.band = Band(recording.sample_rate, separator.sample_rate, separator.stft)
        self.scan = scanned or scan(recording)
        hops = separator.sample_rate / separator.stft.hop  # frames a second
        self.windows = Windows(
            self.band.stft.frames(self.scan.samples), round(WINDOW * hops), round(OVERLAP * hops)
        )
        self._sampling = Sampling(self.windows, separator.stft.bins, max(1, round(STRETCH * hops)))
        self._report = report
        self.separator = separator.fast if self.windows.count > FEW else separator
        self._workers = Workers(threads)
        self._heard, self._scores = Spool(), Spool()
        try:
            points, weights, frames = self._listen()
            self.num_sources = sources or separator.count(points, weights, frames, most)
            stretches = self._sampling.stretches(frames) if self.windows.count > 1 else None
            self.centroids = separator.centroids(  # (C, K)
                points, self.num_sources, weights, stretches
            )
            self._odds = self._who_talks()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give back what was kept."""
        self._workers.close()
        self._heard.close()
        self._scores.close()

    def __enter__(self) -> LongSeparation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pieces(self) -> Iterator[Piece]:
        """The separated recording from the beginning, in stretches of some seconds."""
        stft = self.band.stft
        analysis, synthesis = BlockSTFT(stft), BlockISTFT(stft, self.scan.samples)

        def lay(both: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            masks, spectrum = both
            # One set of masks for all channels keeps the image.
            laid = self.band.spread(masks, (spectrum / self.scan.peak).abs().mean(0))  # (C, l, F)
            return laid, synthesis.frames(laid[:, None] * spectrum)

        spectra = _frames(blocks(self.recording), analysis)  # (channels, l, F)
        size = max(16, PIECE // (stft.bins * self.recording.channels * self.num_sources))
        done, begun = 0, HEARING if self._odds is None else TELLING
        both = _in_step(self.windows.join(self._masks()), spectra, size)
        for laid, frames in self._workers.map(lay, both):
            done += laid.shape[1]
            yield Piece(synthesis.add(frames), laid)
            self._report(Progress(begun + (1 - begun) * done / self.windows.frames, 1))
        yield Piece(synthesis.finish(), laid[:, :0])

    @torch.no_grad()
    def embeddings(self) -> Tensor | None:
        """(L, F', K) of the network's STFT where one window held all; None beyond."""
        if self.windows.count > 1:
            return None
        heard, _ = next(self.kept())
        return self.separator.embeddings(heard[None]).view(
            self.windows.length, -1, self.centroids.shape[-1]
        )

    @torch.no_grad()
    def _listen(self) -> tuple[Tensor, Tensor, Tensor]:
        """Hear all windows; a sample of their embeddings (N, K), weights and frames (N,)."""
        analysis = BlockSTFT(self.band.stft)
        mono = (self.scan.heard(block).unsqueeze(0) for block in blocks(self.recording))
        frames = (self.band.heard(s[0].abs()) for s in _frames(mono, analysis))  # (l, F')
        points: list[Tensor] = []
        weights: list[Tensor] = []
        frames_of: list[Tensor] = []
        loudness: list[Tensor] = []
        # Equally many windows for each thread: none waits for the others at the end.
        network = self.separator.model.network
        most = BATCH_BFLOAT16 if input_dtype(network) == torch.bfloat16 else BATCH
        most = BATCH_PER_BIN if network.per_bin else most
        rounds = -(-self.windows.count // (most * self._workers.number))
        batch = -(-self.windows.count // (rounds * self._workers.number))
        first = range(0, self.windows.count, batch)  # of each batch
        batches = zip(first, self.windows.gather(frames, batch), strict=True)
        for heard, samples in self._workers.map(self._hear, batches):
            for window, magnitude, (x, w, numbers, loud) in zip(*heard, samples, strict=True):
                self._heard.keep(window, magnitude)
                points.append(x)
                weights.append(w)
                frames_of.append(numbers)
                loudness.append(loud.expand(len(w)))
            self._report(Progress(HEARING * len(loudness) / self.windows.count, 1))
        loud = torch.cat(loudness)  # of the window of each point
        if not len(loud):  # silence from beginning to end: one point that pulls nothing
            size = self.separator.model.settings.network.embedding
            return torch.zeros(1, size), torch.zeros(1), torch.zeros(1, dtype=torch.int64)
        audible = loud >= loud.max() * 10 ** (QUIET_DB / 20)
        return torch.cat(points), torch.cat(weights) * audible, torch.cat(frames_of)

    @torch.no_grad()
    def _hear(
        self, batch: tuple[int, Tensor]
    ) -> tuple[tuple[Tensor, Tensor], list[tuple[Tensor, ...]]]:
        """Magnitudes (B, W, F') from a window on -> what is kept of them (B, W, H), (B, W, F'), and
        of each window a sample of it, and its loudest magnitude."""
        first, magnitudes = batch
        heard = self.separator.hear(magnitudes)
        samples: list[tuple[Tensor, ...]] = []
        for number, (window, magnitude) in enumerate(zip(heard, magnitudes, strict=True), first):
            weights = self.separator.weights(magnitude).view_as(magnitude)
            sample = self._sampling.sample(number, window, weights, self.separator.embeddings)
            samples.append((*sample, magnitude.amax()))
        return (heard.half(), magnitudes.half()), samples

    def kept(self) -> Iterator[tuple[Tensor, ...]]:
        """What was heard of each window (W, H), and its magnitude (W, F'): of a model that does not
        know who talks, which needs no more of it than scores."""
        return self._heard.kept()

    def _who_talks(self) -> list[Tensor] | None:
        """Of each window, the log odds (C, l) that each source is active, if the model knows."""
        activity = self.separator.model.activity
        several = self.windows.count > 1 and self.num_sources > 1
        if activity is None or not several or not self.separator.soft:
            return None
        signs: list[Tensor] = []
        voices: list[Voices] = []
        for told, voice, scores in self._workers.map(self._talkers, self.kept()):
            signs.append(told)
            voices.append(voice)
            self._scores.keep(scores)
            done = HEARING + (TELLING - HEARING) * len(signs) / self.windows.count
            self._report(Progress(done, 1))
        self._heard.close()
        return activity.who_talks(signs, voices, self._workers.map)

    @torch.no_grad()
    def _talkers(self, kept: tuple[Tensor, ...]) -> tuple[Tensor, Voices, Tensor]:
        heard, magnitude = kept
        assert self.separator.model.activity is not None
        talkers = self.separator.talkers(heard, magnitude, self.centroids)
        vectors = self.separator.model.activity.voice(talkers.levels)
        return talkers.signs, Voices(vectors, talkers.loudness), talkers.scores.half()

    def _masks(self) -> Iterator[Tensor]:
        """Masks (C, W, F') of each window."""
        if self._odds is None:
            return self._workers.map(self._masks_of, self.kept())
        return self._workers.map(
            self._told_masks, zip(self._scores.kept(), self._odds, strict=True)
        )

    @torch.no_grad()
    def _masks_of(self, kept: tuple[Tensor, ...]) -> Tensor:
        heard, magnitude = kept
        # In ten seconds most sources have something to say.
        audible = self.separator.audible(magnitude[None]) if self.windows.count > 1 else None
        return self.separator.masks(heard[None], self.centroids, audible)[0]

    @torch.no_grad()
    def _told_masks(self, window: tuple[tuple[Tensor, ...], Tensor]) -> Tensor:
        (scores,), odds = window
        return self.separator.told_masks(scores, odds)


def _frames(samples: Iterator[Tensor], analysis: BlockSTFT) -> Iterator[Tensor]:
    """Blocks of samples (channels, n) -> blocks of frames (channels, l, F)."""
    for block in samples:
        yield analysis.push(block)
    yield analysis.finish()


def _in_step(
    masks: Iterator[Tensor], spectra: Iterator[Tensor], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of masks (C, l, F') and of spectrum (channels, l', F), cut to the same l <= size."""
    mask = spectrum = torch.zeros(0, 0, 0)
    while True:
        if not mask.shape[1]:
            following = next(masks, None)
            if following is None:
                return
            mask = following
        while not spectrum.shape[1]:
            spectrum = next(spectra)
        both = min(mask.shape[1], spectrum.shape[1], size)
        yield mask[:, :both], spectrum[:, :both]
        mask, spectrum = mask[:, both:], spectrum[:, both:]
