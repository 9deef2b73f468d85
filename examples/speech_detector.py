"""Fit the detector of speech beside the voice encoder: where there is speech in half a second.

    python examples/speech_detector.py CORPUS speech.safetensors

Logistic regression on the means and deviations of encoded frames. Examples: mixtures of one or two
talkers under the conditions of recipes/default.yaml without babble, and their backgrounds alone.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from dpcl.io import no_report
from dpcl.mixtures.conditions import ConditionedMixtures, prepare_conditions
from dpcl.mixtures.corpus import pack_corpus
from dpcl.networks.voice import CONTEXT, RATE, shipped_voices, statistics
from dpcl.training.batches import read_data
from dpcl.training.phases import read_plan

SECONDS, ITEMS, SHARE, SEED = 4.0, 1800, 150, 5  # of a mixture; mixtures in all and in a process
BLOCK = RATE // 2
SPEECH, LOUD, SILENT = 0.3, 0.02, 1e-4  # power relative to the background; to the loudest block
DECAY, TESTED = 2e-3, 0.15  # of the weights; share of the last blocks, which test the detector


def mixtures(corpus: str, split: str) -> ConditionedMixtures:
    """Return mixtures of the recipe `default` at 16 kHz, without babble."""
    recipe = read_plan("default", [], [corpus]).recipe
    data = recipe.data.model_copy(update={"split": split})
    assert data.conditions is not None
    background = data.conditions.background
    shares = {name: share for name, share in background.shares.items() if name != "babble"}
    shares = {name: share / sum(shares.values()) for name, share in shares.items()}
    background = background.model_copy(update={"probability": 0.9, "shares": shares})
    settings = data.conditions.model_copy(update={"talkers": (0.6, 0.4), "background": background})
    packed = pack_corpus(read_data(data, split), RATE, data.cache, no_report)
    parts = prepare_conditions(settings, data.corpora[0], RATE, data.cache, no_report)
    return ConditionedMixtures(settings, packed, parts, round(SECONDS * RATE), ITEMS, SEED)


def blocks(encoded: Tensor) -> Tensor:
    """Return the statistics (n, 2 * channels) of every CONTEXT encoded frames (channels, l)."""
    parts = encoded[:, : encoded.shape[1] // CONTEXT * CONTEXT].unflatten(1, (-1, CONTEXT))
    return statistics(parts.mean(-1), parts.square().mean(-1)).T


@torch.no_grad()
def examples(corpus: str, first: int) -> tuple[Tensor, Tensor]:
    """Return statistics (n, 2 * channels) of blocks of SHARE mixtures, and 1 for speech (n,)."""
    torch.set_num_threads(1)
    drawn, found, labels = mixtures(corpus, "train"), [], []
    for item in range(first, first + SHARE):
        mixture = drawn[item]
        talkers = mixture.sources.sum(0).view(-1, BLOCK).square().mean(1)
        noise = mixture.background.view(-1, BLOCK).square().mean(1)
        if not noise.any():
            continue
        whole, alone = shipped_voices().encode(torch.stack([mixture.mixture, mixture.background]))
        speech = (talkers > LOUD * talkers.max()) & (talkers > SPEECH * noise)
        silent = (talkers < SILENT * talkers.max()) & (noise > 0)
        for encoded, chosen, label in (
            (whole, speech, 1.0),
            (whole, silent, 0.0),
            (alone, noise > 0, 0.0),
        ):
            found.append(blocks(encoded)[: len(chosen)][chosen])
            labels.append(torch.full((len(found[-1]),), label))
    return torch.cat(found), torch.cat(labels)


def main() -> None:
    """Fit the detector, and write it."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    corpus, out = sys.argv[1:]
    mixtures(corpus, "train")  # packs the corpus once
    firsts = range(0, ITEMS, SHARE)
    with ProcessPoolExecutor() as pool:
        parts = list(pool.map(examples, [corpus] * len(firsts), firsts))
    found, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    tested = torch.arange(len(found)) >= (1 - TESTED) * len(found)
    mean, scale = found.mean(0), found.std(0) + 0.05
    scaled = (found - mean) / scale
    layer = nn.Linear(found.shape[1], 1)
    nn.init.zeros_(layer.weight)
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        odds = layer(scaled[~tested])[:, 0]
        value = functional.binary_cross_entropy_with_logits(odds, labels[~tested])
        value = value + DECAY * layer.weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        right = (layer(scaled[tested])[:, 0] > 0) == (labels[tested] > 0)
        print(f"{len(found)} blocks; right for {right.float().mean():.1%} of the tested ones")
        weight = layer.weight / scale
        bias = layer.bias - weight @ mean
    save_file({"weight": weight.contiguous(), "bias": bias}, Path(out))


if __name__ == "__main__":
    main()
