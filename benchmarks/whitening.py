"""Learn how the embeddings of one talker drift in a conversation, for long recordings.

    python benchmarks/whitening.py runs/default.safetensors --root CORPUS \\
        --write src/dpcl/weights/default.safetensors

Renders conversations of the `train` split (conversation.py). Of every stretch of half a second that
one talker all but fills, the mean of the embeddings is compared with the mean of all such stretches
of that talker in that conversation: the scatter is whitened (dpcl.clustering.solo.whiten), and the
(K, K) transform goes into the settings of the written file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import conversation
import torch
from dpcl.recordings.long import OVERLAP, WINDOW
from torch import Tensor

from dpcl.clustering.solo import FAINTEST, whiten
from dpcl.mixtures.corpus import read_corpus
from dpcl.model import Model, ModelSettings, load_model, save_model
from dpcl.recordings.cache import STRETCH
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.signal.windows import Windows

ALONE = 0.9  # of the weight of a stretch, in bins that one talker dominates
FEWEST = 5  # stretches of a talker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="the corpus")
    parser.add_argument("--conversations", type=int, default=120)
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()

    model = load_model(arguments.weights)
    separator = DeepClustering(model)
    conversation.SAMPLE_RATE = separator.sample_rate
    corpus = read_corpus(arguments.root, "train", ["librispeech", "speechocean762"])
    deviations: list[Tensor] = []
    for seed in range(arguments.conversations):
        _, sources = conversation.converse(corpus, 3, arguments.minutes, seed)
        means, talkers = stretches(separator, sources)
        for talker in range(len(sources)):
            own = means[talkers == talker]
            if len(own) >= FEWEST:
                deviations.append(own - own.mean(0))
        print(f"\r{seed + 1} of {arguments.conversations} conversations", end="", flush=True)
    drift = torch.cat(deviations).double()  # (stretches, K)
    whitening = whiten(drift.mT @ drift / len(drift)).float()
    print(f"\n{len(drift)} stretches; mean squared deviation {drift.square().sum(-1).mean():.4f}")
    if arguments.write:
        rows = [[round(value, 4) for value in row] for row in whitening.tolist()]
        settings = ModelSettings.model_validate(model.settings.model_dump() | {"whitening": rows})
        # Without who talks when: talker_activity.py learns that on whitened embeddings, next.
        save_model(Model(settings, model.network, model.notes), arguments.write, half=True)
        print(arguments.write)


@torch.no_grad()
def stretches(separator: DeepClustering, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Sources (C, T) of a conversation -> means (n, K) of stretches, who is alone in each (n,)."""
    mixture = sources.sum(0)
    magnitudes = separator.stft(mixture).abs() / mixture.abs().max()  # (L, F)
    owners = separator.stft(sources).abs().argmax(0)  # (L, F)
    hops = separator.sample_rate / separator.stft.hop
    windows = Windows(len(magnitudes), round(WINDOW * hops), round(OVERLAP * hops))
    length = round(STRETCH * hops)
    parts = [slice(start, start + windows.length) for start in windows.starts]
    heard = separator.encode(torch.stack([magnitudes[part] for part in parts]))
    means, masses, shares = [], [], []
    for part, window in zip(parts, heard, strict=True):
        weights = separator.weights(magnitudes[part]).view(windows.length, -1)
        embeddings = separator.embeddings(window[None]).view(*weights.shape, -1)
        for frames in torch.arange(windows.length).split(length):
            pull = weights[frames]
            masses.append(pull.sum())
            means.append((pull.unsqueeze(-1) * embeddings[frames]).sum((0, 1)) / pull.sum())
            dominated = [pull[owners[part][frames] == c].sum() for c in range(len(sources))]
            shares.append(torch.stack(dominated) / pull.sum())
    mass, share = torch.stack(masses), torch.stack(shares)
    clear = (share.amax(-1) > ALONE) & (mass > FAINTEST * mass[mass > 0].median())
    return torch.stack(means)[clear], share.argmax(-1)[clear]


if __name__ == "__main__":
    main()
