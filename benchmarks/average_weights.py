"""Average the weights of two trainings of one network, one of which began with the other's.

python benchmarks/average_weights.py FIRST SECOND --share 0.8 --out AVERAGE

The average often scores above both (Wortsman et al. 2022, "Robust fine-tuning of zero-shot
models"): what the second learned, without all that it forgot. Settings are the second's;
--embeddings keeps of a network with masks of its own the trunk and the embeddings alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dpcl.model import Model, ModelSettings, build_network, load_model, save_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="weights (.safetensors)")
    parser.add_argument("second", type=Path, help="weights trained on from them")
    parser.add_argument("--share", type=float, default=0.5, help="of the second (default 0.5)")
    parser.add_argument("--out", type=Path, required=True, help="weights to write")
    parser.add_argument("--embeddings", action="store_true", help="leave out what makes masks")
    arguments = parser.parse_args()

    first, second = load_model(arguments.first), load_model(arguments.second)
    ours, theirs = second.network.state_dict(), first.network.state_dict()
    share = arguments.share
    common = ours.keys() & theirs.keys()
    average = {name: share * ours[name] + (1 - share) * theirs[name] for name in common}
    notes = second.notes | {"averaged_with": first.notes, "share": share}
    settings = second.settings.model_dump()
    if arguments.embeddings:
        settings["network"] |= {"unfolded": None, "masks": 0}
        settings["masks"] |= {"head": "embedding"}
    chosen = ModelSettings.model_validate(settings)
    network = build_network(chosen)
    network.load_state_dict({name: average[name] for name in network.state_dict()})
    save_model(Model(chosen, network, notes), arguments.out, half=True)


if __name__ == "__main__":
    main()
