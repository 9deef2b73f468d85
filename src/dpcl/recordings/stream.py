"""A stream of samples in, its sources out, as they come: one window behind, and no more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dpcl.errors import InputError
from dpcl.model import Model
from dpcl.networks.precision import single_thread
from dpcl.recordings.recording import as_floats
from dpcl.separators.limits import check_recording, check_sources
from dpcl.separators.online import OnlineDeepClustering, StreamState
from dpcl.separators.registry import load_network
from dpcl.signal.band import Band
from dpcl.signal.stft import BlockISTFT, BlockSTFT

AT_ONCE = 10.0  # s of a long block that are worked on at once: memory stays flat
LOUDEST = 1e14  # of a sample: squares of its spectrum stay within float32


@dataclass
class StreamPosition:
    """Where a stream stands. copy.deepcopy makes a copy to go back to."""

    analysis: BlockSTFT
    synthesis: BlockISTFT
    masks: StreamState
    samples: int = 0  # that were pushed


class StreamSeparator:
    """Separates a stream block by block, however it is cut.

    stream = StreamSeparator("causal", num_sources=2, sample_rate=16000)
    for block in blocks:           # (n,) of any length
        play(stream.push(block))   # (C, n'), they add up to the mixture
    play(stream.flush())           # what is left; then the next stream can begin

    model: a shipped one's name, a .safetensors path or a Model, whose network must hear forward in
    time only; sample_rate: of the stream, Hz, the network's own if left out. Nothing is resampled:
    the network hears its band in a spectrum of the stream's own rate, and its masks are laid there.
    `state` is all that is kept from block to block. It works in one thread: a second one makes
    blocks of 20 ms no faster, and where other programs keep the cores busy, five times slower.
    Raises InputError for another model and for a number of sources or a rate out of range.
    """

    def __init__(
        self, model: str | Model = "causal", num_sources: int = 2, sample_rate: int | None = None
    ) -> None:
        check_sources(num_sources)
        if sample_rate is not None:
            check_recording((1,), sample_rate)
        if isinstance(model, str):
            model = load_network(model)
        self.separator = OnlineDeepClustering(model)
        self.num_sources = num_sources
        self.sample_rate = sample_rate or self.separator.sample_rate
        self.band = Band(self.sample_rate, self.separator.sample_rate, self.separator.stft)
        self.reset()

    @property
    def latency(self) -> int:
        """Samples by which what comes out lags behind what went in, at most: one window."""
        return self.band.stft.window

    def reset(self) -> None:
        """Forget all that was heard: a new stream begins."""
        self.state = StreamPosition(
            BlockSTFT(self.band.stft),
            BlockISTFT(self.band.stft),
            self.separator.start(self.num_sources),
        )

    def push(self, samples: ArrayLike | Tensor) -> Tensor:
        """The next samples (T,), floating point -> sources (C, T') as far as they are settled.

        Raises InputError for another shape, integers (which say no full scale), NaN or infinity;
        the stream then stands where it stood.
        """
        block = _checked(samples)
        size = round(AT_ONCE * self.sample_rate)
        with single_thread(), torch.no_grad():
            pieces = [self._push(piece) for piece in torch.split(block, size)]
        return torch.cat(pieces, dim=-1)

    def flush(self) -> Tensor:
        """The sources of the rest (C, T'), up to the last sample pushed; then a reset."""
        state = self.state
        if not state.samples:
            return torch.zeros(self.num_sources, 0)
        state.synthesis.length = state.samples
        with single_thread(), torch.no_grad():
            rest = self._settle(state.analysis.finish())
            rest = torch.cat([rest, state.synthesis.finish()], dim=-1)
        self.reset()
        return rest

    def _push(self, block: Tensor) -> Tensor:
        self.state.samples += len(block)
        return self._settle(self.state.analysis.push(block))

    def _settle(self, spectrum: Tensor) -> Tensor:
        """spectrum (l, F) of the frames that are complete -> what they settle (C, n)."""
        if not len(spectrum):
            return spectrum.real.new_zeros(self.num_sources, 0)
        magnitude = spectrum.abs()
        masks, self.state.masks = self.separator.step(self.band.crop(magnitude), self.state.masks)
        return self.state.synthesis.push(self.band.extend(masks, magnitude) * spectrum)


def _checked(samples: ArrayLike | Tensor) -> Tensor:
    """float32 (T,), or InputError."""
    array = as_floats(samples)
    if array.ndim != 1:
        raise InputError(f"samples of shape {array.shape}: a stream is one channel, give (T,)")
    if not (np.abs(array) <= LOUDEST).all():  # NaN is not, either
        raise InputError(
            f"the samples hold NaN or values beyond {LOUDEST:g}, where full scale is 1; leave them"
            " out of the stream"
        )
    return torch.from_numpy(array)
