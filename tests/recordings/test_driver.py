"""Long recordings: sources keep who they are, and memory and disk are given back."""

from __future__ import annotations

import errno
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.evaluation.metrics import best_permutation
from dpcl.model import MaskSettings, Model, ModelSettings, NetworkSettings, build_network
from dpcl.networks.activity import OF_CLUSTERS, OF_VOICES, PASSES, STRIDE, TalkerActivity
from dpcl.networks.base import Heads
from dpcl.networks.lstm import BLSTMEmbedding
from dpcl.recordings import cache, separate
from dpcl.recordings.recording import InMemory, scan
from dpcl.recordings.separate import RecordingSeparation
from dpcl.separators import deep_clustering
from dpcl.separators.base import Analysis
from dpcl.separators.deep_clustering import BATCH_PER_BIN, DeepClustering
from dpcl.separators.registry import build, load_network
from dpcl.signal.audio import read_mono
from dpcl.signal.stft import STFT

RATE = 8000
PITCHES = (300.0, 1000.0, 2200.0)  # Hz, of three talkers


class ByPitch(DeepClustering):
    """A network that puts each third of the band in a place of its own: it knows three talkers."""

    def __init__(self) -> None:
        self.sample_rate, self.stft = RATE, STFT(64, 32)
        self.model = Model(ModelSettings(), BLSTMEmbedding(33, 1, 1, Heads(3)), {})
        self.windows: list[int] = []

    def analyse(self, spectra: Tensor) -> Analysis:
        self.windows.append(len(spectra))
        magnitudes = spectra.abs().mean(1)
        return magnitudes.new_zeros(*magnitudes.shape[:2], 4), magnitudes

    def embed(self, encoded: Tensor) -> Tensor:
        borders = torch.tensor([650.0, 1600.0])
        owner = torch.bucketize(torch.linspace(0, RATE / 2, 33), borders)
        places = torch.eye(3)[owner]  # (F', K)
        return places.repeat(len(encoded), encoded.shape[1], 1)


def conversation(seconds: float = 60.0) -> np.ndarray:
    """Talkers (3, T): one from the beginning, one who enters late, one with a long pause."""
    time = np.arange(round(seconds * RATE)) / RATE
    tones = 0.2 * np.sin(2 * np.pi * np.array(PITCHES)[:, None] * time)
    tones[1, time < 25] = 0
    tones[2, (time > 10) & (time < 50)] = 0
    return tones.astype(np.float32)


def separated(
    recording: np.ndarray, sources: int = 3, **changes: Any
) -> tuple[Tensor, RecordingSeparation]:
    with RecordingSeparation(
        InMemory(recording, RATE), ByPitch(), sources, **changes
    ) as separation:
        pieces = list(separation.pieces())
    return torch.cat([piece.sources for piece in pieces], -1), separation


def test_a_source_is_the_same_before_and_after_a_pause() -> None:
    """zhr1201's and ClearerVoice's talkers swap from chunk to chunk."""
    talkers = conversation()
    found, separation = separated(talkers.sum(0, keepdims=True))
    assert separation.windows.count > 5
    assert found.shape == (3, 1, talkers.shape[1])
    torch.testing.assert_close(found.sum(0)[0], torch.from_numpy(talkers.sum(0)), atol=1e-5, rtol=0)
    for talker in torch.from_numpy(talkers):
        errors = (found[:, 0] - talker).square().mean(-1) / talker.square().mean()
        assert errors.min() < 0.02  # one output is this talker from end to end


def test_the_length_decides_how_many_windows_are_heard_not_what_comes_out() -> None:
    talkers = conversation(9)
    short, one = separated(talkers.sum(0, keepdims=True))
    assert one.windows.count == 1
    whole = torch.cat([short, short], dim=-1)
    twice, several = separated(np.tile(talkers.sum(0, keepdims=True), 2))
    assert several.windows.count == 2
    torch.testing.assert_close(twice[..., 100:60000], whole[..., 100:60000], atol=1e-3, rtol=0)


def test_what_was_heard_may_lie_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = conversation().sum(0, keepdims=True)
    in_memory, _ = separated(recording)
    monkeypatch.setattr(cache, "IN_MEMORY", 100)
    on_disk, separation = separated(recording)
    assert torch.equal(in_memory, on_disk)
    assert separation._cache.closed


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", full)
    with pytest.raises(InputError, match=r"No space left on device.*TMPDIR"):
        separated(conversation(15).sum(0, keepdims=True))
    separated(conversation(1).sum(0, keepdims=True))  # one window needs no room


def test_channels_share_the_masks_and_keep_their_levels() -> None:
    mono = conversation(30).sum(0)
    found, _ = separated(np.stack([mono, 0.25 * mono, 0 * mono]))
    torch.testing.assert_close(found[:, 1], 0.25 * found[:, 0], atol=1e-6, rtol=0)
    assert not found[:, 2].any()


@pytest.mark.parametrize("seconds", [9.0, 25.0])
def test_the_number_of_threads_changes_nothing(seconds: float) -> None:
    recording = conversation(seconds).sum(0, keepdims=True)
    alone, _ = separated(recording, threads=1)
    together, _ = separated(recording, threads=3)
    assert torch.equal(alone, together)


def test_progress_goes_from_nought_to_one() -> None:
    shares: list[float] = []
    separated(
        conversation(45).sum(0, keepdims=True),
        report=lambda moved: shares.append(moved.done / moved.total),
    )
    assert shares == sorted(shares)
    assert 0 < shares[0] <= separate.ANALYSED
    assert shares[-1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("threads", "dtype", "windows"),
    [
        (1, torch.float32, [10, 10, 8]),
        (2, torch.float32, [7] * 4),
        (3, torch.float32, [10, 10, 8]),
        (1, torch.bfloat16, [14] * 2),
        (2, torch.bfloat16, [14] * 2),
    ],
)
def test_windows_go_through_the_network_in_batches(
    threads: int, dtype: torch.dtype, windows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As few as hold all in the memory that their numbers take, and every thread gets as many."""
    monkeypatch.setattr(deep_clustering, "input_dtype", lambda network: dtype)
    separator = ByPitch()
    recording = InMemory(np.ones((1, 250 * RATE), np.float32), RATE)
    with RecordingSeparation(recording, separator, 2, threads=threads) as separation:
        separation.analyse()
        assert separation.windows.count == 28
        assert sorted(separator.windows, reverse=True) == windows


def test_few_windows_at_once_where_every_bin_is_kept() -> None:
    """A dual-path network took 1.9 GB for twenty minutes."""
    separator = ByPitch()
    settings = NetworkSettings(kind="dual_path", layers=1, width=4, embedding=3)
    separator.model = replace(separator.model, network=settings.build(33))
    recording = InMemory(conversation().sum(0)[None], RATE)
    with RecordingSeparation(recording, separator, 3) as separation:
        separation.analyse()
        assert max(separator.windows) == BATCH_PER_BIN


def test_a_window_of_noise_far_under_the_rest_pulls_no_centroid() -> None:
    recording = conversation(40).sum(0)
    recording[recording.size // 2 :] = 0
    rng = np.random.default_rng(0)
    hiss = (1e-5 * rng.standard_normal(recording.size)).astype(np.float32)
    _, quiet = separated((recording + hiss)[None])
    _, silent = separated(recording[None])
    torch.testing.assert_close(
        quiet.link().state.centroids, silent.link().state.centroids, atol=0.02, rtol=0
    )


def test_an_array_and_what_a_reader_gives_in_odd_blocks_are_the_same() -> None:
    class Odd(InMemory):
        def blocks(self, size: int) -> Any:
            edges = [0, 1, 2, 3000, 3001, 100_000, self.samples.shape[1]]
            for first, last in zip(edges, islice(edges, 1, None), strict=False):
                yield self.samples[:, first:last]

    recording = conversation(20).sum(0, keepdims=True)
    expected, _ = separated(recording)
    with RecordingSeparation(Odd(recording, RATE), ByPitch(), 3) as separation:
        found = torch.cat([piece.sources for piece in separation.pieces()], -1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_what_is_heard_of_channels() -> None:
    rng = np.random.default_rng(0)
    left = rng.standard_normal(5000).astype(np.float32)
    other = rng.standard_normal(5000).astype(np.float32)
    for right, cancels in ((0.5 * left, False), (0.3 * other - 0.9 * left, True)):
        channels = scan(InMemory(np.stack([left, right]), RATE)).channels
        assert channels is not None
        assert channels.cancels is cancels
    found = scan(InMemory(np.stack([left, 3 * left]), RATE))
    assert found.samples == 5000
    assert found.peak == pytest.approx(3 * np.abs(left).max())
    block = torch.from_numpy(np.stack([left, 3 * left]))
    torch.testing.assert_close(found.mono(block), block[1] / found.peak)  # one channel, twice


def test_no_samples_are_told() -> None:
    with pytest.raises(InputError, match="no samples"):
        scan(InMemory(np.zeros((2, 0), np.float32), RATE))


def test_masks_through_the_clustering_add_up_over_all_windows() -> None:
    """Windows are heard once: what the enhancement network needs is kept beside the trunk's."""
    settings = ModelSettings.model_validate(
        {
            "signal": {"sample_rate": RATE, "window": 64, "hop": 32},
            "network": {"layers": 1, "width": 6, "embedding": 4, "unfolded": {"width": 5}},
            "masks": {"head": "masks", "sharpness": 5.0},
        }
    )
    torch.manual_seed(0)
    network = build_network(settings).eval()
    torch.nn.init.normal_(network.unfolded.enhance.out.weight)
    recording = conversation(25.0).sum(0, keepdims=True)
    separator = DeepClustering(Model(settings, network, {}))
    with RecordingSeparation(InMemory(recording, RATE), separator, 3) as separation:
        assert separation.windows.count == 3
        pieces = list(separation.pieces())
    sources = torch.cat([piece.sources[:, 0] for piece in pieces], -1)
    assert sources.shape == (3, 25 * RATE)
    torch.testing.assert_close(sources.sum(0), torch.from_numpy(recording[0]), rtol=0, atol=1e-4)
    masks = torch.cat([piece.masks for piece in pieces], 1)
    assert masks.std((1, 2)).min() > 0.01


class Says(TalkerActivity):
    """That only so many sources are active, the first ones; it remembers of which windows."""

    def __init__(self, active: int) -> None:
        super().__init__(33, 2)
        self.first_ones = active
        self.asked: list[torch.Size] = []
        self.eval()

    def forward(self, cues: Tensor) -> Tensor:
        self.asked.append(cues.shape)
        odds = torch.full(cues.shape[:-1], 20.0)
        odds[:, self.first_ones :] = -20.0
        return odds


def test_who_talks_is_asked_of_every_window_and_obeyed() -> None:
    recording = conversation(45.0).sum(0, keepdims=True)
    separator = ByPitch()
    masks = MaskSettings(sharpness=5.0)
    settings = ModelSettings(network=NetworkSettings(embedding=3), masks=masks)
    activity = Says(1)
    separator.model = replace(separator.model, settings=settings, activity=activity)
    with RecordingSeparation(InMemory(recording, RATE), separator, 3) as separation:
        separation.link()
        count, length = separation.windows.count, separation.windows.length
        assert count > 1
        assert (
            activity.asked == [(count, 3, -(-length // STRIDE), OF_CLUSTERS + OF_VOICES)] * PASSES
        )
        pieces = list(separation.pieces())
    sources = torch.cat([piece.sources[:, 0] for piece in pieces], -1)
    torch.testing.assert_close(sources.sum(0), torch.from_numpy(recording[0]), rtol=0, atol=1e-4)
    powers = sources.square().mean(-1)
    assert powers[1:].max() < 2e-3 * powers[0]  # the gates end at -30 dB


def test_short_recordings_and_one_talker_need_nobody_to_ask() -> None:
    separator = ByPitch()
    activity = Says(1)
    separator.model = replace(separator.model, activity=activity)
    for seconds, sources in ((9.0, 3), (45.0, 1)):
        recording = InMemory(conversation(seconds).sum(0, keepdims=True), RATE)
        with RecordingSeparation(recording, separator, sources) as separation:
            list(separation.pieces())
    assert not activity.asked


def test_the_network_that_ships_hears_who_is_silent() -> None:
    """Of two talkers in turn, each alone, and then both: whoever is silent gets next to nothing."""
    root = Path(__file__).parents[2] / "examples"
    first, second = (
        np.tile(read_mono(root / f"two_talkers_ref{i}.flac", RATE), 4)[: 12 * RATE] for i in (1, 2)
    )
    silence = np.zeros_like(first)
    sources = np.stack(
        [
            np.concatenate([first, silence, first, silence, first]),
            np.concatenate([silence, second, silence, second, second]),
        ]
    )
    recording = InMemory(sources.sum(0, keepdims=True), RATE)
    model = load_network("clean")
    leaks = []
    for knows in (model, replace(model, activity=None)):
        with RecordingSeparation(recording, DeepClustering(knows), 2) as separation:
            found = torch.cat([piece.sources[:, 0] for piece in separation.pieces()], -1).numpy()
        found = found[best_permutation(torch.from_numpy(found), torch.from_numpy(sources))]
        powers = np.square(found).reshape(2, 5, -1).mean(-1)  # (C, turns)
        leaks += [max(powers[1, [0, 2]].max(), powers[0, [1, 3]].max()) / powers.max()]
        both = np.square(sources.reshape(2, 5, -1)[:, -1]).mean(-1)
        assert (np.abs(np.log2(powers[:, -1] / both)) < 1).all()  # within 3 dB where both talk
    assert max(leaks) < 1e-3  # the gates end at -30 dB


@pytest.mark.parametrize("sources", [None, 3])
def test_a_long_recording_of_silence_is_separated_into_silence(sources: int | None) -> None:
    recording = InMemory(np.zeros((1, 30 * RATE), np.float32), RATE)
    with RecordingSeparation(recording, build("default"), sources) as separation:
        assert separation.link().num_sources == (sources or 0)
        found = torch.cat([piece.sources[:, 0] for piece in separation.pieces()], -1)
    assert found.shape == (sources or 0, 30 * RATE)
    assert not found.any()
