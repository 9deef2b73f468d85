"""Computational auditory scene analysis: grouping by onset, continuity, pitch and timbre."""

from __future__ import annotations

import torch
from torch import Tensor

from dpcl.separators.auditory import SAMPLE_RATE, STFT_8K, Scene, separate_by_units
from dpcl.separators.separation import Separation
from dpcl.separators.sequential import group_contours, voice_features
from dpcl.separators.voices import APERIODIC, contours, follow_voices, harmonicity
from dpcl.signal.segments import level_changes, segments

# Chosen on the validation list.
SHARPNESS = 3.0  # of the masks, by difference of periodicity
TIMBRE_SHARPNESS = 10.0  # of the masks under which timbre is measured
COMMON = 0.6  # how much a unit's evidence is that of its segment


class Casa:
    """A small system of auditory scene analysis, which hears without having learned.

    Gammatone filterbank, correlogram, and two pitches followed with their masks by turns
    (simultaneous grouping; Wang and Brown 2006; Hu and Wang 2010); segments between onsets and
    offsets, over which evidence is shared (Hu and Wang 2004, 2007); contours clustered into
    talkers by pitch and gammatone cepstra (sequential grouping; Hu and Wang 2013). Two talkers at
    most are voiced at once, also where more are asked for. The published systems give a unit whole
    to one talker; here masks are soft, a softmax of the evidence, since a wrong half costs less.
    """

    sample_rate = SAMPLE_RATE
    stft = STFT_8K

    def __call__(self, mixture: Tensor, num_sources: int | None = None) -> Separation:
        """mixture (..., T) at 8 kHz -> its sources; two if it is left to us."""
        count = 2 if num_sources is None else num_sources
        return separate_by_units(mixture, count, unit_masks)


def unit_masks(scene: Scene, talkers: int) -> Tensor:
    """Masks of the units of a scene, (C, channels, L), adding up to one."""
    tracks = follow_voices(scene)
    found = contours(tracks)
    evidence = scene.power.new_full((talkers, *scene.power.shape), APERIODIC)
    if found:
        periodicity = harmonicity(scene, tracks)  # (2, channels, L)
        sharp = (TIMBRE_SHARPNESS * periodicity).softmax(0)
        features, lengths = voice_features(scene, tracks, sharp, found)
        owners = group_contours(features, lengths, found, talkers)
        for contour, owner in zip(found, owners.tolist(), strict=True):
            span = slice(contour.start, contour.stop)
            evidence[owner, :, span] = periodicity[contour.track, :, span]
    parts = segments(scene.heard, level_changes(scene.power), scene.alike)
    return (SHARPNESS * _shared(evidence, parts)).softmax(0)


def _shared(evidence: Tensor, parts: Tensor) -> Tensor:
    """Evidence (C, channels, L) drawn towards its mean over each segment of `parts`."""
    index = parts.flatten() + 1  # what is not heard counts as one segment, left as it is
    count = torch.bincount(index).clamp_min(1)
    flat = evidence.flatten(1)
    sums = flat.new_zeros(len(flat), len(count)).index_add(1, index, flat)
    means = (sums / count)[:, index]
    return torch.where(index > 0, torch.lerp(flat, means, COMMON), flat).view_as(evidence)
