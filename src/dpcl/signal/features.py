"""What the networks see of a mixture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The smallest magnitude that is told from zero, relative to the loudest bin: -80 dB.
FLOOR = 1e-4
LOWEST = 70.0  # Hz, below which neither level nor weights look
LOUD = 0.9  # quantile of the levels of frames that is the level of a recording
LEVEL_FLOOR = 2e-4  # smallest magnitude relative to that level
QUIETEST = 1e-7  # level of silence: no division by zero
FORGETTING = 1.0  # dB/s by which the loudest bin so far fades


def log_magnitude(spectrum: Tensor) -> Tensor:
    """Natural-log magnitude relative to the loudest bin of the item.

    spectrum: complex (..., L, F) -> (..., L, F), 0 at the loudest bin and at least log(1e-4).
    Relative to the maximum, x and 100 x give the same features, and so the same masks.
    All zeros give all zeros. Source: Hershey et al. 2016, section 3.1 (log spectral magnitude).
    """
    magnitude = spectrum.abs()
    loudest = magnitude.amax(dim=(-2, -1), keepdim=True)
    # An all-silent item has no level; dividing by one keeps it finite without a special case.
    relative = magnitude / torch.where(loudest > 0, loudest, torch.ones_like(loudest))
    return torch.where(loudest > 0, relative.clamp_min(FLOOR).log(), torch.zeros_like(relative))


def first_bin(sample_rate: int, window: int) -> int:
    """Return the first bin of an STFT at or above LOWEST Hz."""
    return max(1, round(LOWEST * window / sample_rate))


def loud_level(magnitude: Tensor, first: int) -> Tensor:
    """Return the level of an item: a high quantile of the levels of its frames.

    One loud second, a DC offset or rumble below `first` do not set it.

    Args:
        magnitude: (..., L, F).
        first: bins below this one do not count.

    Returns:
        (..., 1, 1), above zero; the level of a frame is the root of its energy.
    """
    frames = magnitude[..., first:].square().sum(-1).sqrt()  # (..., L)
    level = torch.quantile(frames, LOUD, dim=-1)
    return level[..., None, None].clamp_min(QUIETEST)


def level_log_magnitude(spectrum: Tensor, first: int, level: Tensor | None = None) -> Tensor:
    """Return natural-log magnitudes relative to a level, from -74 dB up.

    Args:
        spectrum: (..., L, F), complex or magnitudes.
        first: bins below this one do not count for the level.
        level: (..., 1, 1); `loud_level` of the spectrum if omitted.

    Returns:
        (..., L, F).
    """
    magnitude = spectrum.abs()
    level = loud_level(magnitude, first) if level is None else level
    return (magnitude / level).clamp_min(LEVEL_FLOOR).log()


def running_log_magnitude(
    spectrum: Tensor, hop: float, loudest: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As log_magnitude, relative to the loudest bin up to each frame: for streams.

    spectrum: complex (..., L, F); hop: seconds from frame to frame; loudest: (...) natural log of
    the loudest bin before this spectrum, None at the beginning. It fades by FORGETTING, so that
    one clap does not make all that follows seem soft. Returns the features (..., L, F) and the
    loudest after the last frame, so that a spectrum in pieces gives the same as the whole.
    What is silent up to a frame is at the floor in it.
    """
    magnitude = spectrum.abs()
    frames = torch.arange(1, spectrum.shape[-2] + 1, dtype=torch.float64, device=spectrum.device)
    fade = FORGETTING * hop / 20 * math.log(10) * frames  # (L,)
    # max over s <= t of (m_s - fade (t - s)), as one cumulative maximum; float64, or the fade
    # would swallow the level after hours
    levels = magnitude.amax(-1).double().log() + fade  # (..., L)
    if loudest is not None:
        levels = torch.cat([loudest.double().unsqueeze(-1), levels], dim=-1)
    levels = levels.cummax(-1).values[..., -spectrum.shape[-2] :] - fade
    # -inf where nothing was heard: log(0) - 0 is then under the floor
    reference = torch.where(levels.isfinite(), levels, torch.zeros_like(levels))
    relative = magnitude.log() - reference.to(magnitude.dtype).unsqueeze(-1)
    return relative.clamp_min(math.log(FLOOR)), levels[..., -1]
