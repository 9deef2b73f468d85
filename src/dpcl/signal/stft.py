"""Short-time Fourier transform of whole signals and of signals that arrive block by block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.errors import InputError


@dataclass(frozen=True)
class STFT:
    """Square-root Hann analysis and synthesis; frames first, as the networks read them.

    window, hop: samples; the hop must divide the window at least twice (else InputError).
    The product of both windows overlap-adds to a constant, so inverse(stft(x)) is x
    (Griffin and Lim 1984, eq. 6); the paper's setting at 8 kHz is 256 and 64 (32 ms and 8 ms).
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
        """Frequency bins F of one frame."""
        return self.window // 2 + 1

    def frames(self, samples: int) -> int:
        """Frames L that a signal of so many samples has."""
        return -(-samples // self.hop) + 1

    def __call__(self, samples: Tensor) -> Tensor:
        """samples (..., T), T > 0 -> complex spectrum (..., L, F) with L = ceil(T / hop) + 1."""
        flat = samples.reshape(-1, samples.shape[-1])
        # Half a window of silence on either side (torch's center=True does so for even windows
        # alone), and the end filled up to whole hops: else the last samples could lie at the foot
        # of a single window, from where the inverse would scale them, and any error, far up.
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
        """spectrum (..., L, F) -> samples (..., length), the length of the signal analysed."""
        samples = torch.istft(
            spectrum.reshape(-1, *spectrum.shape[-2:]).transpose(-1, -2),
            self.window,
            self.hop,
            window=self.taper(spectrum.real),
            center=True,  # leaves out the first half window
            length=length,
        )
        return samples.reshape(*spectrum.shape[:-2], length)

    def taper(self, like: Tensor) -> Tensor:
        """The window (window,) of analysis and of synthesis, of the kind of `like`."""
        return torch.hann_window(self.window, dtype=like.dtype, device=like.device).sqrt()


class BlockSTFT:
    """Spectrum of a signal that comes in blocks (..., n) of any length.

    What `push` and `finish` return, one after the other, is stft(whole signal): (..., L, F).
    """

    def __init__(self, stft: STFT) -> None:
        self.stft = stft
        self._waiting: Tensor | None = None  # (..., less than window) not yet in all its frames
        self._samples = 0

    def push(self, block: Tensor) -> Tensor:
        """block (..., n) -> the frames that are now complete (..., l, F)."""
        if self._waiting is None:  # as STFT: half a window of silence before the beginning
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
        """The frames that reach beyond the end (..., l, F); then nothing may be pushed any more."""
        if self._waiting is None:
            raise ValueError("nothing was pushed: there is no signal to finish")
        missing = self.stft.window - self.stft.window // 2 + -self._samples % self.stft.hop
        return self.push(self._waiting.new_zeros(*self._waiting.shape[:-1], missing))


class BlockISTFT:
    """Signal of a spectrum that comes in blocks of frames.

    What `push` and `finish` return, one after the other, is stft.inverse(whole spectrum, length).
    `length` is to be set before the last frames are pushed, which reach beyond it.
    """

    def __init__(self, stft: STFT, length: int | None = None) -> None:
        self.stft, self.length = stft, length
        self._overlap: Tensor | None = None  # (..., window - hop) that later frames add to
        self._envelope = torch.zeros(0)  # (window - hop,) sum of the squared windows there
        self._leading = stft.window // 2  # samples before the beginning, still to be left out
        self._samples = 0  # given out

    def push(self, spectrum: Tensor) -> Tensor:
        """spectrum (..., l, F) -> the samples that no later frame reaches (..., n)."""
        return self.add(self.frames(spectrum))

    def frames(self, spectrum: Tensor) -> Tensor:
        """spectrum (..., l, F) -> its windows of samples (..., l, window), as `add` takes them.

        The part of `push` that knows of no other block, so that threads may share it.
        """
        if not spectrum.shape[-2]:
            return spectrum.real.new_zeros(*spectrum.shape[:-1], self.stft.window)
        pieces: Tensor = torch.fft.irfft(spectrum, self.stft.window)
        return pieces * self.stft.taper(pieces)

    def add(self, pieces: Tensor) -> Tensor:
        """What `frames` gave (..., l, window) -> the samples that no later one reaches (..., n)."""
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
        return self._give(added[..., :done] / _divisor(envelope[:done]))

    def finish(self) -> Tensor:
        """The rest of the signal (..., n)."""
        if self._overlap is None or self.length is None:
            raise ValueError("nothing was pushed, or no length set: there is nothing to finish")
        return self._give(self._overlap / _divisor(self._envelope))

    def _give(self, samples: Tensor) -> Tensor:
        first = min(self._leading, samples.shape[-1])
        self._leading -= first
        samples = samples[..., first:]
        if self.length is not None:
            samples = samples[..., : self.length - self._samples]
        self._samples += samples.shape[-1]
        return samples


def _overlap_add(pieces: Tensor, hop: int, onto: Tensor) -> Tensor:
    """pieces (..., l, window), each a hop after the other, onto (..., window - hop)."""
    frames, window = pieces.shape[-2:]
    parts = window // hop
    blocks = pieces.new_zeros(*pieces.shape[:-2], frames + parts - 1, hop)
    blocks[..., : parts - 1, :] = onto.view(*onto.shape[:-1], parts - 1, hop)
    for part in range(parts):  # the hop must divide the window: see STFT
        blocks[..., part : part + frames, :] += pieces[..., part * hop : (part + 1) * hop]
    return blocks.flatten(-2)


def _divisor(envelope: Tensor) -> Tensor:
    """What to divide by: samples that no window reaches lie beyond the signal and stay zero."""
    return torch.where(envelope > 1e-11, envelope, torch.ones_like(envelope))
