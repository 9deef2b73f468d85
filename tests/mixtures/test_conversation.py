"""Conversations in turns, and in rooms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dpcl.errors import InputError
from dpcl.mixtures.conversation import in_room, take_turns
from dpcl.mixtures.corpus import Corpus
from dpcl.signal.level import PEAK

RATE = 8000
MakeCorpus = Callable[..., Corpus]


@pytest.fixture
def corpus(make_corpus: MakeCorpus) -> Corpus:
    return make_corpus(
        [("x", name, "f", [("one", 4.0), ("two", 5.0)]) for name in ("ann", "bob", "cy")]
    )


def active(sources: torch.Tensor) -> np.ndarray:
    """Activity (C, n) in steps of 20 ms."""
    blocks = sources[:, : sources.shape[1] // 160 * 160].view(len(sources), -1, 160)
    return (blocks.abs().amax(-1) > 1e-3).numpy()


def test_talkers_take_turns_with_short_overlaps(corpus: Corpus) -> None:
    names, sources = take_turns(corpus, 3, 2.0, 5, RATE)
    assert sorted(names) == ["x/ann", "x/bob", "x/cy"]
    assert sources.shape == (3, 120 * RATE)
    assert float(sources.abs().max()) <= PEAK + 1e-6
    speaking = active(sources).sum(0)
    assert 0.01 < (speaking > 1).mean() < 0.35
    assert (speaking > 0).mean() > 0.75
    shares = active(sources).mean(1)
    assert shares.min() > 0.05


def test_one_talker_pauses(corpus: Corpus) -> None:
    _, sources = take_turns(corpus, 1, 0.5, 1, RATE)
    assert 0.4 < active(sources).mean() < 1


def test_the_same_seed_gives_the_same_conversation(corpus: Corpus) -> None:
    first, second = (take_turns(corpus, 2, 0.2, 3, RATE)[1] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, take_turns(corpus, 2, 0.2, 4, RATE)[1])


def test_too_few_talkers(corpus: Corpus) -> None:
    with pytest.raises(InputError, match="has 3 speakers, too few for conversations of 4"):
        take_turns(corpus, 4, 0.2, 3, RATE)


def test_a_room_rings_on_and_the_noise_has_its_level(corpus: Corpus) -> None:
    _, dry = take_turns(corpus, 2, 0.1, 3, RATE)
    dry[:, -RATE:] = 0
    wet, noise = in_room(dry, 3, RATE, 0.4, 20.0)
    assert wet.shape == dry.shape
    tail = wet[:, -RATE : -RATE // 2].square().mean()
    assert 1e-10 < tail < wet.square().mean()
    ratio = 10 * torch.log10(wet.sum(0).square().mean() / noise.square().mean())
    assert 14 < float(ratio) < 21  # the level counts only where somebody speaks
