"""Separation of streams: samples in, sources out, with a latency of one window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dpcl.errors import InputError, check_recording, check_sources, sources_or_alias
from dpcl.model import Model
from dpcl.networks.precision import single_thread
from dpcl.recordings.recording import as_floats
from dpcl.separators.online import OnlineDeepClustering, StreamState
from dpcl.separators.registry import load_network
from dpcl.signal.band import Band, LowSTFT, SteadyLines
from dpcl.signal.stft import BlockISTFT, BlockSTFT

AT_ONCE = 10.0  # s of a long block that are processed at once, so that memory stays constant
LOUDEST = 1e14  # largest magnitude of a sample: squares of its spectrum stay within float32


@dataclass
class StreamPosition:
    """State of a stream; copy.deepcopy makes a copy to return to."""

    below: LowSTFT  # of the part below 70 Hz, which no network gets and no mask modulates
    lines: SteadyLines  # harmonics of hum, likewise
    analysis: BlockSTFT
    synthesis: BlockISTFT
    masks: StreamState
    samples: int = 0  # number of samples pushed


class StreamSeparator:
    """Separator of a stream, block by block; the sizes of the blocks do not matter.

    Nothing is resampled. The network gets its band of a spectrum at the stream's own rate, and its
    masks are applied to that spectrum. `state` holds everything that is kept from block to block.
    It runs in one thread. A second thread makes blocks of 20 ms no faster, and five times slower
    where other programs keep the cores busy.

    Args:
        model: name of a shipped model, path of a .safetensors file, or a Model. Its network must be
            causal.
        sources: number of sources, 1 to 10; 2 if omitted.
        sample_rate: sample rate of the stream in Hz; None for the network's own.
        num_sources: deprecated name of `sources`.

    Raises:
        InputError: The model is not causal, or the number of sources or the rate is out of range.

    Example:
        >>> stream = StreamSeparator("causal", sources=2, sample_rate=16000)
        >>> pieces = [stream.push(torch.randn(800)) for _ in range(4)]  # (2, n) each
        >>> pieces.append(stream.flush())  # the rest; then the next stream can begin
        >>> torch.cat(pieces, dim=-1).shape  # the sources sum to the mixture
        torch.Size([2, 3200])
    """

    def __init__(
        self,
        model: str | Model = "causal",
        sources: int | None = None,
        sample_rate: int | None = None,
        *,
        num_sources: int | None = None,
    ) -> None:
        wanted = sources_or_alias(sources, num_sources)
        check_sources(wanted)
        if sample_rate is not None:
            check_recording((1,), sample_rate)
            sample_rate = int(sample_rate)  # a whole float is accepted
        if not isinstance(model, Model):
            model = load_network(model)
        self.separator = OnlineDeepClustering(model)
        self.num_sources = 2 if wanted is None else wanted
        self.sample_rate = sample_rate or self.separator.sample_rate
        self.band = Band(self.sample_rate, self.separator.sample_rate, self.separator.stft)
        self.reset()

    @property
    def latency(self) -> int:
        """Largest number of samples by which the output lags the input: one window."""
        return self.band.stft.window

    def reset(self) -> None:
        """Discard the state: a new stream begins."""
        self.state = StreamPosition(
            LowSTFT(self.sample_rate, self.band.stft),
            SteadyLines(self.sample_rate, self.band.stft),
            BlockSTFT(self.band.stft),
            BlockISTFT(self.band.stft),
            self.separator.start(self.num_sources),
        )

    def push(self, samples: ArrayLike | Tensor) -> Tensor:
        """Separate the next samples.

        Args:
            samples: (T,), floating point; any length.

        Returns:
            Sources (C, T') of all samples that are complete; T' is not always T.

        Raises:
            InputError: The samples have another shape, are integers (which have no full scale), NaN
                or infinite. The stream is then unchanged.
        """
        block = _checked(samples)
        size = round(AT_ONCE * self.sample_rate)
        with single_thread(), torch.no_grad():
            pieces = [self._push(piece) for piece in torch.split(block, size)]
        return torch.cat(pieces, dim=-1)

    def flush(self) -> Tensor:
        """Return the sources (C, T') of the rest, up to the last sample pushed, and reset."""
        state = self.state
        if not state.samples:
            return torch.zeros(self.num_sources, 0)
        state.synthesis.length = state.samples
        with single_thread(), torch.no_grad():
            rest = self._synthesise(state.below.finish(), state.analysis.finish())
            rest = torch.cat([rest, state.synthesis.finish()], dim=-1)
        self.reset()
        return rest

    def _push(self, block: Tensor) -> Tensor:
        """Separate the next samples (n,) of at most AT_ONCE s."""
        state = self.state
        state.samples += len(block)
        return self._synthesise(state.below.push(block), state.analysis.push(block))

    def _synthesise(self, below: Tensor, spectrum: Tensor) -> Tensor:
        """Separate complete frames (l, F): the samples (C, n) that they complete.

        Args:
            below: spectrum of the part below 70 Hz, which all sources share.
            spectrum: spectrum of the stream.
        """
        if not len(spectrum):
            return spectrum.real.new_zeros(self.num_sources, 0)
        below = below + self.state.lines.push(spectrum - below)
        above = spectrum - below
        magnitude = above.abs()
        masks, self.state.masks = self.separator.step(self.band.crop(magnitude), self.state.masks)
        wide = self.band.extend(masks, magnitude)
        return self.state.synthesis.push(wide * above + below / len(wide))


def _checked(samples: ArrayLike | Tensor) -> Tensor:
    """Return samples as float32 (T,), or raise InputError."""
    array = as_floats(samples)
    if array.ndim != 1:
        raise InputError(f"samples of shape {array.shape} are no stream of one channel; give (T,)")
    if not (np.abs(array) <= LOUDEST).all():  # false for NaN too
        raise InputError(
            f"the samples hold NaN or values beyond {LOUDEST:g}, where full scale is 1; omit them"
            " from the stream"
        )
    return torch.from_numpy(array)
