"""Learn how the hand-made affinities of `spectral` are weighted, on training mixtures.

    python benchmarks/learn_kernels.py --root CORPUS

Mixtures are drawn from the `train` split. Of each, one set of units is drawn from all over it and
one from a single second, so that near and far pairs both count. Exponents and shares minimise

    |P_V - P_Y|^2,   P_Y = D^1/2 Y (Y' D Y)^-1 Y' D^1/2

where P_V projects on the top two eigenvectors of D^-1/2 W D^-1/2 (Bach and Jordan 2006); it lies in
[0, 4]. (|D^-1/2 W D^-1/2 - P_Y|^2 would need no eigenvectors, but is least for an affinity that is
the same for all pairs.) Prints the learned constants, for `LEARNED` in
src/dpcl/separators/classical/spectral.py, and the cost before and after.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.mixtures.corpus import read_corpus
from dpcl.mixtures.drawing import draw_list
from dpcl.mixtures.lists import render_mixture
from dpcl.separators.classical.auditory import HOP, SAMPLE_RATE, listen, unit_power
from dpcl.separators.classical.spectral import CUES, combined, cue_distances, cue_features
from dpcl.separators.classical.voices import follow_voices

UNITS = 150  # of each set
STEPS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="the corpus")
    parser.add_argument("--mixtures", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    corpus = read_corpus(arguments.root, split="train", corpora=["librispeech", "speechocean762"])
    rows = draw_list(corpus, "kernels", arguments.seed, arguments.mixtures, 2)
    random = torch.Generator().manual_seed(arguments.seed)
    cases: list[tuple[Tensor, Tensor]] = []
    for row in rows:
        cases += _cases(
            *map(torch.from_numpy, render_mixture(row, arguments.root, SAMPLE_RATE)), random
        )
    # From weights of sense, since the cost has many hollows: one product of near pairs, one of all.
    start = torch.tensor([[0.5, 0.1, 0.1, 0.1, 1.0], [0.01, 0.01, 0.01, 0.01, 1.0]]).double()
    exponents = start.expm1().log().requires_grad_()  # the inverse of softplus
    shares = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([exponents, shares], lr=0.1)
    for step in range(STEPS + 1):
        cost = torch.stack(
            [
                _cost(
                    combined(distances, functional.softplus(exponents), shares.softmax(0)), owners
                )
                for distances, owners in cases
            ]
        ).mean()
        if step % 20 == 0:
            print(f"step {step}: cost {cost.item():.4f}", flush=True)
        optimiser.zero_grad()
        cost.backward()
        optimiser.step()
    print("cues:", ", ".join(CUES))
    print(
        "exponents:",
        [[round(v, 3) for v in row] for row in functional.softplus(exponents).tolist()],
    )
    print("shares:", [round(v, 3) for v in shares.softmax(0).tolist()])


def _cases(
    mixture: Tensor, references: Tensor, random: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Distances (cues, N, N) and owners (N,) of units from all over, and from one second."""
    scene = listen(mixture)
    features = cue_features(scene, follow_voices(scene))
    heard = scene.heard.T
    loudness = scene.power.T[heard] ** 0.25
    owners = torch.stack([unit_power(reference) for reference in references]).argmax(0).T[heard]
    frame_of = heard.nonzero()[:, 0]
    second = SAMPLE_RATE // HOP
    start = int(torch.randint(max(len(heard) - second, 1), (1,), generator=random))
    near = ((frame_of >= start) & (frame_of < start + second)).nonzero()[:, 0]
    cases = []
    for pool in (torch.arange(len(frame_of)), near):
        if len(pool) < UNITS:
            continue
        # Loud units oftener, as they count for more in what is heard.
        chosen = pool[loudness[pool].multinomial(UNITS, generator=random)]
        if len(owners[chosen].unique()) > 1:
            part = {cue: values[chosen] for cue, values in features.items()}
            # In double precision: the gradient divides by differences of eigenvalues.
            cases.append((cue_distances(part, part).double(), owners[chosen]))
    return cases


def _cost(affinity: Tensor, owners: Tensor) -> Tensor:
    roots = affinity.sum(1).sqrt()
    indicators = roots[:, None] * functional.one_hot(owners, 2).to(affinity.dtype)
    indicators = indicators / indicators.norm(dim=0)
    vectors = torch.linalg.eigh(affinity / (roots[:, None] * roots))[1][:, -2:]
    return 4 - 2 * (vectors.T @ indicators).square().sum()


if __name__ == "__main__":
    main()
