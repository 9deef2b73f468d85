"""Features of STFT bins for networks, weights of bins, and their ideal labels."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

# Smallest magnitude of the features, relative to the loudest bin: -80 dB.
FLOOR = 1e-4
LOWEST = 70.0  # Hz; lower frequencies count neither for the level nor for weights
LOUD = 0.9  # quantile of the frames' levels that defines the level of a recording
LEVEL_FLOOR = 2e-4  # smallest magnitude of the features, relative to the level
MOSTLY = 0.8  # share of digital silence from which only the other frames set the level
QUIETEST = 1e-7  # level of silence, which avoids a division by zero
LINE = 2  # bins on each side of a line that belong to it
TONE = 0.95  # least share of the energy of a frame in one line, of a tone
NOISE = 0.75  # largest share of the energy in the strongest quarter of the bins, of a click
OUTSTANDING_DB = 12.0  # least level of a disturbance relative to other frames, by loudest bins
UNCOUNTED = 0.1  # gain of disturbed frames in the level of a stream
SKIRT = 5  # bins on each side of a loud tone that its window reaches
RISE = 4.0  # least ratio of the loudest bins of two frames where a tone begins
PARTLY = 0.7  # least share of the energy in one line of a frame in which a tone begins or ends
FORGETTING = 1.0  # dB/s, decay of the loudest bin so far

Weighting = Literal["threshold", "magnitude", "energy"]


def log_magnitude(spectrum: Tensor) -> Tensor:
    """Return the natural-log magnitude relative to the loudest bin of the item.

    Since the features are relative to the maximum, x and 100 x give the same masks. All zeros give
    all zeros.

    Args:
        spectrum: complex (..., L, F).

    Returns:
        (..., L, F), 0 at the loudest bin and at least log(1e-4).

    Source: Hershey et al. 2016, section 3.1 (log spectral magnitude).
    """
    magnitude = spectrum.abs()
    loudest = magnitude.amax(dim=(-2, -1), keepdim=True)
    # Division by one in a silent item, which has no level, keeps the result finite.
    relative = magnitude / torch.where(loudest > 0, loudest, torch.ones_like(loudest))
    return torch.where(loudest > 0, relative.clamp_min(FLOOR).log(), torch.zeros_like(relative))


def first_bin(sample_rate: int, window: int) -> int:
    """Return the first bin of an STFT at or above LOWEST Hz."""
    return max(1, round(LOWEST * window / sample_rate))


def loud_level(magnitude: Tensor, first: int) -> Tensor:
    """Return the level of an item: a high quantile of the levels of its frames.

    One loud second, a DC offset or rumble below `first` do not affect it. If nearly all
    frames are digital silence, as with one word in 10 s, only the others count.

    Args:
        magnitude: (..., L, F).
        first: bins below this one do not count.

    Returns:
        (..., 1, 1), above zero; the level of a frame is the square root of its energy.
    """
    frames = magnitude[..., first:].square().sum(-1).sqrt()  # (..., L)
    # torch.quantile, in operators that ONNX has, for any number of frames
    ordered = frames.sort(dim=-1).values
    count = torch.ones_like(frames).sum(-1, keepdim=True)
    silent = (frames <= QUIETEST).to(frames.dtype).sum(-1, keepdim=True)
    start = torch.where(silent < MOSTLY * count, 0.0, silent)
    place = torch.minimum(start + LOUD * (count - 1 - start), count - 1)
    lower, upper = (ordered.gather(-1, end.long()) for end in (place.floor(), place.ceil()))
    level = lower + (upper - lower) * (place - place.floor())
    return level[..., None].clamp_min(QUIETEST)


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


def disturbed_frames(magnitude: Tensor, first: int) -> Tensor:
    """Find the frames that hold a loud tone, click or clap, and no speech.

    Almost all energy of such a frame is in one line of the spectrum, or it is spread as in
    white noise. Loud frames of speech have several harmonics.

    Args:
        magnitude: (..., L, F).
        first: bins below this one do not count.

    Returns:
        True for frames of such a shape, (..., L), of any level.
    """
    energy = magnitude[..., first:].square()
    total = energy.sum(-1).clamp_min(QUIETEST**2)
    line = functional.avg_pool1d(energy.flatten(0, -2)[None], 2 * LINE + 1, 1, LINE)
    line = line.amax(-1).view(total.shape) * (2 * LINE + 1)
    strongest = energy.topk(energy.shape[-1] // 4, -1).values.sum(-1)
    return (line > TONE * total) | (strongest < NOISE * total)


def without_disturbances(
    magnitude: Tensor, first: int, quantile: float = 0.5, edge: int = 3
) -> Tensor:
    """Mute the tones, clicks and claps that are far louder than the rest of an item.

    Args:
        magnitude: (..., L, F).
        first: bins below this one do not count.
        quantile: of the loudest bins of the other frames, to which the frames are compared.
        edge: frames before and after a disturbance that share samples with it.

    Returns:
        (..., L, F), zero in these frames and their neighbours; other frames are unchanged.
    """
    peaks = magnitude[..., first:].amax(-1)  # (..., L)
    shaped = disturbed_frames(magnitude, first)
    others = torch.where(shaped, torch.nan, peaks)
    usual = others.nanquantile(quantile, dim=-1, keepdim=True)  # NaN, and so no limit, for none
    found = (shaped & (peaks > usual * 10 ** (OUTSTANDING_DB / 20)) & (usual > 0)).to(magnitude)
    if not found.any():
        return magnitude
    near = functional.max_pool1d(found.flatten(0, -2)[None], 2 * edge + 1, 1, edge)
    return magnitude * (1 - near.view(found.shape)).unsqueeze(-1)


def tone_bins(magnitude: Tensor, first: int) -> Tensor:
    """Find the bins of loud tones in frames that hold one, and where it begins or ends.

    Args:
        magnitude: (L, F); a frame depends on itself and the one before it.
        first: bins below this one do not count.

    Returns:
        True for the bins of a tone, (L, F), of any level.
    """
    heights, places = magnitude[..., first:].max(-1)
    energy = magnitude[..., first:].square()
    line = functional.avg_pool1d(energy[None], 2 * LINE + 1, 1, LINE)[0].amax(-1)
    share = (2 * LINE + 1) * line / energy.sum(-1).clamp_min(QUIETEST**2)
    tone = share > TONE
    edge = share > PARTLY
    edge[1:] &= tone[:-1] | (heights[1:] > RISE * heights[:-1])
    near = (torch.arange(magnitude.shape[-1]) - (places + first)[:, None]).abs() <= SKIRT
    return near & (tone | edge)[:, None]


def running_log_magnitude(
    spectrum: Tensor, hop: float, loudest: Tensor | None = None, counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the natural-log magnitude relative to the loudest bin so far, for streams.

    The loudest bin decays by FORGETTING, so that one clap does not make all later sounds seem
    quiet. A spectrum in pieces gives the same features as the whole. A frame is at the floor if it
    and all frames before it are silent.

    Args:
        spectrum: complex (..., L, F).
        hop: seconds between frames.
        loudest: (...), natural log of the loudest bin before this spectrum; None at the beginning.
        counted: magnitudes (..., L, F) that set the level, without disturbances; the spectrum's
            if omitted.

    Returns:
        The features (..., L, F), and `loudest` (...) after the last frame.
    """
    magnitude = spectrum.abs()
    frames = torch.arange(1, spectrum.shape[-2] + 1, dtype=torch.float64, device=spectrum.device)
    fade = FORGETTING * hop / 20 * math.log(10) * frames  # (L,)
    # Maximum over s <= t of (m_s - fade (t - s)) as one cumulative maximum. In float32 the level
    # would lose its precision next to the fade after hours.
    levels = (magnitude if counted is None else counted).amax(-1).double().log() + fade  # (..., L)
    if loudest is not None:
        levels = torch.cat([loudest.double().unsqueeze(-1), levels], dim=-1)
    levels = levels.cummax(-1).values[..., -spectrum.shape[-2] :] - fade
    # Reference 0 instead of -inf in initial silence: log(0) - 0 is below the floor.
    reference = torch.where(levels.isfinite(), levels, torch.zeros_like(levels))
    relative = magnitude.log() - reference.to(magnitude.dtype).unsqueeze(-1)
    return relative.clamp_min(math.log(FLOOR)), levels[..., -1]


def ideal_assignments(source_spectra: Tensor) -> Tensor:
    """Assign each bin to the source with the largest magnitude, in a tie to the first.

    The result has always C columns, also if a source dominates no bin.

    Args:
        source_spectra: complex (..., C, L, F).

    Returns:
        One-hot Y, (..., L*F, C), zeros and ones.

    Source: Hershey et al. 2016, sec. 2.
    """
    owner = source_spectra.abs().flatten(-2).argmax(dim=-2)  # (..., N)
    sources = torch.arange(source_spectra.shape[-3], device=owner.device)
    return (owner.unsqueeze(-1) == sources).to(source_spectra.real.dtype)  # (..., N, C)


def bin_weights(
    mixture_spectrum: Tensor, weighting: Weighting = "threshold", floor_db: float = -40.0
) -> Tensor:
    """Weigh the bins for objective and clustering, relative to the loudest bin.

    Bins more than -floor_db below the loudest bin of the item have weight zero (Hershey et al.
    2016). `weigh` defines the other weights. In a silent item all weights are zero.

    Args:
        mixture_spectrum: complex (..., L, F).
        weighting: rule of `weigh`.
        floor_db: threshold in dB relative to the loudest bin.

    Returns:
        (..., L*F) in [0, 1].
    """
    magnitude = mixture_spectrum.abs().flatten(-2)  # (..., N)
    loudest = magnitude.amax(dim=-1, keepdim=True)
    audible = (magnitude >= loudest * 10 ** (floor_db / 20)) & (magnitude > 0)
    return weigh(torch.where(audible, magnitude / loudest, torch.zeros_like(magnitude)), weighting)


def level_weights(magnitude: Tensor, level: Tensor, first: int, floor_db: float = -40.0) -> Tensor:
    """Weigh bins by their magnitude relative to the level of the item, at most 1.

    Args:
        magnitude: (..., L, F).
        level: (..., 1, 1), see dpcl.signal.features.loud_level.
        first: bins below this one get no weight.
        floor_db: bins further below the level get no weight.

    Returns:
        (..., L*F) in [0, 1].
    """
    relative = (magnitude / level).clamp(max=1.0)
    relative = torch.where(relative >= 10 ** (floor_db / 20), relative, 0.0)
    relative[..., :first] = 0.0
    return relative.flatten(-2)


def weigh(relative: Tensor, weighting: Weighting) -> Tensor:
    """Convert relative magnitudes to weights.

    Args:
        relative: (...), relative to the loudest bin, zero for bins that do not count.
        weighting: "threshold" for weights of one, "magnitude" for the magnitude itself, "energy"
            for its square. The magnitude is W_MR of Wang, Le Roux, Hershey 2018, up to a scale
            that the objective divides out.

    Returns:
        (...).
    """
    if weighting == "threshold":
        return (relative > 0).to(relative.dtype)
    return relative if weighting == "magnitude" else relative.square()
