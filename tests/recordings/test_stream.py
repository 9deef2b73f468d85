"""A stream gives what the same rule gives for the whole recording, however it is cut."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import dpcl
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
from dpcl.recordings import stream as module
from dpcl.recordings.separate import LoadedSeparator
from dpcl.recordings.stream import StreamSeparator


def noises(rate: int, seconds: float, seed: int = 0) -> Tensor:
    """Noise that comes and goes."""
    random = torch.Generator().manual_seed(seed)
    hop = rate // 20
    gates = torch.rand(round(seconds * 20), generator=random).square().repeat_interleave(hop)
    return gates * torch.randn(len(gates), generator=random) / 4


def run(stream: StreamSeparator, *blocks: Tensor) -> Tensor:
    return torch.cat([*(stream.push(block) for block in blocks), stream.flush()], dim=-1)


@pytest.fixture
def unfiltered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that split off no steady lines and no rumble, as files with soft noise."""
    for verb in ("push", "finish"):
        of_all = getattr(module.BlockSTFT, verb)
        monkeypatch.setattr(
            module.LowSTFT, verb, lambda self, *block, of_all=of_all: 0 * of_all(self, *block)
        )
    monkeypatch.setattr(module.SteadyLines, "push", lambda self, spectrum: 0 * spectrum)


@pytest.fixture
def stream(causal_model: Path) -> StreamSeparator:
    return StreamSeparator(str(causal_model))


@given(
    cuts=st.lists(st.integers(0, 24000), max_size=6),
    rate=st.sampled_from([8000, 16000]),
    seed=st.integers(0, 5),
)
@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_cuts_do_not_matter(causal_model: Path, cuts: list[int], rate: int, seed: int) -> None:
    stream = StreamSeparator(str(causal_model), 2, rate)
    x = noises(rate, 24000 / rate, seed)
    bounds = [0, *sorted(cuts), 24000]
    pieces = [x[a:b] for a, b in pairwise(bounds)]
    torch.testing.assert_close(run(stream, *pieces), run(stream, x), rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [1, 160, 37, 5000])
@pytest.mark.usefixtures("unfiltered")
def test_a_stream_is_the_offline_separator(stream: StreamSeparator, size: int) -> None:
    x = noises(8000, 0.2 if size == 1 else 4)
    offline = LoadedSeparator(stream.separator)(x).sources
    torch.testing.assert_close(run(stream, *x.split(size)), offline, rtol=0, atol=2e-5)
    if size > 1:
        assert (offline[0, -8000:] - offline[1, -8000:]).abs().max() > 0.02  # it does something


@pytest.mark.usefixtures("unfiltered")
@pytest.mark.parametrize("kind", ["causal_conv", "causal_dual_path"])
def test_streams_of_other_causal_networks(kind: Literal["causal_conv", "causal_dual_path"]) -> None:
    torch.manual_seed(0)
    model = ModelSettings(
        signal=SignalSettings(window=320, hop=160, level="running"),
        network=NetworkSettings(kind=kind, layers=2, width=12, embedding=3, activation="none"),
        masks=MaskSettings(weighting="magnitude", sharpness=5.0),
    )
    network = build_network(model).eval()
    network.mean.fill_(-4)
    network.std.fill_(2)
    stream = StreamSeparator(Model(model, network, {}))
    x = noises(8000, 4)
    offline = LoadedSeparator(stream.separator)(x).sources
    torch.testing.assert_close(run(stream, *x.split(1237)), offline, rtol=0, atol=2e-5)
    assert (offline[0, -8000:] - offline[1, -8000:]).abs().max() > 0.02


@pytest.mark.parametrize("rate", [1000, 4000, 8000, 11025, 44100, 192000])
@pytest.mark.parametrize("sources", [1, 3])
def test_sources_add_up_and_none_is_late(causal_model: Path, rate: int, sources: int) -> None:
    stream = StreamSeparator(str(causal_model), sources, rate)
    assert stream.latency / rate == pytest.approx(0.04, rel=0.05)
    x, came, pushed = noises(rate, 2), [], 0
    for block in x.split(rate // 50):
        came.append(stream.push(block))
        pushed += len(block)
        assert pushed - sum(y.shape[-1] for y in came) < stream.latency
    came.append(stream.flush())
    total = torch.cat(came, dim=-1)
    assert total.shape == (sources, len(x))
    torch.testing.assert_close(total.sum(0), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [0, 1, 159, 160, 161, 500])
def test_short_streams(stream: StreamSeparator, length: int) -> None:
    x = torch.linspace(-1, 1, length)
    sources = run(stream, x)
    assert sources.shape == (2, length)
    torch.testing.assert_close(sources.sum(0), x, rtol=0, atol=1e-5)
    assert stream.flush().shape == (2, 0)


def test_silence_is_silent_and_changes_nothing(stream: StreamSeparator) -> None:
    assert not run(stream, torch.zeros(20000)).any()
    stream.push(noises(8000, 4))
    stream.push(torch.zeros(2000))
    before = stream.state.masks.clusters
    assert before.found
    assert stream.push(torch.zeros(80000))[:, 2000:].abs().max() < 1e-6
    after = stream.state.masks.clusters
    assert torch.equal(before.centroids, after.centroids)
    assert torch.equal(before.masses, after.masses)


@pytest.mark.parametrize("level", [1e-30, 1e14])
def test_any_level(causal_model: Path, level: float) -> None:
    stream = StreamSeparator(str(causal_model), 2, 192000)
    x = noises(192000, 1.5).clamp(-1, 1) * level
    sources = run(stream, x)
    torch.testing.assert_close(sources.sum(0), x, rtol=0, atol=1e-5 * level)


@pytest.mark.parametrize("end", ["reset", "flush"])
def test_a_new_stream_knows_nothing_of_the_last(stream: StreamSeparator, end: str) -> None:
    x = noises(8000, 3)
    first = run(stream, x)
    stream.push(noises(8000, 2, seed=1) * 50)
    getattr(stream, end)()
    assert torch.equal(run(stream, x), first)


def test_a_copy_of_the_state_is_a_place_to_go_back_to(stream: StreamSeparator) -> None:
    x = noises(8000, 3)
    stream.push(x[:10003])
    kept = copy.deepcopy(stream.state)
    once = run(stream, x[10003:])
    stream.state = kept
    assert torch.equal(run(stream, x[10003:]), once)


def test_a_long_block_is_worked_on_in_parts(
    stream: StreamSeparator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = noises(8000, 3)
    whole = run(stream, x)
    monkeypatch.setattr(module, "AT_ONCE", 0.7)
    torch.testing.assert_close(run(stream, x), whole, rtol=0, atol=2e-5)


def test_a_second_thread_does_not_wait_for_busy_cores(
    stream: StreamSeparator, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    step = stream.separator.step

    def watched(*arguments: Any) -> Any:
        threads.append(torch.get_num_threads())
        return step(*arguments)

    monkeypatch.setattr(stream.separator, "step", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(stream, noises(8000, 3))
        assert set(threads) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_above_the_networks_band_the_mixture_is_shared_too(causal_model: Path) -> None:
    stream = StreamSeparator(str(causal_model), 2, 32000)
    x = noises(32000, 3)
    spectra = torch.fft.rfft(run(stream, x)[:, -32000:]).abs()
    upper = spectra[:, 5000:].mean(-1)  # above 5 kHz
    assert upper.min() > 0.05 * torch.fft.rfft(x[-32000:]).abs()[5000:].mean()


def test_arrays_of_any_float_and_a_model_of_ones_own(causal_model: Path) -> None:
    stream = dpcl.StreamSeparator(load_model(causal_model), sources=2)
    x = noises(8000, 1)
    expected = run(stream, x)
    for samples in (x.numpy(), x.double(), x.tolist()):
        got = torch.cat([stream.push(samples), stream.flush()], dim=-1)
        torch.testing.assert_close(got, expected)
        assert got.dtype == torch.float32


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(4, np.int16), "int16; give floating point"),
        (torch.zeros(2, 4), r"shape \(2, 4\)"),
        (np.float32(1), r"shape \(\)"),
        ([0.1, float("nan")], "NaN or values beyond"),
        ([0.1, -float("inf")], "NaN or values beyond"),
        ([0.1, 1e39], "NaN or values beyond"),
    ],
)
def test_bad_samples_leave_the_stream_where_it_was(
    stream: StreamSeparator, samples: Any, message: str
) -> None:
    x = noises(8000, 1)
    first = stream.push(x)
    with pytest.raises(InputError, match=message):
        stream.push(samples)
    torch.testing.assert_close(torch.cat([first, stream.flush()], -1), run(stream, x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sources": 0}, "cannot separate into 0 sources"),
        ({"sources": 11}, "cannot separate into 11 sources"),
        ({"sample_rate": 0}, "sample rate of 0 Hz"),
        ({"sample_rate": 2_000_000}, "sample rate of 2000000 Hz"),
        ({"model": "default"}, "cannot separate a stream"),
        ({"model": "cauzal"}, "unknown model 'cauzal'"),
    ],
)
def test_bad_arguments(causal_model: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StreamSeparator(**{"model": str(causal_model), **arguments})


def test_no_mask_modulates_loud_rumble(stream: StreamSeparator) -> None:
    speech = noises(8000, 2)
    hum = 30 * torch.sin(2 * torch.pi * 50 * torch.arange(len(speech)) / 8000)
    sources = run(stream, speech + hum)
    torch.testing.assert_close(sources.sum(0), speech + hum, rtol=0, atol=1e-3)
    difference = (sources[0] - sources[1])[2000:-2000]  # of the same halves of the hum
    level = torch.fft.rfft(difference * torch.hann_window(len(difference))).abs()
    first, last = (round(f * len(difference) / 8000) for f in (40, 75))
    assert float(level[first:last].max()) < 0.01 * 30 * len(difference) / 4  # of the hum


def test_no_mask_modulates_harmonics_of_hum(stream: StreamSeparator) -> None:
    speech = noises(8000, 4)
    time = 2 * torch.pi * torch.arange(len(speech)) / 8000
    hum = (torch.sin(120 * time) + torch.sin(180 * time) + torch.sin(300 * time)) / 2
    sources = run(stream, speech + hum)
    difference = (sources[0] - sources[1])[8000:-2000]
    level = torch.fft.rfft(difference * torch.hann_window(len(difference))).abs()
    places = [round(hertz / 8000 * len(difference)) for hertz in (120, 180, 300)]
    assert float(level[places].max()) < 0.1 / 2 * len(difference) / 4  # of the hum
