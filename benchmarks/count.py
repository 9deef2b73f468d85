"""Compare ways to count the talkers on validation, fit the one that is used, and write it.

    for n in 1 2 3; do dpcl mix draw CORPUS --split valid --only librispeech \\
        --only speechocean762 --sources $n --count 400 --seed 77 --out runs/count$n.csv; done
    python benchmarks/count.py runs/default.safetensors --root CORPUS \\
        --lists lists/valid{1,2,3}.csv runs/count{1,2,3}.csv --limit 400 \\
        --write src/dpcl/weights/default.safetensors
    python benchmarks/count.py default --root CORPUS --test lists/open{1,2,3}.csv

Every mixture is heard twice: as the list has it, and with talkers who come and go; --overlapping
leaves the latter out. Ways with
thresholds, and the one in use, are fitted on seven eighths of the mixtures and tried on the
rest, eight times. --write then fits the one in use on all and puts its numbers into the
weights. --test counts with the numbers that the weights have. --cache keeps what the network
made of a list.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dpcl.clustering.count import CLUSTERS, EIGENVALUES, OF_CLOUD, fit, score, signs
from dpcl.mixtures.activity import come_and_go
from dpcl.mixtures.lists import read_list, render_mixture
from dpcl.networks.model import CountSettings, Model, save_model
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.load import load_separator

LISTS = [Path(f"lists/valid{count}.csv") for count in (1, 2, 3)]
FOLDS = 8
PRIOR = (1.0, 1.2, 1.0)  # two at once are what people most often have
# Of a mixture as the list has it, where one with turns counts 1: of three who take turns there is
# often too little to hear, and with equal ones the doubt is at the cost of those who overlap.
OVERLAPPING = 2.0
WINDOWS, ACTIVE, TURNS = 5, (0.6, 0.3, 0.1), 0.25  # of those who come and go
HEARD = 0.1  # of a talker's energy that has to be left then


@dataclass(frozen=True)
class Heard:
    """Signs (M, SIGNS) of mixtures, their talkers (M,), and whether these come and go (M,)."""

    signs: Tensor
    counts: Tensor
    turns: Tensor


def hear(
    separator: DeepClustering, path: Path, root: Path, limit: int, cache: Path | None
) -> Heard:
    """Both kinds of the first `limit` mixtures of a list."""
    name = hashlib.sha256(path.read_bytes())
    for value in separator.model.network.state_dict().values():
        name.update(value.numpy().tobytes())
    kept = cache / f"{path.stem}-{limit}-{name.hexdigest()[:12]}.pt" if cache else None
    if kept and kept.is_file():
        return Heard(*torch.load(kept))
    found, counts, turns = [], [], []
    for number, row in enumerate(read_list(path)[:limit]):
        _, sources = render_mixture(row, root, separator.sample_rate)
        for kind, heard in enumerate((sources, _turns(sources, number))):
            spectrum = separator.stft(torch.from_numpy(heard.sum(0))[None])  # (1, L, F)
            weights = separator.weights(spectrum)[0]
            frames = torch.arange(len(weights)) // spectrum.shape[-1]
            found.append(signs(separator.embed(spectrum)[0], weights, frames))
            counts.append(len(row.sources))
            turns.append(bool(kind))
    result = Heard(torch.stack(found), torch.tensor(counts), torch.tensor(turns))
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save((result.signs, result.counts, result.turns), kept)
    return result


def _turns(sources: np.ndarray, seed: int) -> np.ndarray:
    """Sources (C, T) of which all are still heard, but seldom at once."""
    random = np.random.default_rng(seed)
    whole = sources[:, : sources.shape[1] // WINDOWS * WINDOWS]
    energies = np.square(whole).sum(1)
    while True:
        gated = come_and_go(whole, random, WINDOWS, ACTIVE[: len(sources)], TURNS)
        if (np.square(gated).sum(1) >= HEARD * energies).all():
            return gated


# Ways to count: signs (M, SIGNS) and thresholds -> numbers (M,); and the thresholds to choose from.
# All are bounded by the same most, that of the lists, as the regression is.
def _inertia(found: Tensor) -> Tensor:
    """(M, CLUSTERS): mean squared distance to the nearest of 1, 2, … centroids."""
    return found[:, [EIGENVALUES + 1, *range(EIGENVALUES + 2, OF_CLOUD, 3)]].exp()


def by_eigenvalues(found: Tensor, threshold: float) -> Tensor:
    return (found[:, :EIGENVALUES].exp() > threshold).sum(1).clamp(min=1)


def by_gap(found: Tensor) -> Tensor:
    return (found[:, :4] - found[:, 1:5]).argmax(1) + 1


def by_rank(found: Tensor, *thresholds: float) -> Tensor:
    rank = found[:, EIGENVALUES].exp()
    return 1 + sum((rank > threshold).long() for threshold in thresholds)


def by_evidence(found: Tensor, size: float) -> Tensor:
    """Bayes' information criterion of k equal round Gaussians, K taken as 20.

    size: how many independent points the bins are worth; neighbours say the same.
    """
    width = 20
    sizes = torch.arange(1, CLUSTERS + 1)
    fit = size * width * _inertia(found).log() / 2
    return (fit + sizes * (width + 1) / 2 * np.log(size)).argmin(1) + 1


def by_silhouette(found: Tensor, threshold: float) -> Tensor:
    best, number = found[:, EIGENVALUES + 4 : OF_CLOUD : 3].max(1)
    return torch.where(best > threshold, number + 2, 1)


def by_merging(found: Tensor, threshold: float) -> Tensor:
    """The most clusters whose centroids all keep their distance."""
    apart = found[:, EIGENVALUES + 3 : OF_CLOUD : 3] < threshold  # (M, CLUSTERS - 1)
    return 1 + apart.long().cumprod(1).sum(1)


def by_inertia(found: Tensor, threshold: float) -> Tensor:
    """The first number of clusters that leaves little of the spread."""
    little = _inertia(found) < threshold
    return torch.where(little.any(1), little.long().argmax(1) + 1, CLUSTERS)


SHARES = tuple(np.linspace(0.02, 0.98, 49))
SIZES = tuple(np.geomspace(3, 3000, 40))
RANKS = tuple((a, b, c) for a, b, c in product(np.arange(1.5, 12, 0.5), repeat=3) if a < b < c)
Way = Callable[..., Tensor]
WAYS: dict[str, tuple[Way, Sequence[tuple[float, ...]]]] = {
    "eigenvalues over a threshold": (by_eigenvalues, [(share / 2,) for share in SHARES]),
    "largest gap of eigenvalues": (by_gap, [()]),
    "effective rank, three thresholds": (by_rank, RANKS),
    "evidence (BIC), size fitted": (by_evidence, [(size,) for size in SIZES]),
    "best silhouette, one under a threshold": (by_silhouette, [(share,) for share in SHARES]),
    "clusters merged by cosine": (by_merging, [(share,) for share in SHARES]),
    "inertia under a threshold": (by_inertia, [(share,) for share in SHARES]),
}


def accuracy(numbers: Tensor, counts: Tensor) -> float:
    """Mean over the numbers of talkers, each counting the same."""
    right = (numbers == counts).double()
    return float(torch.stack([right[counts == c].mean() for c in counts.unique()]).mean())


def by_network(found: Tensor, settings: CountSettings) -> Tensor:
    """The way in use."""
    tables = (torch.tensor(t, dtype=torch.float64) for t in (settings.hidden, settings.output))
    return score(found, *tables).argmax(1) + 1


def fitted_network(heard: Heard, prior: Sequence[float]) -> CountSettings:
    """All numbers of talkers count as the prior says, however many mixtures have them."""
    importance = torch.tensor(prior)[heard.counts - 1] / heard.counts.bincount()[heard.counts]
    importance = torch.where(heard.turns, importance, OVERLAPPING * importance)
    hidden, output = fit(heard.signs, heard.counts, importance)
    return CountSettings(hidden=hidden, output=output)


def tried(heard: Heard, fitted: Callable[[Heard], Callable[[Tensor], Tensor]]) -> Tensor:
    """Numbers (M,) of a way, of each mixture when it was fitted without it and its other kind."""
    numbers = torch.zeros_like(heard.counts)
    # Lists of one seed share talkers row by row: a row's mixtures are left out together.
    fold = torch.cat([torch.arange(int((heard.counts == c).sum())) for c in heard.counts.unique()])
    fold = (fold if not heard.turns.any() else fold // 2) % FOLDS
    for out in range(FOLDS):
        rest = fold != out
        numbers[~rest] = fitted(of(heard, rest))(heard.signs[~rest])
    return numbers


def of(heard: Heard, chosen: Tensor) -> Heard:
    """Some of the mixtures."""
    return Heard(heard.signs[chosen], heard.counts[chosen], heard.turns[chosen])


def print_row(name: str, numbers: Tensor, heard: Heard) -> None:
    cells = []
    for turns in (False, True):
        for count in heard.counts.unique():
            these = (heard.counts == count) & (heard.turns == turns)
            right = 100 * float((numbers[these] == count).double().mean()) if these.any() else None
            cells.append("" if right is None else f"{right:.0f}")
    means = [
        f"{100 * accuracy(numbers[these], heard.counts[these]):.1f}"
        for these in (~heard.turns, heard.turns)
        if these.any()
    ]
    print(f"| {name} | {' | '.join(cells)} | {' / '.join(means)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="a shipped model or a .safetensors file")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--lists", type=Path, nargs="+", default=LISTS)
    parser.add_argument(
        "--test", type=Path, nargs="+", help="count these instead; nothing is fitted"
    )
    parser.add_argument("--limit", type=int, default=100, help="mixtures of each list")
    parser.add_argument(
        "--prior", type=float, nargs="+", default=PRIOR, help="of 1, 2, … talkers (default 1 1.2 1)"
    )
    parser.add_argument("--overlapping", action="store_true")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()

    separator = load_separator(arguments.weights)
    settings = separator.model.settings
    parts = [
        hear(separator, path, arguments.root, arguments.limit, arguments.cache)
        for path in arguments.test or arguments.lists
    ]
    heard = Heard(
        torch.cat([part.signs for part in parts]),
        torch.cat([part.counts for part in parts]),
        torch.cat([part.turns for part in parts]),
    )
    if arguments.overlapping:
        heard = of(heard, ~heard.turns)
    names = [str(int(count)) for count in heard.counts.unique()]
    print(
        "right in %, by number of talkers: as the lists have them, and with turns; mean of both\n"
    )
    print(f"| way | {' | '.join(names)} | {' | '.join(f'{name}, turns' for name in names)} | all |")
    print("|---|" + "--:|" * (2 * len(names) + 1))
    if arguments.test:
        if settings.count is None:
            parser.error("these weights have no coefficients; fit them with --write first")
        print_row("in use", by_network(heard.signs, settings.count), heard)
        return
    for name, (way, choices) in WAYS.items():

        def fitted(known: Heard, way: Way = way, choices=choices):  # type: ignore[no-untyped-def]
            def bounded(found: Tensor, choice: tuple[float, ...]) -> Tensor:
                return way(found, *choice).clamp(max=int(heard.counts.max()))

            best = max(
                choices, key=lambda choice: accuracy(bounded(known.signs, choice), known.counts)
            )
            return lambda unseen: bounded(unseen, best)

        print_row(name, tried(heard, fitted), heard)

    def network(known: Heard) -> Callable[[Tensor], Tensor]:
        count = fitted_network(known, arguments.prior)
        return lambda unseen: by_network(unseen, count)

    print_row("a network on all of these signs (in use)", tried(heard, network), heard)
    if arguments.write:
        count = fitted_network(heard, arguments.prior)
        chosen = settings.model_copy(update={"count": count})
        save_model(
            Model(chosen, separator.model.network, separator.model.notes), arguments.write, True
        )
        print(f"\n{arguments.write}: written")


if __name__ == "__main__":
    main()
