"""Who talks when: cues that follow their source, and a network that takes any number of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpcl.networks import activity
from dpcl.networks.activity import (
    BLOCK,
    OF_CLUSTERS,
    OF_VOICES,
    REACHES,
    TalkerActivity,
    Voices,
    cluster_cues,
    together,
    voice_cues,
)

FRAMES, BINS, SIZE = 120, 20, 4
SHARE, OTHERS, OUTRIGHT, LIKE, UNLIKE = range(5)
OWN_DISTANCE, OTHER_DISTANCE, OTHER_MEAN, APART, AUDIBLE, ONE_OF = range(10, 16)


def turns() -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings (l, F, K), audible (l, F) and centroids (3, K): the first source in the first half
    of the time, the second in the other half, and a third that never is."""
    torch.manual_seed(0)
    centroids = torch.eye(SIZE)[:3]
    owners = torch.zeros(FRAMES, BINS, dtype=torch.long)
    owners[FRAMES // 2 :] = 1
    embeddings = torch.nn.functional.normalize(
        centroids[owners] + 0.1 * torch.randn(FRAMES, BINS, SIZE), dim=-1
    )
    audible = torch.ones(FRAMES, BINS)
    audible[:, BINS // 2 :] = 0
    return embeddings, audible, centroids


def test_signs_say_what_is_owned() -> None:
    embeddings, audible, centroids = turns()
    cues = cluster_cues(embeddings, audible, centroids, torch.eye(SIZE))
    assert cues.shape == (3, FRAMES, OF_CLUSTERS)
    first, last = REACHES[-1], FRAMES - REACHES[-1] - 1  # far from the ends and the turn
    assert cues[0, first, OUTRIGHT] == 1
    assert cues[0, last, OUTRIGHT] == 0
    assert cues[1, last, OUTRIGHT] == 1
    assert not cues[2, :, OUTRIGHT].any()
    assert cues[0, first, SHARE] > 0.9 > 0.1 > cues[2, first, SHARE]
    assert cues[2, first, OTHERS] == cues[0, first, SHARE]
    assert cues[0, first, LIKE] > 0.95 > 0.2 > cues[0, first, UNLIKE]
    assert cues[0, first, OWN_DISTANCE] < 0.1
    assert cues[0, first, OTHER_DISTANCE] == pytest.approx(2**0.5, abs=0.1)
    assert cues[0, first, OTHER_MEAN] > 0.9  # the others own nothing: their means are zero
    assert cues[..., APART].allclose(torch.tensor(2.0).sqrt())
    assert cues[..., AUDIBLE].eq(0.5).all()
    assert cues[..., ONE_OF].allclose(torch.tensor(1 / 3))


def test_whitening_scales_the_distances() -> None:
    embeddings, audible, centroids = turns()
    cues = cluster_cues(embeddings, audible, centroids, torch.eye(SIZE))
    wider = cluster_cues(embeddings, audible, centroids, 3 * torch.eye(SIZE))
    torch.testing.assert_close(wider[..., 10:14], 3 * cues[..., 10:14])
    torch.testing.assert_close(wider[..., :10], cues[..., :10])


def blocks(voice: Tensor, loudness: Tensor) -> Voices:
    """Of one window: vectors (C, n, D), and after them those of the loudest as the mixture's."""
    louder = loudness.argmax(0)
    mixture = voice[louder, torch.arange(voice.shape[1])]
    total = loudness.square().sum(0, keepdim=True).sqrt()
    return Voices(torch.cat([voice, mixture[None]]), torch.cat([loudness, total]))


def test_signs_of_voices() -> None:
    """A source that owns what another says sounds like the other."""
    voices = torch.eye(4)[:3]
    said = voices[:, None].expand(-1, 12, -1).clone()
    said[1, 8:] = voices[0]  # the second then owns a part of what the first says
    loudness = torch.full((3, 12), 0.1)
    loudness[torch.arange(12) // 4 % 3, torch.arange(12)] = 1
    windows = [blocks(said[:, :6], loudness[:, :6]), blocks(said[:, 6:], loudness[:, 6:])]
    first, last = voice_cues(windows)
    assert first.shape == last.shape == (3, 6, OF_VOICES)
    assert (first[:, :, 0] > 0.95).all()
    assert last[1, -1, 0] < 0.1 < 0.9 < last[1, -1, 2]  # not like its own voice, like another
    assert last[0, -1, 1] > 0.9  # the first hears its voice elsewhere
    assert first[0, 0, 3] > 0.95 > 0.1 > first[0, 0, 4]  # it is all that is encoded
    assert first[0, 0, 6] > 0.8


def test_blocks_in_which_a_source_is_alone_tell_its_voice() -> None:
    vectors = torch.eye(3)[[0, 1]][:, None].expand(-1, 4, -1).clone()
    vectors[0, 2:] = torch.eye(3)[2]  # loud, but not it
    window = blocks(vectors, torch.ones(2, 4))
    alone = torch.ones(2, 4)
    alone[0, 2:] = 0
    assert voice_cues([window], [alone])[0][0, 0, 0] == pytest.approx(1)
    assert voice_cues([window])[0][0, 0, 0] == pytest.approx(0.5**0.5)


def encoded(windows: int, sources: int) -> tuple[list[Tensor], list[Voices]]:
    cues = [torch.randn(sources, FRAMES, OF_CLUSTERS) for _ in range(windows)]
    n = -(-FRAMES // BLOCK)
    vectors = torch.nn.functional.normalize(torch.randn(windows, sources + 1, n, 6), dim=-1)
    return cues, [Voices(x, torch.rand(sources + 1, n)) for x in vectors]


def test_odds_follow_their_source_over_all_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(activity, "BATCH", 2)
    cues, voices = encoded(3, 3)
    network = TalkerActivity(BINS, 8).eval()
    order = [2, 0, 1]
    moved = [Voices(v.vectors[[*order, 3]], v.loudness[[*order, 3]]) for v in voices]
    with torch.no_grad():
        odds = network.detect_activity(cues, voices)
        of_moved = network.detect_activity([x[order] for x in cues], moved)
    assert [x.shape for x in odds] == [(3, FRAMES)] * 3
    for before, after in zip(odds, of_moved, strict=True):
        torch.testing.assert_close(after, before[order], rtol=0, atol=1e-5)
    assert torch.stack(odds).std() > 1e-3


def test_one_source_hears_of_the_others() -> None:
    cues = torch.randn(1, 3, FRAMES, OF_CLUSTERS + OF_VOICES)
    network = TalkerActivity(BINS, 8).eval()
    before = network(cues)[0, 0]
    cues[0, 1] += 1
    assert (network(cues)[0, 0] - before).abs().max() > 1e-3


@pytest.mark.parametrize("sources", [2, 5, 10])
def test_silence_and_any_number_of_sources_are_finite(sources: int) -> None:
    torch.manual_seed(0)
    embeddings, centroids = torch.randn(50, BINS, SIZE), torch.randn(sources, SIZE)
    cues = cluster_cues(embeddings, torch.zeros(50, BINS), centroids, torch.eye(SIZE))
    assert cues.shape == (sources, 50, OF_CLUSTERS)
    network = TalkerActivity(BINS, 4).eval()
    levels, loudness = network.voice.levels(torch.zeros(sources, 100, BINS), torch.zeros(100, BINS))
    silent = Voices(network.voice(levels), loudness)
    assert together([cues], voice_cues([silent])).isfinite().all()
    (odds,) = network.detect_activity([cues], [silent])
    assert odds.shape == (sources, 50)
    assert odds.isfinite().all()
