"""Every kind of separator through the driver: windows, background, batches and threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpcl.model import Model, ModelSettings, build_network
from dpcl.recordings.recording import InMemory
from dpcl.recordings.separate import LoadedSeparator, RecordingSeparation, separate_recording
from dpcl.separators.base import Analyses, Analysis, Context, Link, Separator
from dpcl.separators.classical.nmf import NMF, learn_dictionary
from dpcl.separators.deep_clustering import MaskNetwork
from dpcl.separators.registry import build, separator_of
from dpcl.signal.stft import STFT

RATE = 8000


def talkers(seconds: float = 4.0, seed: int = 0) -> Tensor:
    """Two noises (2, T), each in a band and at times of its own."""
    generator = torch.Generator().manual_seed(seed)
    samples = round(seconds * RATE)
    spectrum = torch.fft.rfft(torch.randn(2, samples, generator=generator))
    frequencies = torch.fft.rfftfreq(samples, 1 / RATE)
    spectrum[0, frequencies > 1500] *= 0.01
    spectrum[1, frequencies < 1800] *= 0.01
    gates = torch.rand(2, samples // 800 + 1, generator=generator) > 0.3
    return 0.2 * torch.fft.irfft(spectrum, samples) * gates.repeat_interleave(800, 1)[:, :samples]


def mask_network() -> Separator:
    """A small network like that of uPIT, which was never trained."""
    settings = ModelSettings.model_validate(
        {
            "network": {"layers": 1, "width": 8, "embedding": 0, "masks": 2},
            "masks": {"head": "masks"},
        }
    )
    torch.manual_seed(0)
    network = build_network(settings).eval()
    network.mean.fill_(-4)
    network.std.fill_(2)
    separator = separator_of(Model(settings, network, {}))
    assert isinstance(separator, MaskNetwork)
    return separator


def separator_named(name: str, references: Tensor) -> Separator:
    if name == "upit":
        return mask_network()
    if name == "nmf":
        return NMF([learn_dictionary([talker]) for talker in talkers(1.0, seed=1)])
    return build(name, Context(references.sum(0), references))


def run(
    separator: Separator, mixture: Tensor, window: float = 1.5, **options: Any
) -> tuple[int, Tensor, Tensor]:
    """Number of windows, sources (C, T) and masks (C, L, F) with short windows."""
    separator.window_seconds, separator.overlap_seconds = window, 0.3
    recording = InMemory(mixture.numpy()[None], RATE)
    with RecordingSeparation(recording, separator, 2, **options) as separation:
        pieces = list(separation.pieces())
    sources = torch.cat([piece.sources[:, 0] for piece in pieces], -1)
    return separation.windows.count, sources, torch.cat([piece.masks for piece in pieces], 1)


@pytest.mark.parametrize("name", ["casa", "spectral", "upit", "ibm", "psm", "nmf"])
def test_a_recording_of_several_windows(name: str) -> None:
    """Masks of many windows lie in half precision between the passes, and still sum to one."""
    references = talkers()
    mixture = references.sum(0)
    separator = separator_named(name, references)
    windows, sources, masks = run(separator, mixture)
    assert windows == 4
    assert sources.shape == references.shape
    assert masks.shape == (2, separator.stft.frames(len(mixture)), separator.stft.bins)
    assert masks.min() >= 0
    torch.testing.assert_close(masks.sum(0), torch.ones_like(masks[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(sources.sum(0), mixture, atol=1e-5, rtol=0)
    assert masks.std() > 1e-3


@pytest.mark.parametrize("name", ["ibm", "irm", "psm", "mixture"])
def test_an_oracle_of_many_windows_is_that_of_one(name: str) -> None:
    """Its sources come in the order of the references."""
    references = talkers()
    oracle = separator_named(name, references)
    many, sources, masks = run(oracle, references.sum(0))
    one, expected, whole = run(oracle, references.sum(0), window=10.0)
    assert (many, one) == (4, 1)
    torch.testing.assert_close(masks, whole, atol=1e-3, rtol=0)
    torch.testing.assert_close(sources, expected, atol=1e-3, rtol=0)


def test_talkers_keep_the_order_of_their_dictionaries_in_all_windows() -> None:
    references = talkers()
    _, sources, _ = run(separator_named("nmf", references), references.sum(0))
    for source, reference in zip(sources, references, strict=True):
        assert (source - reference).square().sum() < 0.1 * reference.square().sum()


@pytest.mark.parametrize("name", ["upit", "spectral", "psm"])
def test_the_number_of_threads_changes_nothing(name: str) -> None:
    references = talkers()
    separator = separator_named(name, references)
    _, alone, masks = run(separator, references.sum(0), threads=1)
    _, together, others = run(separator, references.sum(0), threads=3)
    assert torch.equal(alone, together)
    assert torch.equal(masks, others)


class Background(Separator):
    """Masks of each frequency alone; the upper half of the band is background only."""

    sample_rate = RATE
    stft = STFT(64, 32)
    window_seconds = 1.0
    overlap_seconds = 0.2

    def analyse(self, spectra: Tensor) -> Analysis:
        return (spectra.abs().mean(1),)

    def link(self, analyses: Analyses, num_sources: int | None, most: int) -> Link:
        return Link(num_sources or 2, background=True)

    def masks(self, window: int, analysis: Analysis, link: Link) -> Tensor:
        rows = torch.randn(link.num_sources + 1, 1, 33, generator=torch.Generator().manual_seed(0))
        masks = rows.softmax(0)
        masks[:-1, :, 16:], masks[-1, :, 16:] = 0, 1
        return masks.expand(-1, *analysis[0].shape)


@pytest.mark.parametrize("channels", [0, 2])
@pytest.mark.parametrize("seconds", [0.5, 4.0])
@pytest.mark.parametrize("sources", [1, 2, 3])
def test_the_background_belongs_to_no_source(channels: int, seconds: float, sources: int) -> None:
    rng = np.random.default_rng(0)
    shape = (channels, round(seconds * RATE)) if channels else (round(seconds * RATE),)
    recording = torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
    kept = separate_recording(recording, RATE, Background(), sources)
    assert kept.sources.shape == (sources, *shape)
    assert kept.background is not None
    assert kept.background.shape == shape
    assert kept.background.square().mean() > 0.1
    torch.testing.assert_close(kept.sources.sum(0) + kept.background, recording, atol=1e-5, rtol=0)
    assert kept.masks is not None
    assert kept.masks.shape[0] == sources
    assert not kept.masks[..., 16:].any()
    assert kept.masks[..., :16].sum(0).max() < 1

    shared = separate_recording(recording, RATE, Background(), sources, background=False)
    assert shared.background is None
    torch.testing.assert_close(shared.sources.sum(0), recording, atol=1e-5, rtol=0)
    assert shared.masks is not None
    torch.testing.assert_close(shared.masks.sum(0), torch.ones_like(shared.masks[0]))
    low = kept.masks[..., :16]
    torch.testing.assert_close(shared.masks[..., :16], low / low.sum(0))
    torch.testing.assert_close(
        shared.masks[..., 16:], torch.full_like(shared.masks[..., 16:], 1 / sources)
    )


def test_a_batch_has_its_backgrounds() -> None:
    mixtures = torch.randn(2, 3, 1000, generator=torch.Generator().manual_seed(0))
    found = LoadedSeparator(Background())(mixtures)
    assert found.background is not None
    assert found.background.shape == mixtures.shape
    torch.testing.assert_close(
        found.sources.sum(-2) + found.background, mixtures, atol=1e-5, rtol=0
    )


class Replacing(Background):
    """A separator that replaces its analyses twice, by tensors of other number and shape."""

    def link(self, analyses: Analyses, num_sources: int | None, most: int) -> Link:
        loudness = list(analyses.map(lambda _, analysis: float(analysis[0].sum())))
        found = analyses.replace(
            lambda window, analysis: (
                (analysis[0][0], torch.tensor([window, len(analysis[0])]).float()),
                float(analysis[0].sum()),
            )
        )
        assert list(found) == loudness
        numbers = analyses.replace(lambda window, analysis: ((analysis[1] + 1,), window))
        assert list(numbers) == list(range(analyses.windows.count))
        return Link(2)

    def masks(self, window: int, analysis: Analysis, link: Link) -> Tensor:
        number, frames = analysis[0].long().tolist()
        assert number == window + 1
        low = (torch.arange(33) < 10).float().expand(frames - 1, -1)
        return torch.stack([low, 1 - low])


@pytest.mark.parametrize("seconds", [0.5, 6.0])
def test_a_separator_may_replace_its_analyses(seconds: float) -> None:
    mixture = torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(0))
    found = separate_recording(mixture, RATE, Replacing(), threads=2)
    assert found.background is None
    assert found.masks is not None
    torch.testing.assert_close(found.masks[0].mean(0), (torch.arange(33) < 10).float())
    torch.testing.assert_close(found.sources.sum(0), mixture, atol=1e-5, rtol=0)


class Counting(Background):
    """As many sources as thirds of the band that are loud, in equal parts."""

    def link(self, analyses: Analyses, num_sources: int | None, most: int) -> Link:
        if num_sources is None:
            levels = torch.stack(list(analyses.map(lambda _, analysis: analysis[0].mean(0))))
            thirds = levels.mean(0).view(3, 11).amax(1)
            num_sources = min(most, max(1, int((thirds > 0.1 * thirds.max()).sum())))
        return Link(num_sources)

    def masks(self, window: int, analysis: Analysis, link: Link) -> Tensor:
        return torch.full((link.num_sources, *analysis[0].shape), 1 / link.num_sources)


def test_a_batch_has_as_many_sources_as_its_mixture_of_the_most() -> None:
    time = torch.arange(4000) / RATE
    tones = torch.sin(2 * torch.pi * torch.tensor([[500.0], [2000.0], [3500.0]]) * time)
    mixtures = torch.stack([tones[0], tones.sum(0), tones[:2].sum(0), 0 * time]).view(2, 2, -1)
    separate = LoadedSeparator(Counting())
    assert [len(separate(x).sources) for x in mixtures.flatten(0, 1)] == [1, 3, 2, 1]
    together = separate(mixtures)
    assert together.sources.shape == (2, 2, 3, 4000)
    assert together.masks is not None
    assert together.masks.shape[:3] == (2, 2, 3)
    for row, one in zip(together.sources.flatten(0, 1), mixtures.flatten(0, 1), strict=True):
        assert torch.equal(row, separate(one, 3).sources)
    assert separate(mixtures[1]).sources.shape == (2, 2, 4000)
