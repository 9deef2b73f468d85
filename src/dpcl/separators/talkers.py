"""Timeline of the talkers of a recording, from the voices of its stretches.

    stretches   a voice vector for every stretch of STRETCH s, pooled over frames with one talker
    talkers     agglomerative clustering of these vectors over the whole recording
    posteriors  a Markov chain: first over the stretches, by voices; then over blocks of a few
                frames, by voices and by the embeddings of each talker nearby
    priors      the posteriors in every frame; where several may speak, the talkers nearby share it

Source: the steps of VBx, Landini et al. 2022, with clusters in place of a probabilistic model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.agglomerative import cluster_directions, smooth_posteriors

STRETCH, STEP = 1.5, 0.5  # s, length of a stretch, and from one stretch to the next
STRIDE = 2  # frames from one frame whose embeddings are summed to the next
BLOCK = 0.128  # s, length of a block
PURE = 0.4  # share of frames with one talker from which a stretch enters the clustering
# Levels in dB relative to the loud frames of the recording. Frames above the first may hold a
# talker, frames below the second hold none. The network gets levels relative to a window: it takes
# noise in a long pause for a talker.
AUDIBLE_DB, FAINT_DB = -24.0, -32.0
LOUD = 0.95  # quantile of the frames that is loud
LEAST, LEAST_SHARE = 1.0, 0.05  # s, and share of the clean speech, of a talker
LEAST_ACTIVE = 0.3  # s in which a talker of an estimated number is active
SHARPNESS = 24.0  # of the likelihoods of voices: exp(SHARPNESS * cosine)
FEW = 2.0  # clean stretches of a talker whose voice counts half: a short sample is uncertain
STAY, STAY_BLOCK = 0.25, 0.92  # probability that a stretch or a block keeps the talker
RARE = 0.02  # share of the time that every talker has at least, when they are drawn
PASSES = 3  # of posteriors and directions, and of posteriors and seeds
VOICE, BINS = 9.0, 11.5  # weights of both cosines in the likelihood of a block
FAINT = 0.1  # weight of a block, relative to the median block, at which it counts half
NEARBY = 5.0  # s on each side in which a talker may take part in overlapped speech
SMOOTH = 0.15  # s on each side over which the numbers of talkers are averaged
OWN = 1e-2  # weight of frames with other talkers in a seed: they matter if a talker is never alone
REACH = 2  # windows on each side whose frames enter a seed
ENOUGH = 0.5  # s alone nearby that a seed needs; less is filled up from the whole recording


@dataclass(frozen=True)
class Summary:
    """Facts of one window; frames are those that the window owns.

    Attributes:
        vectors: voice vectors (n, D) of its stretches; n is 0 if the timeline is given.
        clean: (n,), share of frames with one talker in each stretch.
        counts: (l, classes), probabilities of 0, 1, 2, … talkers in each frame.
        sums: (m, K), weighted sums of the embeddings of every STRIDE-th frame.
        masses: (m,), sums of their weights.
        evident: (), number of all frames of the window in which talkers evidently speak.
        powers: (l,), power of each frame, in the scale of the recording.
    """

    vectors: Tensor
    clean: Tensor
    counts: Tensor
    sums: Tensor
    masses: Tensor
    evident: Tensor
    powers: Tensor


@dataclass(frozen=True)
class Talkers:
    """Talkers of a recording.

    Attributes:
        priors: (C, L), prior of each talker in each frame, whether or not there is speech.
        activity: (C, L), probability that each talker is active.
        counts: (L, classes).
        directions: (C, D), voice vectors of the talkers.
    """

    priors: Tensor
    activity: Tensor
    counts: Tensor
    directions: Tensor


def find_talkers(
    summaries: Sequence[Summary], number: int | None, most: int, hop: float
) -> Talkers:
    """Cluster the voices of a recording, and return who speaks in every frame.

    Args:
        summaries: of all windows, in order.
        number: number of talkers; None to estimate it.
        most: upper limit of the estimate.
        hop: time between frames in s.

    Returns:
        The talkers, the one who speaks most first.
    """
    vectors = torch.cat([x.vectors for x in summaries])
    clean = torch.cat([x.clean for x in summaries])
    counts = torch.cat([x.counts for x in summaries])
    audible = audible_frames(torch.cat([x.powers for x in summaries]), hop)  # (L,)
    counts = torch.cat(
        [1 - audible[:, None] * (1 - counts[:, :1]), audible[:, None] * counts[:, 1:]], 1
    )
    step, reach = max(1, round(STEP / hop)), max(1, round(STRETCH / 2 / hop))
    clean = clean * smooth_frames(audible[None], reach)[0, ::step][: len(clean)]
    counts = smooth_frames(counts.T, round(SMOOTH / hop)).T
    pure = torch.where(clean >= min(PURE, float(clean.amax())), clean, 0.0)
    least = max(LEAST / STEP, LEAST_SHARE * float(pure.sum()))
    directions, mass = cluster_directions(vectors, pure, number, least, most)
    missing = max(0, (number or 0) - len(directions))  # sources that stay empty
    directions = functional.pad(directions, (0, 0, 0, missing))
    mass = functional.pad(mass, (0, missing))

    def follow(directions: Tensor, mass: Tensor) -> Talkers:
        for _ in range(PASSES):
            trust = (mass / (mass + FEW)).unsqueeze(-1)
            cosines = clean * trust * (directions @ vectors.T)  # unclean stretches say little
            shares = mass + RARE * float(clean.sum())
            posteriors = smooth_posteriors(SHARPNESS * cosines, STAY, shares)
            directions = functional.normalize((posteriors * pure) @ vectors, dim=-1)
            mass = (posteriors * pure).sum(1)
        frames = _refined(summaries, posteriors, cosines, counts, hop)
        several = counts[:, 2:].sum(1)  # (L,)
        reach = round(NEARBY / hop)
        nearby = functional.max_pool1d(frames[None], 2 * reach + 1, 1, reach)[0]
        priors = (1 - several) * frames + several * torch.maximum(frames, nearby * (nearby > 0.2))
        return Talkers(priors, priors * (1 - counts[:, 0]), counts, directions)

    talkers = follow(directions, mass)
    speaking = hop * (talkers.activity > 0.5).sum(1) >= LEAST_ACTIVE  # (C,)
    if number is None and 0 < int(speaking.sum()) < len(speaking):
        talkers = follow(talkers.directions[speaking], mass[speaking])
    return talkers


def audible_frames(powers: Tensor, hop: float) -> Tensor:
    """Return 1 for frames as loud as talkers, 0 for far softer ones, and values between: (L,).

    Args:
        powers: (L,), of the frames of a recording.
        hop: time between frames in s.

    Example:
        >>> audible_frames(torch.tensor([1.0, 1.0, 1.0, 1e-4, 1e-4, 1e-4]), 1.0)
        tensor([1., 1., 1., 0., 0., 0.])
    """
    smooth = smooth_frames(powers[None], round(SMOOTH / hop))[0]
    if not smooth.any():  # digital silence
        return torch.ones_like(smooth)
    levels = 10 * (smooth / smooth.quantile(LOUD).clamp_min(1e-30)).clamp_min(1e-12).log10()
    return ((levels - FAINT_DB) / (AUDIBLE_DB - FAINT_DB)).clamp(0, 1)


def _refined(
    summaries: Sequence[Summary], posteriors: Tensor, cosines: Tensor, counts: Tensor, hop: float
) -> Tensor:
    """Return posteriors (C, L) in frames, by the embeddings of blocks and the voices (C, n)."""
    size = max(1, round(BLOCK / (hop * STRIDE)))  # summed frames of a block
    step, length = max(1, round(STEP / hop)), len(counts)
    frames = in_frames(posteriors, step, length)
    if len(posteriors) == 1:
        return frames
    shares = posteriors.sum(1) + RARE * posteriors.shape[1]
    sums = _blocks(torch.cat([x.sums for x in summaries]), size)  # (b, K)
    masses = _blocks(torch.cat([x.masses for x in summaries])[:, None], size)
    sums, masses = (smooth_frames(x.T, 1).T for x in (sums, masses))
    means = sums / masses.clamp_min(1e-9)
    certain = masses[:, 0] / (masses[:, 0] + FAINT * masses.median() + 1e-9)
    one = counts[:: STRIDE * size, 1][: len(means)]
    voices = in_frames(cosines, step, length)[:, :: STRIDE * size]
    windows = torch.arange(len(summaries)).repeat_interleave(
        torch.tensor([len(x.masses) for x in summaries])
    )[::size]
    for _ in range(PASSES):
        seeds = functional.normalize(window_seeds(summaries, frames, hop), dim=-1)  # (W, C, K)
        bins = torch.einsum("bck,bk->cb", seeds[windows], means)
        scores = VOICE * voices + BINS * bins * certain * one
        states = smooth_posteriors(scores, STAY_BLOCK, shares)
        shares = states.sum(1) + RARE * states.shape[1]
        frames = states.repeat_interleave(STRIDE * size, 1)[:, :length]
        frames = functional.pad(frames, (0, length - frames.shape[1]), mode="replicate")
    return frames


def window_seeds(summaries: Sequence[Summary], priors: Tensor, hop: float) -> Tensor:
    """Return the seeds (W, C, K) of every window: mean embeddings of each talker's own bins.

    Args:
        summaries: of all windows, in order.
        priors: (C, L), of each talker in each frame.
        hop: time between frames in s.
    """
    silent = 1 - priors[:, ::STRIDE]  # (C, m)
    numbers = torch.arange(len(silent))
    others = torch.stack([silent[numbers != number].prod(0) for number in numbers])
    alone = (1 - silent) * others
    weights = torch.split((1 - silent) * (others + OWN * (1 - others)), _sizes(summaries), 1)
    sums = torch.stack([w @ x.sums for w, x in zip(weights, summaries, strict=True)])
    masses = torch.stack([w @ x.masses for w, x in zip(weights, summaries, strict=True)])
    frames = torch.stack([x.sum(1) for x in torch.split(alone, _sizes(summaries), 1)])
    return local_seeds(sums, masses, frames, ENOUGH / (STRIDE * hop))


def local_seeds(sums: Tensor, masses: Tensor, frames: Tensor, least: float) -> Tensor:
    """Return the seeds of every window from the sums of the windows around it.

    Args:
        sums: (W, C, K), weighted sums of embeddings.
        masses: (W, C), sums of the weights.
        frames: (W, C), number of frames in which each talker is alone.
        least: number of frames alone nearby; with fewer, the whole recording fills up the seed.

    Returns:
        Seeds (W, C, K): means of embeddings; zeros for a talker who never speaks.
    """
    numbers = torch.arange(len(sums))
    near = ((numbers[:, None] - numbers).abs() <= REACH).to(sums.dtype)  # (W, W)
    tiny = torch.finfo(sums.dtype).tiny
    own, mass = torch.einsum("vw,wck->vck", near, sums), near @ masses
    whole, all_mass = sums.sum(0), masses.sum(0)
    share = ((near @ frames) / least).clamp(0, 1).unsqueeze(-1)  # (W, C, 1)
    local = own / mass.clamp_min(tiny).unsqueeze(-1)
    return share * local + (1 - share) * (whole / all_mass.clamp_min(tiny).unsqueeze(-1))


def _sizes(summaries: Sequence[Summary]) -> list[int]:
    """Return the number of summed frames of every window."""
    return [len(x.masses) for x in summaries]


def _blocks(values: Tensor, size: int) -> Tensor:
    """Sum values (m, K) over blocks of `size` rows; the last block may have fewer."""
    padded = functional.pad(values, (0, 0, 0, -len(values) % size))
    return padded.view(-1, size, values.shape[1]).sum(1)


def in_frames(values: Tensor, step: int, frames: int) -> Tensor:
    """Interpolate values (C, n), one every `step` frames from frame 0, to frames (C, L)."""
    if values.shape[1] < 2:
        return values[:, :1].expand(-1, frames)
    whole = functional.interpolate(
        values[None], (values.shape[1] - 1) * step + 1, mode="linear", align_corners=True
    )[0]
    return functional.pad(whole, (0, max(0, frames - whole.shape[1])), mode="replicate")[:, :frames]


def smooth_frames(values: Tensor, reach: int) -> Tensor:
    """Average values (C, L) over `reach` frames on each side."""
    reach = min(reach, values.shape[1] - 1)
    padded = functional.pad(values[None], (reach, reach), mode="replicate")
    return functional.avg_pool1d(padded, 2 * reach + 1, 1)[0]
