"""Fit the activity network: the talkers that are active in each frame of a conversation.

Conversations of two to four talkers, with turns and pauses of very different lengths, are linked
like any long recording. A voice network learns the talkers from the bins of each cluster. The
activity network then learns which of them are active within a quarter of a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dpcl.io import Progress, Report
from dpcl.mixtures.conversation import converse
from dpcl.mixtures.corpus import Corpus
from dpcl.model import Model
from dpcl.networks.activity import (
    HOP,
    SIZE,
    SOFT,
    STRIDE,
    VOICE_STRIDE,
    TalkerActivity,
    Voices,
    around,
    cluster_cues,
    together,
    voice_cues,
)
from dpcl.recordings.recording import InMemory
from dpcl.recordings.separate import RecordingSeparation
from dpcl.separators.base import Analyses, Analysis, Link
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.training.phases import Fit

TALKERS = {2: 0.25, 3: 0.5, 4: 0.25}  # number of talkers: share of the conversations
TURN, LONGEST_TURN = 1.0, (4.0, 30.0)  # s, of a talker's turns: shortest, range of the longest
PAUSE, LONGEST_PAUSE = 0.5, (3.0, 40.0)  # s, of a talker's pauses
QUIETEST_DB = -25.0  # lowest level of speech, relative to the talker's median frame
WITHIN = 0.25  # s around a frame in which a talker's activity counts
WIDTH = 32  # channels of the activity network
BATCH = 32  # number of windows of a step
SHARE, AUDIBLE = 5, 14  # positions in cluster_cues: share of the bins, share that is audible
ACTIVE = 0.4  # share of the frames around a block with its talker active, to learn a voice from
TILT_DB = 3.0  # standard deviation of a random spectral tilt at either end of the band
SMOOTHING = 0.05  # share of a label that all talkers get
# Margin and scale of cosines. Source: CosFace, Wang et al. 2018.
MARGIN, SCALE = 0.2, 24.0
BLOCK_RATE = 2e-3  # learning rate of voices in conversations
RATE, DECAY = 3e-3, 1e-2  # learning rate of activity; weight decay of all


@dataclass(frozen=True)
class Conversation:
    """Conversation of C talkers in windows of equal length.

    Attributes:
        talkers: names, in the order of the clusters.
        levels: (C + 1, l', bands) of each window, float16.
        loudness: (C + 1, n) of each window.
        cues: (C, l, OF_CLUSTERS) of each window.
        active: (C, l) of each window, 1 where the talker is active.
    """

    talkers: list[str]
    levels: list[Tensor]
    loudness: list[Tensor]
    cues: list[Tensor]
    active: list[Tensor]


@dataclass
class Cues:
    """Cues of activity of one recording; `link` fills them in."""

    starts: list[int] = field(default_factory=list)
    length: int = 0
    windows: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)


class CuesOnly(DeepClustering):
    """Deep clustering that keeps the cues of activity of every window.

    Args:
        model: without an activity network.
        network: activity network, whose voice network defines the bands.
    """

    def __init__(self, model: Model, network: TalkerActivity) -> None:
        super().__init__(model)
        self.network, self.cues = network, Cues()

    def link(self, analyses: Analyses, num_sources: int | None, most: int) -> Link:
        """Link as deep clustering does, then compute the cues."""
        link = super().link(analyses, num_sources, most)
        centroids = link.state.centroids
        found = analyses.map(lambda _, analysis: self._cues(analysis, centroids))
        self.cues.windows[:] = found
        self.cues.starts, self.cues.length = analyses.windows.starts, analyses.windows.length
        return link

    def _cues(self, analysis: Analysis, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return cluster cues, levels and loudness of one window, as inference computes them."""
        encoded, magnitude = analysis[:2]
        some = encoded[::VOICE_STRIDE]
        embeddings = self.embed(some[None]).view(len(some), self.stft.bins, -1)
        rows = self.model.settings.whitening
        size = centroids.shape[-1]
        whitening = torch.eye(size) if rows is None else torch.tensor(rows)
        every = STRIDE // VOICE_STRIDE
        audible = self.audible(magnitude)[::STRIDE]
        cues = cluster_cues(embeddings[::every], audible, centroids, whitening.to(centroids))
        masks = (SOFT * functional.normalize(centroids, dim=-1) @ embeddings.mT).softmax(1)
        voice = self.network.voice
        levels, loudness = voice.levels(masks.transpose(0, 1), magnitude[::VOICE_STRIDE])
        return cues, levels, loudness


def fit_activity(model: Model, fit: Fit, corpus: Corpus, report: Report) -> Model:
    """Fit the activity network and its voice network on conversations of a corpus."""
    model = replace(model, activity=None)
    network = TalkerActivity(model.settings.signal.stft().bins, WIDTH)
    conversations = render(model, network, fit, corpus, report)
    learn_block_voices(network, conversations, fit.voice_steps, report)
    learn_activity(network, windows(network, conversations), fit.steps, report)
    return replace(model, activity=network)


def render(
    model: Model, network: TalkerActivity, fit: Fit, corpus: Corpus, report: Report
) -> list[Conversation]:
    """Render conversations, each of talkers of one corpus, and compute their cues."""
    parts: dict[str, Corpus] = {}
    for name in sorted({u.corpus for u in corpus.utterances}):
        own = tuple(u for u in corpus.utterances if u.corpus == name)
        if len({u.speaker for u in own}) >= max(TALKERS):
            parts[name] = Corpus(corpus.root, own)
    parts = parts or {"": corpus}
    hours = np.array([sum(u.seconds for u in part.utterances) for part in parts.values()])
    found = []
    rate = model.settings.signal.sample_rate
    for number in range(fit.number):
        rng = np.random.default_rng(number)
        part = parts[str(rng.choice(list(parts), p=hours / hours.sum()))]
        talkers = int(rng.choice(list(TALKERS), p=list(TALKERS.values())))
        turns = TURN, rng.uniform(*LONGEST_TURN)
        pauses = PAUSE, rng.uniform(*LONGEST_PAUSE)
        seed = int(rng.integers(1 << 31))
        names, sources = converse(part, talkers, fit.length, seed, rate, turns, pauses)
        found.append(match_talkers(CuesOnly(model, network), names, sources))
        report(Progress(number + 1, fit.number, "conversations"))
    return found


@torch.no_grad()
def match_talkers(separator: CuesOnly, talkers: list[str], sources: Tensor) -> Conversation:
    """Link a conversation of sources (C, T), and match its clusters to the talkers."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    powers = separator.stft(sources).abs().square().sum(-1)  # (C, L)
    typical = torch.stack([p[p > 1e-3 * p.max()].median() for p in powers])
    talks = (powers > 10 ** (QUIETEST_DB / 10) * typical[:, None]).float()
    reach = round(WITHIN * separator.sample_rate / separator.stft.hop)
    talks = functional.max_pool1d(talks, 2 * reach + 1, 1, reach)
    recording = InMemory(sources.sum(0, keepdim=True).numpy(), separator.sample_rate)
    with RecordingSeparation(recording, separator, len(sources)) as separation:
        separation.link()
    kept = separator.cues  # shared with a copy of the separator in another precision
    cues, levels, loudness = (list(column) for column in zip(*kept.windows, strict=True))
    active = []
    for start in kept.starts:
        talk = talks[:, start : start + kept.length]
        active.append(functional.pad(talk, (0, kept.length - talk.shape[1]))[:, ::STRIDE])
    owned = torch.cat(cues, 1)[..., SHARE]
    same = (owned - owned.mean(1, keepdim=True)) @ torch.cat(active, 1).mT  # (C, C)
    _, talker = linear_sum_assignment(same.numpy(), maximize=True)  # of each cluster
    names = [talkers[c] for c in talker]
    halves = [level.half() for level in levels]
    return Conversation(names, halves, loudness, cues, [a[talker] for a in active])


def learn_block_voices(
    network: TalkerActivity, conversations: list[Conversation], steps: int, report: Report
) -> None:
    """Train the voice network to identify the talker of every block with enough activity."""
    known = sorted({name for c in conversations for name in c.talkers})
    tracks = [
        (c.levels[w][i], c.active[w][i], known.index(c.talkers[i]))
        for c in conversations
        for w in range(len(c.levels))
        for i in range(len(c.talkers))
    ]
    shortest = min(len(level) for level, _, _ in tracks) // HOP * HOP
    talkers = torch.nn.Parameter(0.1 * torch.randn(len(known), SIZE))
    network.voice.train()
    parameters = [*network.voice.parameters(), talkers]
    optimiser = torch.optim.AdamW(parameters, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, BLOCK_RATE, steps)
    rng = np.random.default_rng(0)
    ramp = torch.linspace(-1, 1, len(network.voice.pool)) * TILT_DB / 20
    every = STRIDE // VOICE_STRIDE
    for step in range(steps):
        chosen = [tracks[i] for i in rng.choice(len(tracks), BATCH)]
        levels = torch.stack([level[:shortest].float() for level, _, _ in chosen])
        vectors = network.voice(levels + torch.randn(BATCH, 1, 1) * ramp)  # (B, n, D)
        active = torch.stack([a.repeat_interleave(every)[:shortest] for _, a, _ in chosen])
        enough = around(active.unsqueeze(1))[:, 0] > ACTIVE  # (B, n)
        names = torch.tensor([name for _, _, name in chosen])[:, None].expand_as(enough)[enough]
        if len(names):
            cosines = vectors[enough] @ functional.normalize(talkers, dim=-1).mT
            cosines = cosines - MARGIN * functional.one_hot(names, len(known))
            loss = functional.cross_entropy(SCALE * cosines, names, label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        schedule.step()
        report(Progress(step + 1, steps, "steps", "voices"))
    network.voice.eval()


@torch.no_grad()
def windows(
    network: TalkerActivity, conversations: list[Conversation]
) -> dict[int, tuple[Tensor, Tensor]]:
    """Return cues (W, C, l, cues) and activity (W, C, l) of all windows, by number of talkers."""
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for c in conversations:
        voices = [
            Voices(network.voice(level.float()), loud)
            for level, loud in zip(c.levels, c.loudness, strict=True)
        ]
        pair = together(c.cues, voice_cues(voices)), torch.stack(c.active)
        found.setdefault(len(c.talkers), []).append(pair)
    return {
        talkers: (torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]))
        for talkers, pairs in sorted(found.items())
    }


def learn_activity(
    network: TalkerActivity,
    examples: dict[int, tuple[Tensor, Tensor]],
    steps: int,
    report: Report,
) -> None:
    """Train the activity network by cross-entropy on audible frames.

    Half of the batches are reversed in time.
    """
    every = torch.cat([cues.flatten(0, 2) for cues, _ in examples.values()])
    network.mean.copy_(every.mean(0))
    network.std.copy_(every.std(0).clamp_min(1e-3))
    parameters = [p for name, p in network.named_parameters() if not name.startswith("voice.")]
    optimiser = torch.optim.AdamW(parameters, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps)
    rng = np.random.default_rng(0)
    sizes = np.array([len(cues) for cues, _ in examples.values()])
    network.train()
    network.voice.eval()
    for step in range(steps):
        cues, active = examples[int(rng.choice(list(examples), p=sizes / sizes.sum()))]
        chosen = torch.from_numpy(rng.choice(len(cues), BATCH))
        x, y = cues[chosen], active[chosen]
        if rng.random() < 0.5:
            x, y = x.flip(2), y.flip(2)
        audible = x[..., AUDIBLE] > 0
        loss = functional.binary_cross_entropy_with_logits(network(x)[audible], y[audible])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        report(Progress(step + 1, steps, "steps", "activity"))
    network.eval()
