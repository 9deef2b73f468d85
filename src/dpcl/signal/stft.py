"""Short-time Fourier transform and its inverse, with perfect reconstruction at any length."""

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
