"""Short-time Fourier transform, block by block too, and overlapping windows of its frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.errors import InputError


@dataclass(frozen=True)
class STFT:
    """Square-root Hann analysis and synthesis, frames before bins, as the networks need them.

    The product of both windows overlap-adds to a constant, so inverse(stft(x)) is x.

    Args:
        window: samples.
        hop: samples; it divides the window into at least two parts.

    Raises:
        InputError: the hop does not divide the window at least twice.

    Example:
        >>> import torch
        >>> stft = STFT(256, 64)
        >>> stft(torch.zeros(8000)).shape
        torch.Size([126, 129])

    Source: Griffin and Lim 1984, eq. 6; Hershey et al. 2016 use 256 and 64 at 8 kHz (32 and 8 ms).
    """

    window: int = 256
    hop: int = 64

    def __post_init__(self) -> None:
        if self.hop < 1 or self.window < 2 * self.hop or self.window % self.hop:
            raise InputError(
                f"STFT window {self.window} and hop {self.hop} do not overlap-add to a constant; "
                "choose a window that is a whole multiple (2 or more) of the hop"
            )

    @property
    def bins(self) -> int:
        """Return the number of frequency bins F of a frame."""
        return self.window // 2 + 1

    def frames(self, samples: int) -> int:
        """Return the number of frames L of a signal with this number of samples."""
        return -(-samples // self.hop) + 1

    def __call__(self, samples: Tensor) -> Tensor:
        """Transform samples (..., T), T > 0, to complex (..., L, F) with L = ceil(T / hop) + 1."""
        flat = samples.reshape(-1, samples.shape[-1])
        # Padding of half a window on either side (torch's center=True does this only for even
        # windows), and at the end to whole hops. Otherwise the last samples could lie at the edge
        # of a single window, and the inverse would amplify them, with any error.
        left, right = self.window // 2, self.window - self.window // 2
        flat = functional.pad(flat, (left, right + -samples.shape[-1] % self.hop))
        spectrum = torch.stft(
            flat,
            self.window,
            self.hop,
            window=self.taper(samples),
            center=False,
            return_complex=True,
        )  # (batch, F, L)
        spectrum = spectrum.transpose(-1, -2)
        return spectrum.reshape(*samples.shape[:-1], *spectrum.shape[-2:])

    def inverse(self, spectrum: Tensor, length: int) -> Tensor:
        """Transform a spectrum (..., L, F) to samples (..., length), the original length."""
        samples = torch.istft(
            spectrum.reshape(-1, *spectrum.shape[-2:]).transpose(-1, -2),
            self.window,
            self.hop,
            window=self.taper(spectrum.real),
            center=True,  # omits the first half window
            length=length,
        )
        return samples.reshape(*spectrum.shape[:-2], length)

    def taper(self, like: Tensor) -> Tensor:
        """Return the analysis and synthesis window (window,) with dtype and device of `like`."""
        return torch.hann_window(self.window, dtype=like.dtype, device=like.device).sqrt()


class BlockSTFT:
    """Spectrum of a signal that arrives in blocks (..., n) of any length.

    The results of `push` and `finish`, joined, are stft(whole signal), (..., L, F).
    """

    def __init__(self, stft: STFT) -> None:
        self.stft = stft
        self._waiting: Tensor | None = None  # (..., < window) samples that later frames need
        self._samples = 0

    def push(self, block: Tensor) -> Tensor:
        """Add a block (..., n) and return the frames that are now complete (..., l, F)."""
        if self._waiting is None:  # half a window of silence before the beginning, as in STFT
            self._waiting = block.new_zeros(*block.shape[:-1], self.stft.window // 2)
        self._samples += block.shape[-1]
        samples = torch.cat([self._waiting, block], dim=-1)
        frames = max(0, (samples.shape[-1] - self.stft.window) // self.stft.hop + 1)
        self._waiting = samples[..., frames * self.stft.hop :].clone()
        taper = self.stft.taper(block)
        if not frames:
            return torch.complex(taper, taper).new_zeros(*block.shape[:-1], 0, self.stft.bins)
        spectrum: Tensor = torch.fft.rfft(
            samples.unfold(-1, self.stft.window, self.stft.hop) * taper
        )
        return spectrum

    def finish(self) -> Tensor:
        """Return the frames that reach beyond the end (..., l, F); no `push` may follow."""
        if self._waiting is None:
            raise ValueError("nothing was pushed; call push first")
        missing = self.stft.window - self.stft.window // 2 + -self._samples % self.stft.hop
        return self.push(self._waiting.new_zeros(*self._waiting.shape[:-1], missing))


class BlockISTFT:
    """Signal of a spectrum that arrives in blocks of frames.

    The results of `push` and `finish`, joined, are stft.inverse(whole spectrum, length). Set
    `length` before the last frames are pushed, which reach beyond it.
    """

    def __init__(self, stft: STFT, length: int | None = None) -> None:
        self.stft, self.length = stft, length
        self._overlap: Tensor | None = None  # (..., window - hop) incomplete samples
        self._envelope = torch.zeros(0)  # (window - hop,) sum of the squared windows
        self._leading = stft.window // 2  # samples before the beginning, still to be omitted
        self._samples = 0  # samples returned so far

    def push(self, spectrum: Tensor) -> Tensor:
        """Add frames (..., l, F) and return the samples that no later frame reaches (..., n)."""
        return self.add(self.frames(spectrum))

    def frames(self, spectrum: Tensor) -> Tensor:
        """Transform frames (..., l, F) to windows of samples (..., l, window) for `add`.

        This part of `push` depends on no other block, so threads can share it.
        """
        if not spectrum.shape[-2]:
            return spectrum.real.new_zeros(*spectrum.shape[:-1], self.stft.window)
        pieces: Tensor = torch.fft.irfft(spectrum, self.stft.window)
        return pieces * self.stft.taper(pieces)

    def add(self, pieces: Tensor) -> Tensor:
        """Add results of `frames` and return the samples that no later one reaches (..., n)."""
        (frames, window), hop = pieces.shape[-2:], self.stft.hop
        taper = self.stft.taper(pieces)
        if self._overlap is None:
            self._overlap = taper.new_zeros(*pieces.shape[:-2], window - hop)
            self._envelope = taper.new_zeros(window - hop)
        if not frames:
            return self._overlap[..., :0]
        added = _overlap_add(pieces, hop, self._overlap)
        envelope = _overlap_add(taper.square().expand(frames, -1), hop, self._envelope)
        done = frames * hop
        self._overlap, self._envelope = added[..., done:].clone(), envelope[done:].clone()
        return self._trim(added[..., :done] / _divisor(envelope[:done]))

    def finish(self) -> Tensor:
        """Return the rest of the signal (..., n)."""
        if self._overlap is None or self.length is None:
            raise ValueError("nothing was pushed, or no length set; call push, and set length")
        return self._trim(self._overlap / _divisor(self._envelope))

    def _trim(self, samples: Tensor) -> Tensor:
        """Return samples within the signal: not before its beginning nor after `length`."""
        first = min(self._leading, samples.shape[-1])
        self._leading -= first
        samples = samples[..., first:]
        if self.length is not None:
            samples = samples[..., : self.length - self._samples]
        self._samples += samples.shape[-1]
        return samples


def _overlap_add(pieces: Tensor, hop: int, onto: Tensor) -> Tensor:
    """Add pieces (..., l, window), one hop apart, to `onto` (..., window - hop)."""
    frames, window = pieces.shape[-2:]
    parts = window // hop
    blocks = pieces.new_zeros(*pieces.shape[:-2], frames + parts - 1, hop)
    blocks[..., : parts - 1, :] = onto.view(*onto.shape[:-1], parts - 1, hop)
    for part in range(parts):  # the hop divides the window, see STFT
        blocks[..., part : part + frames, :] += pieces[..., part * hop : (part + 1) * hop]
    return blocks.flatten(-2)


def _divisor(envelope: Tensor) -> Tensor:
    """Return the envelope, or one for samples outside all windows, which stay zero."""
    return torch.where(envelope > 1e-11, envelope, torch.ones_like(envelope))


@dataclass(frozen=True)
class Windows:
    """Windows of equal length, evenly spread from the first frame of a recording to the last.

    A recording of up to `longest` frames is one window.

    Args:
        frames: number of frames of the recording.
        longest: number of frames of a window, at most.
        overlap: number of frames shared by neighbouring windows, at least.
    """

    frames: int
    longest: int
    overlap: int

    @property
    def count(self) -> int:
        """Return the number of windows."""
        return max(1, -(-(self.frames - self.overlap) // (self.longest - self.overlap)))

    @property
    def length(self) -> int:
        """Return the number of frames of a window, the least that `count` windows need."""
        return -(-(self.frames + (self.count - 1) * self.overlap) // self.count)

    @property
    def starts(self) -> list[int]:
        """Return the first frame of each window."""
        last, steps = self.frames - self.length, max(1, self.count - 1)
        return [i * last // steps for i in range(self.count)]

    def gather(self, frames: Iterator[Tensor], batch: int) -> Iterator[Tensor]:
        """Group consecutive blocks of frames into windows.

        Args:
            frames: blocks (l, F), in order.
            batch: number of windows in a group, at most.

        Yields:
            (up to batch, length, F).
        """
        starts = self.starts
        waiting: list[Tensor] = []
        first, have = 0, 0  # first frame in `waiting`, and number of frames in it
        for group in (starts[i : i + batch] for i in range(0, len(starts), batch)):
            while first + have < group[-1] + self.length:
                waiting.append(next(frames))
                have += len(waiting[-1])
            pending = torch.cat(waiting)[group[0] - first :]  # frames from the group's first on
            yield torch.stack([pending[s - group[0] : s - group[0] + self.length] for s in group])
            waiting, first, have = [pending], group[0], len(pending)

    def join(self, windows: Iterator[Tensor]) -> Iterator[Tensor]:
        """Join windows by cross-fades; the weights of overlapping windows sum to one.

        Args:
            windows: (C, length, F), in order.

        Yields:
            Blocks (C, l, F) that cover all frames.
        """
        starts = self.starts
        fading: Tensor | None = None  # end of the previous window, faded out
        for start, following, window in zip(
            starts, [*starts[1:], self.frames], windows, strict=True
        ):
            if fading is not None:
                shared = fading.shape[1]
                rise = _rise(shared, window)
                head = fading + window[:, :shared] * rise
                window = torch.cat([head, window[:, shared:]], dim=1)
            own = following - start
            yield window[:, :own]
            fading = window[:, own:] * (1 - _rise(self.length - own, window))


def _rise(frames: int, like: Tensor) -> Tensor:
    """Return weights (frames, 1) that rise from just above zero to just below one."""
    steps = torch.arange(1, frames + 1, dtype=like.dtype, device=like.device)
    return (steps / (frames + 1)).unsqueeze(-1)


def owned(windows: Windows, window: int) -> slice:
    """Return the frames of a window that belong to no other one: half of each overlap."""
    starts, length = windows.starts, windows.length
    first, last = 0, length
    if window:
        first = (starts[window - 1] + length - starts[window]) // 2
    if window + 1 < len(starts):
        shared = starts[window] + length - starts[window + 1]
        last = length - (shared - shared // 2)
    return slice(first, last)


def own_multiples(windows: Windows, window: int, step: int) -> Tensor:
    """Return the own frames of a window whose number in the recording is a multiple of `step`."""
    start, own = windows.starts[window], owned(windows, window)
    first, last = -(-(start + own.start) // step), -(-(start + own.stop) // step)
    return torch.arange(first, last) * step - start
