"""Compare ways to count the talkers on validation, fit the one that is used, and write it.

    for n in 1 2 3; do dpcl mix draw CORPUS --split valid --only librispeech \\
        --only speechocean762 --sources $n --count 400 --seed 77 --out runs/count$n.csv; done
    python benchmarks/count.py runs/default.safetensors --root CORPUS \\
        --lists lists/valid{1,2,3}.csv runs/count{1,2,3}.csv --limit 400 \\
        --write src/dpcl/weights/default.safetensors
    python benchmarks/count.py default --root CORPUS --test lists/open{1,2,3}.csv

    for n in 1 2 3; do dpcl mix draw CORPUS --split valid --kinds lists/valid-general.yaml \\
        --sources $n --count 400 --seed 77 --out runs/general$n.csv; done
    python benchmarks/count.py general --root CORPUS --lists runs/general{1,2,3}.csv --limit 400 \\
        --prior 1 2 1 --write src/dpcl/weights/general.safetensors
    python benchmarks/count.py general --root CORPUS --test lists/open-general{1,,3}.csv

Every mixture of a list is heard twice: as the list has it, and with talkers who take turns; and
there are conversations of half a minute to three, as benchmarks/conversation.py makes them, with
talkers of `valid`, or of `test` with --test. --overlapping leaves both of these out. Two sounds of
one class, which a network hears as one, are passed over. Ways with thresholds, and the one in use,
are fitted on seven eighths of the mixtures and tried on the rest, eight times. --write then fits
the one in use on all and puts its numbers into the weights. --test counts with the numbers that the
weights have. --cache keeps what the network made of a list.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from conversation import SAMPLE_RATE, converse
from count_ways import WAYS, Way
from dpcl.recordings.long import LongSeparation
from dpcl.separators.load import load_separator
from torch import Tensor

from dpcl.clustering.count import fit, score, cues
from dpcl.mixtures.activity import gate_sources
from dpcl.mixtures.corpus import Corpus, read_corpus
from dpcl.mixtures.lists import read_list, render_mixture
from dpcl.model import CountSettings, Model, save_model
from dpcl.recordings.recording import InMemory
from dpcl.separators.deep_clustering import DeepClustering

LISTS = [Path(f"lists/valid{count}.csv") for count in (1, 2, 3)]
FOLDS = 8
PRIOR = (1.0, 1.2, 1.0)  # two at once are what people most often have
KINDS = "as listed", "turns", "conversation"
# How much each kind counts: of three who take turns for six seconds there is often too little to
# hear, and with equal ones that doubt is at the cost of those who overlap.
SHARES = (2.0, 1.0, 1.0)
MINUTES = 0.5, 3.0  # of a conversation
FIRST_SEED = 1000  # of the conversations; those of benchmarks/conversation.py begin with 0
WINDOWS, ACTIVE, TURNS = 5, (0.6, 0.3, 0.1), 0.25  # of those who come and go
HEARD = 0.1  # of a talker's energy that has to be left then


@dataclass(frozen=True)
class Heard:
    """Signs (M, CUES) of mixtures; their talkers, kinds (of KINDS) and groups (M,)."""

    cues: Tensor
    counts: Tensor
    kinds: Tensor
    groups: Tensor

    def of(self, chosen: Tensor) -> Heard:
        """Some of the mixtures."""
        return Heard(*(getattr(self, field.name)[chosen] for field in fields(self)))


class Signs(DeepClustering):
    """Keeps the cues of what it should count."""

    def count(self, points: Tensor, weights: Tensor, frames: Tensor, most: int = 1) -> int:
        self.found = cues(points, weights, frames)
        return 1


def hear_list(model: Model, path: Path, root: Path, limit: int) -> Heard:
    """The first `limit` mixtures of a list as they are, and with turns."""
    separator, rows = Signs(model), []
    for number, row in enumerate(read_list(path)[:limit]):
        if row.kind.endswith(":same"):
            continue
        _, sources = render_mixture(row, root, separator.sample_rate)
        for kind, heard in enumerate((sources, _turns(sources, number))):
            separator(torch.from_numpy(heard.sum(0)))
            rows.append((separator.found, len(row.sources), kind, number))
    return _stacked(rows)


def hear_conversations(model: Model, corpus: Corpus, number: int) -> Heard:
    """So many conversations each of one, two and three talkers."""
    separator, rows = Signs(model), []
    for seed in range(FIRST_SEED, FIRST_SEED + number):
        for talkers in (1, 2, 3):
            minutes = np.random.default_rng(seed).uniform(*MINUTES)
            _, sources = converse(corpus, talkers, minutes, seed)
            recording = InMemory(sources.sum(0, keepdim=True).numpy(), SAMPLE_RATE)
            with LongSeparation(recording, separator):
                rows.append((separator.found, talkers, 2, seed))
    return _stacked(rows)


def _stacked(rows: list[tuple[Tensor, int, int, int]]) -> Heard:
    found, *others = zip(*rows, strict=True)
    return Heard(torch.stack(found), *(torch.tensor(other) for other in others))


def kept(cache: Path | None, name: str, model: Model, of: str, hear: Callable[[], Heard]) -> Heard:
    """What was heard, from a file in the cache if the same was heard before."""
    if cache is None:
        return hear()
    key = hashlib.sha256(of.encode())
    for value in model.network.state_dict().values():
        key.update(value.numpy().tobytes())
    path = cache / f"{name}-{key.hexdigest()[:12]}.pt"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(astuple(hear()), path)
    return Heard(*torch.load(path))


def _turns(sources: np.ndarray, seed: int) -> np.ndarray:
    """Sources (C, T) of which all are still heard, but seldom at once."""
    random = np.random.default_rng(seed)
    whole = sources[:, : sources.shape[1] // WINDOWS * WINDOWS]
    energies = np.square(whole).sum(1)
    while True:
        gated = gate_sources(whole, random, WINDOWS, ACTIVE[: len(sources)], TURNS)
        if (np.square(gated).sum(1) >= HEARD * energies).all():
            return gated


def accuracy(numbers: Tensor, counts: Tensor) -> float:
    """Mean over the numbers of talkers, each counting the same."""
    right = (numbers == counts).double()
    return float(torch.stack([right[counts == c].mean() for c in counts.unique()]).mean())


def by_network(found: Tensor, settings: CountSettings) -> Tensor:
    """The way in use."""
    tables = (torch.tensor(t, dtype=torch.float64) for t in (settings.hidden, settings.output))
    return score(found, *tables).argmax(1) + 1


def fitted_network(heard: Heard, prior: Sequence[float]) -> CountSettings:
    """Kinds and numbers of talkers count as SHARES and the prior say, however many there are."""
    importance = torch.tensor(SHARES)[heard.kinds] * torch.tensor(prior)[heard.counts - 1]
    each = heard.kinds * len(prior) + heard.counts - 1
    importance = importance / each.bincount()[each]
    hidden, output = fit(heard.cues, heard.counts, importance)
    return CountSettings(hidden=hidden, output=output)


def tried(heard: Heard, fitted: Callable[[Heard], Callable[[Tensor], Tensor]]) -> Tensor:
    """Numbers (M,) of a way, of each mixture when it was fitted without it and those of its group.

    Lists of one seed share talkers row by row: a row's mixtures are left out together.
    """
    numbers = torch.zeros_like(heard.counts)
    fold = heard.groups % FOLDS
    for out in range(FOLDS):
        rest = fold != out
        numbers[~rest] = fitted(heard.of(rest))(heard.cues[~rest])
    return numbers


def print_row(name: str, numbers: Tensor, heard: Heard) -> None:
    cells = [name]
    for kind in torch.unique(heard.kinds):
        these = heard.kinds == kind
        right, counts = numbers[these] == heard.counts[these], heard.counts[these]
        for count in torch.unique(counts):
            cells.append(f"{100 * float(right[counts == count].double().mean()):.0f}")
        cells.append(f"{100 * accuracy(numbers[these], counts):.1f}")
    print(f"| {' | '.join(cells)} |", flush=True)


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
    parser.add_argument(
        "--conversations", type=int, default=40, help="of each number of talkers (default 40)"
    )
    parser.add_argument("--overlapping", action="store_true", help="mixtures as listed alone")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()

    model = load_separator(arguments.weights).model
    root, limit = arguments.root, arguments.limit
    parts = []
    for path in arguments.test or arguments.lists:
        of = f"{limit} {path.read_text()}"
        parts.append(kept(arguments.cache, path.stem, model, of, partial(
            hear_list, model, path, root, limit
        )))  # fmt: skip
    if arguments.conversations and not arguments.overlapping:
        corpus = read_corpus(root, "test" if arguments.test else "valid", ["librispeech"])
        of = f"{arguments.conversations} {corpus.utterances}"
        parts.append(kept(arguments.cache, "conversations", model, of, partial(
            hear_conversations, model, corpus, arguments.conversations
        )))  # fmt: skip
    heard = Heard(*(torch.cat(columns) for columns in zip(*map(astuple, parts), strict=True)))
    if arguments.overlapping:
        heard = heard.of(heard.kinds == 0)
    print("right in %, by kind of mixture and number of talkers\n")
    titles = ["way"]
    for kind in torch.unique(heard.kinds):
        numbers = torch.unique(heard.counts[heard.kinds == kind]).tolist()
        titles += [f"{KINDS[kind]}: {numbers[0]}", *map(str, numbers[1:]), "mean"]
    print(f"| {' | '.join(titles)} |\n|---|" + "--:|" * (len(titles) - 1))
    if arguments.test:
        if model.settings.count is None:
            parser.error("these weights were not taught to count; fit them with --write first")
        print_row("in use", by_network(heard.cues, model.settings.count), heard)
        return
    for name, (way, choices) in WAYS.items():

        def fitted(known: Heard, way: Way = way, choices=choices):  # type: ignore[no-untyped-def]
            def bounded(found: Tensor, choice: tuple[float, ...]) -> Tensor:
                return way(found, *choice).clamp(max=int(heard.counts.max()))

            best = max(
                choices, key=lambda choice: accuracy(bounded(known.cues, choice), known.counts)
            )
            return lambda unseen: bounded(unseen, best)

        print_row(name, tried(heard, fitted), heard)

    def network(known: Heard) -> Callable[[Tensor], Tensor]:
        count = fitted_network(known, arguments.prior)
        return lambda unseen: by_network(unseen, count)

    print_row("a network on all of these cues (in use)", tried(heard, network), heard)
    if arguments.write:
        count = fitted_network(heard, arguments.prior)
        settings = model.settings.model_copy(update={"count": count})
        save_model(replace(model, settings=settings), arguments.write, half=True)
        print(f"\n{arguments.write}: written")


if __name__ == "__main__":
    main()
