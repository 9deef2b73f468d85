"""Learn who talks when in a long recording: voices first, then who is active.

    python benchmarks/talker_activity.py runs/default.safetensors --root CORPUS \\
        --write src/dpcl/weights/default.safetensors

Renders conversations of the `train` split (conversation.py), of two to four talkers with turns and
pauses of very different lengths, and hears them as any long recording is heard. On what each
cluster owns dpcl.networks.activity learns which talker that is, and dpcl.networks.activity then
who talks within a quarter of a second. Conversations of `valid` tell how often that is right,
in the first of two passes, beside whether a source owns more than a share of the bins, the best
there is. Whitened embeddings come first (whitening.py).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import conversation
import numpy as np
import torch
from dpcl.recordings.long import LongSeparation
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from dpcl.mixtures.corpus import read_corpus
from dpcl.model import load_model, save_model
from dpcl.networks import activity
from dpcl.networks.activity import STRIDE, TalkerActivity, Voices, around, together, voice_cues
from dpcl.recordings.recording import InMemory
from dpcl.separators.deep_clustering import DeepClustering

CORPORA = {"librispeech": 0.7, "speechocean762": 0.3}  # how often each is drawn
TALKERS = {2: 0.25, 3: 0.5, 4: 0.25}
QUIETEST_DB = -25.0  # of a talker's median frame: what is fainter is a pause
WITHIN = 0.25  # s
WIDTH = 32
BATCH = 32  # windows
SHARE, AUDIBLE = 5, 14  # which cues these are
HEARD = 0.4  # of the frames around a block, in which its talker is active, to learn a voice from
TILT_DB = 3.0  # standard deviation of the spectral tilt, at either end, that voices are heard with
MARGIN, SCALE = 0.2, 24.0  # of cosines: CosFace, Wang et al. 2018


@dataclass(frozen=True)
class Conversation:
    """Of C talkers, cut into equally long windows."""

    talkers: list[str]
    levels: list[Tensor]  # (C + 1, l', bands) of each window, float16
    loudness: list[Tensor]  # (C + 1, n)
    cues: list[Tensor]  # (C, l, OF_CLUSTERS)
    active: list[Tensor]  # (C, l)


def render(
    separator: DeepClustering,
    network: TalkerActivity,
    root: Path,
    split: str,
    conversations: int,
    minutes: float,
) -> list[Conversation]:
    """Conversations heard."""
    corpora = {name: read_corpus(root, split, [name]) for name in CORPORA}
    found = []
    for number in range(conversations):
        rng = np.random.default_rng(number)
        corpus = str(rng.choice(list(CORPORA), p=list(CORPORA.values())))
        talkers = int(rng.choice(list(TALKERS), p=list(TALKERS.values())))
        turn, pause = (1.0, rng.uniform(4, 30)), (0.5, rng.uniform(3, 40))
        names, sources = conversation.converse(
            corpora[corpus], talkers, minutes, int(rng.integers(1 << 31)), turn, pause
        )
        found.append(listen(separator, network, [f"{corpus}/{name}" for name in names], sources))
        print(f"\r{number + 1} of {conversations} conversations of {split}", end="", flush=True)
    print()
    return found


@torch.no_grad()
def listen(
    separator: DeepClustering, network: TalkerActivity, talkers: list[str], sources: Tensor
) -> Conversation:
    """Sources (C, T), whose levels are as the network's voices hear them."""
    powers = separator.stft(sources).abs().square().sum(-1)  # (C, L)
    typical = torch.stack([p[p > 1e-3 * p.max()].median() for p in powers])
    talks = (powers > 10 ** (QUIETEST_DB / 10) * typical[:, None]).float()
    reach = round(WITHIN * separator.sample_rate / separator.stft.hop)
    talks = functional.max_pool1d(talks, 2 * reach + 1, 1, reach)
    recording = InMemory(sources.sum(0, keepdim=True).numpy(), separator.sample_rate)
    with LongSeparation(recording, separator, len(sources)) as separation:
        knows = DeepClustering(replace(separation.separator.model, activity=network))
        cues, levels, loudness, active = [], [], [], []
        for start, kept in zip(separation.windows.starts, separation.kept(), strict=True):
            told = knows.talkers(*kept, separation.centroids)
            cues.append(told.cues)
            levels.append(told.levels.half())
            loudness.append(told.loudness)
            talk = talks[:, start : start + separation.windows.length]
            short = separation.windows.length - talk.shape[1]
            active.append(functional.pad(talk, (0, short))[:, ::STRIDE])
    owned = torch.cat(cues, 1)[..., SHARE]
    same = (owned - owned.mean(1, keepdim=True)) @ torch.cat(active, 1).mT  # (C, C)
    _, talker = linear_sum_assignment(same.numpy(), maximize=True)  # of each cluster
    names = [talkers[c] for c in talker]
    return Conversation(names, levels, loudness, cues, [a[talker] for a in active])


def learn_voices(network: TalkerActivity, train: list[Conversation], steps: int) -> None:
    """Of every block in which a talker is active enough: who of the talkers of `train` it is."""
    everybody = sorted({name for c in train for name in c.talkers})
    tracks = [
        (c.levels[w][i], c.active[w][i], everybody.index(c.talkers[i]))
        for c in train
        for w in range(len(c.levels))
        for i in range(len(c.talkers))
    ]
    shortest = min(len(level) for level, _, _ in tracks) // activity.HOP * activity.HOP
    talkers = torch.nn.Parameter(0.1 * torch.randn(len(everybody), activity.SIZE))
    network.voice.train()
    parameters = [*network.voice.parameters(), talkers]
    optimiser = torch.optim.AdamW(parameters, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps)
    rng = np.random.default_rng(0)
    ramp = torch.linspace(-1, 1, len(network.voice.pool)) * TILT_DB / 20
    for step in range(1, steps + 1):
        chosen = [tracks[i] for i in rng.choice(len(tracks), BATCH)]
        levels = torch.stack([level[:shortest].float() for level, _, _ in chosen])
        vectors = network.voice(levels + torch.randn(BATCH, 1, 1) * ramp)  # (B, n, D)
        active = torch.stack(
            [a.repeat_interleave(STRIDE // activity.VOICE_STRIDE)[:shortest] for _, a, _ in chosen]
        )
        heard = around(active.unsqueeze(1))[:, 0] > HEARD  # (B, n)
        names = torch.tensor([name for _, _, name in chosen])[:, None].expand_as(heard)[heard]
        cosines = vectors[heard] @ functional.normalize(talkers, dim=-1).mT
        cosines = cosines - MARGIN * functional.one_hot(names, len(everybody))
        loss = functional.cross_entropy(SCALE * cosines, names, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            print(f"voices, step {step}: loss {loss.item():.2f}", flush=True)
    network.voice.eval()


@torch.no_grad()
def windows(
    network: TalkerActivity, conversations: list[Conversation]
) -> dict[int, tuple[Tensor, Tensor]]:
    """By the number of talkers, the cues of all windows and who is active in them."""
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
    train: dict[int, tuple[Tensor, Tensor]],
    valid: dict[int, tuple[Tensor, Tensor]],
    steps: int,
) -> None:
    """Cross-entropy where anything is audible; in half of the batches time runs backwards."""
    every = torch.cat([cues.flatten(0, 2) for cues, _ in train.values()])
    network.mean.copy_(every.mean(0))
    network.std.copy_(every.std(0).clamp_min(1e-3))
    parameters = [p for name, p in network.named_parameters() if not name.startswith("voice.")]
    optimiser = torch.optim.AdamW(parameters, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps)
    rng = np.random.default_rng(0)
    sizes = np.array([len(cues) for cues, _ in train.values()])
    for step in range(1, steps + 1):
        cues, active = train[int(rng.choice(list(train), p=sizes / sizes.sum()))]
        chosen = torch.from_numpy(rng.choice(len(cues), BATCH))
        x, y = cues[chosen], active[chosen]
        if rng.random() < 0.5:
            x, y = x.flip(2), y.flip(2)
        audible = x[..., AUDIBLE] > 0
        loss = functional.binary_cross_entropy_with_logits(network(x)[audible], y[audible])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 200 == 0 or step == steps:
            network.eval()
            print(f"activity, step {step}: {report(network, valid)}", flush=True)
            network.train()
    network.eval()


@torch.no_grad()
def report(network: TalkerActivity, valid: dict[int, tuple[Tensor, Tensor]]) -> str:
    """How often it is right on frames in which anything is audible."""
    parts = []
    for talkers, (cues, active) in valid.items():
        audible = cues[..., AUDIBLE] > 0
        talks, shares = active[audible] > 0.5, cues[..., SHARE][audible]
        odds = torch.cat([network(some) for some in cues.split(BATCH)])[audible]
        by_share = max(
            ((shares > threshold) == talks).float().mean().item()
            for threshold in np.linspace(0.02, 0.5, 49)
        )
        right = ((odds > 0) == talks).float().mean().item()
        parts.append(f"{talkers} talkers {right:.1%} right, by share {by_share:.1%}")
    return "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="the corpus")
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--voice-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = replace(load_model(arguments.weights), activity=None)
    separator = DeepClustering(model)
    network = TalkerActivity(separator.stft.bins, WIDTH)
    conversation.SAMPLE_RATE = separator.sample_rate
    root, number, minutes = arguments.root, arguments.conversations, arguments.minutes
    valid = render(separator, network, root, "valid", -(-number // 8), minutes)
    train = render(separator, network, root, "train", number, minutes)
    learn_voices(network, train, arguments.voice_steps)
    learn_activity(network, windows(network, train), windows(network, valid), arguments.steps)
    if arguments.write:
        save_model(replace(model, activity=network), arguments.write, half=True)
        print(arguments.write)


if __name__ == "__main__":
    main()
