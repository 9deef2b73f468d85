"""The models that ship: `dpcl train` made them, and their cards state what their metadata hold."""

from __future__ import annotations

import json
import re

import pytest

from dpcl.catalogue import WEIGHTS, ShippedModel, shipped_models
from dpcl.model import Model, load_model
from dpcl.training.run import describe

BY_HAND = {"causal", "clean", "general"}  # made before a recipe made a whole model; no others
# Figures of a card that `describe` states: each is compared where the metadata have it.
STATED = (
    r"K = \d+",
    r"[\d.]+ million weights, stored in float16",
    r"[\d.]+ kHz",
    r"window of [\d.]+ ms every [\d.]+ ms",
    r"softmax of [\d.]+ × the \w+",
)

pytestmark = pytest.mark.parametrize("shipped", shipped_models(), ids=lambda one: one.name)


def model_of(shipped: ShippedModel) -> Model:
    return load_model(shipped.path)


def words(shipped: ShippedModel) -> str:
    """The card in one line."""
    return " ".join(shipped.card.split())


def test_weights_card_and_nothing_else(shipped: ShippedModel) -> None:
    assert shipped.card.startswith(f"# {shipped.name}\n\n")
    assert not shipped.summary.startswith(("|", "#", "Made by"))  # a sentence for `dpcl models`
    known = {
        f"{one.name}{suffix}" for one in shipped_models() for suffix in (".md", ".safetensors")
    }
    assert {path.name for path in WEIGHTS.iterdir() if path.is_file()} == known


def test_the_card_states_the_settings_of_the_model(shipped: ShippedModel) -> None:
    figures = "; ".join(describe(model_of(shipped)).values())
    found = [match.group() for what in STATED for match in [re.search(what, figures)] if match]
    assert len(found) >= 4
    assert [figure for figure in found if figure not in words(shipped)] == []


def test_the_card_states_the_figures_of_the_training(shipped: ShippedModel) -> None:
    notes = model_of(shipped).notes
    if shipped.name in BY_HAND:
        assert "commit" not in notes  # one that `dpcl train` makes leaves BY_HAND
        assert "Made by hand" in words(shipped)
        assert f"`recipes/{shipped.name}.yaml`" in words(shipped)
        return
    assert "Made by hand" not in words(shipped)
    assert notes["commit"] and not notes["commit"].endswith("-dirty")
    assert (
        f": {notes['core_hours']:.2f} core-hours, {notes['audio_hours']:.2f} h of mixtures, seed"
        f" {notes['seed']}; dpcl {notes['program']}, commit {notes['commit']}."
    ) in words(shipped)
    for phase, score in notes["valid_si_sdri_db"].items():
        assert re.search(rf"^\| {re.escape(phase)} \|.*\| {score:.2f} \|$", shipped.card, re.M)
    for row in notes["data"]:
        assert "| " + " | ".join(map(str, row.values())) + " |" in shipped.card
    assert not re.search(r'"(~|\.\.|/)[^"]*/', json.dumps(notes["recipe"]))  # of a machine
