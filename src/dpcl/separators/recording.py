"""Any recording through a separator: its own rate and channels in, the same out.

A network hears one channel at its own rate. The masks that it finds are laid over the spectrum of
every channel at the recording's rate, so that nothing is lost to resampling: the image of a stereo
recording stays, and the sources still add up to the recording.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dpcl.errors import InputError
from dpcl.separators.limits import check_recording, check_sources
from dpcl.separators.load import load_separator
from dpcl.separators.separation import MaskSeparator, Separation
from dpcl.signal.resample import resample
from dpcl.signal.stft import STFT

# Of the network's band, what resampling to it leaves whole; above, there is nothing to judge by.
REACH = 0.9


def separate(
    samples: ArrayLike | Tensor,
    sample_rate: int,
    sources: int | None = None,
    model: str = "default",
) -> Separation:
    """Separate a recording with a shipped model or a weights file.

    samples: (T,) or (channels, T), floating point of any level; sample_rate in Hz; sources: how
    many, 1 to 10, None for two. Returns float32 sources (C, T) or (C, channels, T) of the same
    rate, length and level, that add up to the recording; masks (C, L, F) of its own STFT, one set
    for all channels; and embeddings (L', F', K) of the network's.
    Raises InputError for samples that are empty, not finite, of another shape or integers (which
    say no full scale), a number of sources or a rate out of range, and an unknown model.
    """
    return separate_recording(samples, sample_rate, load_separator(model), sources)


def separate_recording(
    samples: ArrayLike | Tensor,
    sample_rate: int,
    separator: MaskSeparator,
    sources: int | None = None,
) -> Separation:
    """As `separate`, with a separator that one already has."""
    check_sources(sources)
    recording = _as_floats(samples)
    check_recording(tuple(recording.shape), sample_rate)
    if not bool(recording.isfinite().all()):
        raise InputError("the samples hold NaN or infinite values; repair the recording first")
    if recording.ndim == 1 and sample_rate == separator.sample_rate:
        return separator(recording, sources)
    channels = recording.reshape(-1, recording.shape[-1])
    # At full scale: squares of very loud or very soft samples would leave the range of float32.
    heard = _one_channel(channels / (channels.abs().max() or 1)).numpy()  # (T,)
    samples_heard = max(1, round(len(heard) * separator.sample_rate / sample_rate))
    at_network = torch.from_numpy(
        resample(heard, sample_rate, separator.sample_rate, samples_heard)
    )
    separation = separator(at_network, sources)
    if separation.masks is None:
        raise ValueError("the separator gave no masks to lay over the recording")
    stft = recording_stft(separator, sample_rate)
    spectrum = stft(recording)  # (L, F) or (channels, L, F)
    seconds = torch.arange(spectrum.shape[-2], dtype=torch.float64) * (stft.hop / sample_rate)
    frequencies = torch.arange(spectrum.shape[-1]) * (sample_rate / stft.window)
    masks = separation.masks
    if sample_rate > separator.sample_rate:
        masks = _continue_upwards(masks, separator.stft(at_network))
    masks = _stretch(
        masks,
        seconds * (separator.sample_rate / separator.stft.hop),
        frequencies * (separator.stft.window / separator.sample_rate),
    )  # (C, L, F)
    # One set of masks for all channels keeps the image.
    laid = masks[:, None] if recording.ndim == 2 else masks
    estimates = stft.inverse(laid * spectrum, recording.shape[-1])
    return Separation(estimates, masks, separation.embeddings)


def recording_stft(separator: MaskSeparator, sample_rate: int) -> STFT:
    """The STFT that the masks of `separate_recording` belong to.

    Its frames are as close as whole samples allow to those of the separator's own.
    """
    ratio = separator.stft.window // separator.stft.hop
    hop = max(1, round(separator.stft.hop * sample_rate / separator.sample_rate))
    return STFT(hop * ratio, hop)


def _as_floats(samples: ArrayLike | Tensor) -> Tensor:
    """A float32 copy in memory of our own."""
    if isinstance(samples, Tensor):
        if samples.is_floating_point():
            return samples.detach().to("cpu", torch.float32, copy=True)
        kind = str(samples.dtype)
    else:
        array = np.asarray(samples)
        if array.dtype.kind == "f":
            return torch.from_numpy(np.array(array, np.float32, order="C"))
        kind = str(array.dtype)
    raise InputError(f"samples are {kind}; give floating point, 16 bits as samples / 32768")


def _one_channel(recording: Tensor) -> Tensor:
    """What the network hears of (channels, T): the mean, or the loudest where the mean cancels."""
    mean = recording.mean(0)
    energies = recording.square().mean(-1)  # (channels,)
    if mean.square().mean() < 0.01 * energies.mean():
        return recording[int(energies.argmax())]
    return mean


def _continue_upwards(masks: Tensor, spectrum: Tensor) -> Tensor:
    """One last bin that stands for all beyond the network's reach.

    masks (C, L, F), spectrum (L, F) -> (C, L, F'), F' < F: frame by frame, the mean of the upper
    half of the bins within reach, each as loud as it is. Fricatives cross the border as one.
    """
    reach = int(REACH * (spectrum.shape[-1] - 1))
    upper = slice(reach // 2, reach)
    energy = spectrum[:, upper].abs().square() + torch.finfo(torch.float32).tiny
    share = energy / energy.sum(-1, keepdim=True)  # (L, reach - reach // 2)
    beyond = (masks[..., upper] * share).sum(-1, keepdim=True)  # (C, L, 1)
    return torch.cat([masks[..., :reach], beyond], dim=-1)


def _stretch(masks: Tensor, frames: Tensor, bins: Tensor) -> Tensor:
    """Linear interpolation of masks (C, L, F) at fractional frames (L',) and bins (F',).

    Weights of neighbours add up to one, and so masks that add up to one still do.
    """
    for dimension, places in ((1, frames), (2, bins)):
        last = masks.shape[dimension] - 1
        places = places.clamp(max=last)
        low = places.floor().long()
        high = (low + 1).clamp(max=last)
        weight = (places - low).to(masks.dtype)
        weight = weight[:, None] if dimension == 1 else weight
        masks = torch.lerp(
            masks.index_select(dimension, low), masks.index_select(dimension, high), weight
        )
    return masks
