"""Average the weights of two trainings of one network, one of which began with the other's.

python benchmarks/average_weights.py FIRST SECOND --share 0.8 --out AVERAGE

The average often scores above both (Wortsman et al. 2022, "Robust fine-tuning of zero-shot
models"): what the second learned, without all that it forgot. Settings are the second's.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from dpcl.networks.model import load_model, save_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="weights (.safetensors)")
    parser.add_argument("second", type=Path, help="weights trained on from them")
    parser.add_argument("--share", type=float, default=0.5, help="of the second (default 0.5)")
    parser.add_argument("--out", type=Path, required=True, help="weights to write")
    arguments = parser.parse_args()

    first, second = load_model(arguments.first), load_model(arguments.second)
    ours, theirs = second.network.state_dict(), first.network.state_dict()
    share = arguments.share
    average = {name: share * ours[name] + (1 - share) * theirs[name] for name in ours}
    second.network.load_state_dict(average)
    notes = second.notes | {"averaged_with": first.notes, "share": share}
    save_model(replace(second, notes=notes), arguments.out, half=True)


if __name__ == "__main__":
    main()
