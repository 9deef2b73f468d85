"""Deep clustering that looks at no later frame."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.model import (
    MaskSettings,
    Model,
    ModelSettings,
    NetworkSettings,
    SignalSettings,
    build_network,
    load_model,
)
from dpcl.recordings.separate import LoadedSeparator
from dpcl.separators.online import START, OnlineDeepClustering
from dpcl.separators.registry import build, load_network
from dpcl.signal.features import Weighting


def noises(seconds: float, seed: int = 0, batch: tuple[int, ...] = ()) -> Tensor:
    """Noise that comes and goes."""
    random = torch.Generator().manual_seed(seed)
    blocks = round(seconds * 20)
    gates = torch.rand(*batch, blocks, generator=random).square().repeat_interleave(400, -1)
    return gates * torch.randn(*batch, blocks * 400, generator=random) / 4


@pytest.fixture
def separator(causal_model: Path) -> OnlineDeepClustering:
    return OnlineDeepClustering(load_model(causal_model))


def test_by_name(causal_model: Path, tiny_model: Path) -> None:
    """Any causal network can be scored as a stream hears it, not only the one that ships."""
    separator = build(f"{causal_model}:live")
    assert isinstance(separator, OnlineDeepClustering)
    assert separator.model is load_network(str(causal_model))
    shipped = build("live")
    assert isinstance(shipped, OnlineDeepClustering)
    assert shipped.model is load_network("causal")
    with pytest.raises(InputError, match="cannot separate a stream"):
        build(f"{tiny_model}:live")


def test_masks_and_sources_add_up(separator: OnlineDeepClustering) -> None:
    mixture = noises(3, batch=(2, 1))
    separate = LoadedSeparator(separator)
    separation = separate(mixture, 3)
    assert separation.sources.shape == (2, 1, 3, mixture.shape[-1])
    torch.testing.assert_close(separation.sources.sum(-2), mixture, rtol=0, atol=1e-5)
    assert separation.masks is not None
    torch.testing.assert_close(
        separation.masks.sum(2), torch.ones(2, 1, *separation.masks.shape[-2:])
    )
    alone = separate(mixture[1, 0], 3).sources
    torch.testing.assert_close(alone, separation.sources[1, 0], rtol=0, atol=1e-5)


def test_sources_differ_once_they_are_found(separator: OnlineDeepClustering) -> None:
    masks = LoadedSeparator(separator)(noises(4)).masks
    assert masks is not None
    early = masks[:, : round(START * separator.sample_rate / separator.stft.hop) - 1]
    assert early.shape[1] > 1 and torch.equal(early, torch.full_like(early, 0.5))
    assert (masks[0, -50:] - masks[1, -50:]).abs().mean() > 0.1


@pytest.mark.parametrize("frame", [20, 80, 150])
def test_the_future_changes_no_mask(separator: OnlineDeepClustering, frame: int) -> None:
    """tky823's causal networks were bidirectional."""
    mixture = noises(4)
    other = mixture.clone()
    end = frame * separator.stft.hop + separator.stft.window // 2  # of what the frame covers
    other[end:] = 30 * noises(4, seed=1)[end:]  # far louder, too
    ours, theirs = (separator.estimate(separator.stft(x), 2, 0) for x in (mixture, other))
    torch.testing.assert_close(ours[:, : frame + 1], theirs[:, : frame + 1], rtol=0, atol=1e-6)
    assert not torch.allclose(ours[:, frame + 1 :], theirs[:, frame + 1 :])


def test_x_and_100_x_have_the_same_masks(separator: OnlineDeepClustering) -> None:
    mixture = noises(3)
    soft, loud = (separator.estimate(separator.stft(x), 2, 0) for x in (mixture / 64, mixture * 64))
    torch.testing.assert_close(soft, loud, rtol=0, atol=1e-5)


@pytest.mark.parametrize("weighting", get_args(Weighting))
def test_binary_masks(weighting: Weighting) -> None:
    torch.manual_seed(0)
    settings = ModelSettings(
        signal=SignalSettings(window=64, hop=32, level="running"),
        network=NetworkSettings(kind="lstm", layers=1, width=5, embedding=3),
        masks=MaskSettings(weighting=weighting),
    )
    separator = OnlineDeepClustering(Model(settings, build_network(settings).eval(), {}))
    found = LoadedSeparator(separator)(noises(3)).masks
    assert found is not None
    assert set(found.unique().tolist()) <= {0.0, 0.5, 1.0}  # a half until there was enough
    assert set(found[:, -50:, separator.first :].unique().tolist()) == {0.0, 1.0}
    assert found[..., : separator.first].eq(0.5).all()  # no mask modulates what is below 70 Hz


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("blstm", "running"),
        ("conv", "running"),
        ("dual_path", "running"),
        ("lstm", "whole"),
        ("causal_conv", "whole"),
        ("blstm", "whole"),
    ],
)
def test_a_model_that_needs_the_whole_recording(kind: str, level: str) -> None:
    settings = ModelSettings.model_validate(
        {"signal": {"level": level}, "network": {"kind": kind, "layers": 1, "width": 2}}
    )
    with pytest.raises(InputError, match="cannot separate a stream"):
        OnlineDeepClustering(Model(settings, build_network(settings), {}))


@pytest.mark.parametrize("bad", [torch.zeros(0), torch.tensor([0.1, torch.nan])])
def test_bad_samples(separator: OnlineDeepClustering, bad: Tensor) -> None:
    with pytest.raises(InputError, match="empty or holds NaN"):
        LoadedSeparator(separator)(bad)


def test_a_loud_tone_raises_no_level_and_is_modulated_by_no_mask(
    separator: OnlineDeepClustering,
) -> None:
    rate = separator.sample_rate
    speech = torch.cat([torch.zeros(rate), noises(2)])
    times = torch.arange(rate) / rate
    fades = (50 * torch.minimum(times, 1 - times)).clamp(max=1)
    tone = fades * torch.sin(2 * torch.pi * 1000 * times)
    tone = torch.nn.functional.pad(tone, (0, len(speech) - rate))
    magnitudes = [separator.stft(x).abs() for x in (speech, speech + tone)]
    frames = rate // separator.stft.hop
    levels, masks = [], []
    for magnitude in magnitudes:
        state = separator.start(2)
        for part in (magnitude[: frames + 3], magnitude[frames + 3 :]):
            estimated, state = separator.step(part, state)
            masks.append(estimated)
        assert state.loudest is not None
        levels.append(float(state.loudest))
    assert abs(levels[0] - levels[1]) < 0.5  # neper
    line = round(1000 * separator.stft.window / rate)
    assert masks[2][:, 5 : frames - 5, line].eq(0.5).all()
    whole, _ = separator.step(magnitudes[1], separator.start(2))
    torch.testing.assert_close(torch.cat(masks[2:], 1), whole)
