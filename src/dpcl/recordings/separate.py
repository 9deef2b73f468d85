"""Any recording in memory through a separator: its own rate and channels in, the same out.

A network hears one channel at its own rate. The masks that it finds are laid over the spectrum of
every channel at the recording's rate, so that nothing is lost to resampling: the image of a stereo
recording stays, and the sources still add up to the recording. Files: dpcl.apps.files.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dpcl.errors import InputError
from dpcl.recordings.long import LongSeparation
from dpcl.recordings.recording import InMemory, as_floats
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.limits import check_recording, check_sources
from dpcl.separators.load import load_separator
from dpcl.separators.separation import Separation


def separate(
    samples: ArrayLike | Tensor,
    sample_rate: int,
    sources: int | None = None,
    model: str = "default",
) -> Separation:
    """Separate a recording with a shipped model or a weights file.

    samples: (T,) or (channels, T), floating point of any level; sample_rate in Hz; sources: how
    many, 1 to 10, None for as many as are found. Returns float32 sources (C, T) or (C, channels, T)
    of the same rate, length and level, that add up to the recording; masks (C, L, F) of its own
    STFT, one set for all channels; and, of up to 10 s, embeddings (L, F', K) in the band that the
    network hears.
    Raises InputError for samples that are empty, not finite, of another shape or integers (which
    say no full scale), a number of sources or a rate out of range, and an unknown model.
    """
    return separate_recording(samples, sample_rate, load_separator(model), sources)


def separate_recording(
    samples: ArrayLike | Tensor,
    sample_rate: int,
    separator: DeepClustering,
    sources: int | None = None,
) -> Separation:
    """As `separate`, with a separator that one already has."""
    check_sources(sources)
    recording = as_floats(samples)
    check_recording(recording.shape, sample_rate)
    if not np.isfinite(recording).all():
        raise InputError("the samples hold NaN or infinite values; repair the recording first")
    with LongSeparation(
        InMemory(np.atleast_2d(recording), sample_rate), separator, sources
    ) as separation:
        pieces = list(separation.pieces())
        embeddings = separation.embeddings()
    estimates = torch.cat([piece.sources for piece in pieces], dim=-1)  # (C, channels, T)
    return Separation(
        estimates if recording.ndim == 2 else estimates[:, 0],
        torch.cat([piece.masks for piece in pieces], dim=1),
        embeddings,
    )
