"""Any rate, channels, level and length: the sources are the recording's, and add up to it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import dpcl
from dpcl.errors import InputError
from dpcl.evaluation.metrics import best_permutation, si_sdr
from dpcl.model import Model, ModelSettings
from dpcl.networks.base import Heads
from dpcl.networks.lstm import BLSTMEmbedding
from dpcl.recordings.separate import separate_recording
from dpcl.separators.base import Analysis
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.registry import build
from dpcl.signal.band import Band
from dpcl.signal.stft import STFT, Windows

RATES = (8000, 16000, 22050, 44100, 48000)
EXAMPLES = Path(__file__).parents[2] / "examples"


def noises(rate: int, seconds: float, channels: int = 1, seed: int = 0) -> np.ndarray:
    """(channels, T) of two noises that come and go, panned differently."""
    rng = np.random.default_rng(seed)
    samples = round(rate * seconds)
    gates = rng.random((2, samples // 500 + 1)) > 0.4
    talkers = 0.2 * rng.standard_normal((2, samples)) * gates.repeat(500, axis=1)[:, :samples]
    pan = rng.random((channels, 2)) + 0.1
    return (pan @ talkers).astype(np.float32)


class Known(DeepClustering):
    """A network that knows the sources (2, T): embeddings say which is louder in each bin."""

    def __init__(self, sources: np.ndarray, rate: int) -> None:
        self.sample_rate, self.stft = 8000, STFT(256, 64)
        self.model = Model(ModelSettings(), BLSTMEmbedding(129, 1, 1, Heads(2)), {})
        band = Band(rate, self.sample_rate, self.stft)
        magnitudes = band.crop(band.stft(torch.from_numpy(sources)).abs())  # (2, L, F)
        self.owners = (magnitudes[0] >= magnitudes[1]).float()
        longest, overlap = round(self.window_seconds * 125), round(self.overlap_seconds * 125)
        windows = Windows(len(self.owners), longest, overlap)
        self.length, self.starts = windows.length, iter(windows.starts)

    def analyse(self, spectra: Tensor) -> Analysis:
        windows = [slice(start, start + self.length) for start in islice(self.starts, len(spectra))]
        return torch.stack([self.owners[window] for window in windows]), spectra.abs().mean(1)

    def embed(self, encoded: Tensor) -> Tensor:
        return torch.stack([encoded, 1 - encoded], dim=-1).flatten(1, 2)


def separated(mixture: np.ndarray, talkers: np.ndarray, rate: int) -> Tensor:
    """With the help of the talkers (2, T), in their order."""
    found = separate_recording(mixture, rate, Known(talkers, rate), 2).sources
    heard = found if found.ndim == 2 else found.sum(1)
    return found[best_permutation(heard, torch.from_numpy(talkers))]


@pytest.mark.parametrize("channels", [0, 1, 2, 6])
@pytest.mark.parametrize("rate", [*RATES, 7919, 1000])
def test_sources_are_like_the_recording_and_add_up_to_it(
    rate: int, channels: int, tiny_model: Path
) -> None:
    """speechbrain took stereo at the model's own rate for a batch of two."""
    recording = noises(rate, 0.4, channels or 1)
    if channels == 0:
        recording = recording[0]
    separation = dpcl.separate(recording, rate, model=str(tiny_model))
    assert separation.sources.dtype == torch.float32
    assert separation.sources.shape == (2, *recording.shape)
    np.testing.assert_allclose(separation.sources.sum(0), recording, atol=1e-5)
    assert separation.masks is not None
    assert separation.masks.ndim == 3
    torch.testing.assert_close(separation.masks.sum(0), torch.ones(separation.masks.shape[1:]))
    assert separation.masks.min() >= 0


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("samples", [1, 2, 3, 63, 64, 65, 800])
def test_the_shortest_recordings(rate: int, samples: int, tiny_model: Path) -> None:
    """At 44.1 kHz up to two samples were resampled to none, and refused."""
    for recording in (noises(rate, 1)[0, :samples], noises(rate, 1, 2)[:, :samples]):
        sources = dpcl.separate(recording, rate, model=str(tiny_model)).sources
        assert sources.shape == (2, *recording.shape)
        np.testing.assert_allclose(sources.sum(0), recording, atol=1e-5)


@pytest.mark.parametrize("shape", [(4000,), (2, 4000)])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_silence_gives_silence(shape: tuple[int, ...], rate: int, tiny_model: Path) -> None:
    separation = dpcl.separate(np.zeros(shape), rate, model=str(tiny_model))
    assert separation.sources.shape == (2, *shape)
    assert not separation.sources.any()
    assert separation.masks is not None
    torch.testing.assert_close(separation.masks.sum(0), torch.ones(separation.masks.shape[1:]))


@pytest.mark.parametrize("sources", [1, 2, 3, 10])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_as_many_sources_as_asked_for(rate: int, sources: int, tiny_model: Path) -> None:
    recording = noises(rate, 0.3, 2)
    found = dpcl.separate(recording, rate, sources, str(tiny_model)).sources
    assert found.shape == (sources, *recording.shape)
    np.testing.assert_allclose(found.sum(0), recording, atol=1e-5)
    if sources == 1:
        np.testing.assert_allclose(found[0], recording, atol=1e-5)


@pytest.mark.parametrize("gain", [100.0, 0.01, 1e12, 1e-12, 1e-25, 1e25])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 0), (8000, 2), (44100, 1)])
def test_the_level_changes_no_mask(rate: int, channels: int, gain: float, tiny_model: Path) -> None:
    """Others compare with an absolute threshold (munakata) or scale every output to one."""
    recording = noises(rate, 0.5, channels or 1)
    if channels == 0:
        recording = recording[0]
    plain = dpcl.separate(recording, rate, model=str(tiny_model))
    other = dpcl.separate(gain * recording.astype(np.float64), rate, model=str(tiny_model))
    assert plain.masks is not None
    assert other.masks is not None
    # Rounding may turn a bin that lies between two sources.
    assert ((plain.masks - other.masks).abs() > 1e-3).float().mean() < 1e-3
    np.testing.assert_allclose(
        other.sources.sum(0), gain * recording.astype(np.float64), rtol=1e-4, atol=1e-5 * gain
    )


def test_channels_in_which_the_mean_cancels_are_heard(tiny_model: Path) -> None:
    left = noises(44100, 0.5)[0]
    alone = dpcl.separate(left, 44100, model=str(tiny_model))
    both = dpcl.separate(np.stack([left, -left]), 44100, model=str(tiny_model))
    assert alone.masks is not None
    assert both.masks is not None
    torch.testing.assert_close(alone.masks, both.masks)
    torch.testing.assert_close(both.sources[:, 0], alone.sources)
    torch.testing.assert_close(both.sources[:, 1], -alone.sources)


def test_every_channel_gets_the_same_mask_and_the_image_stays(tiny_model: Path) -> None:
    recording = noises(44100, 0.5, 2)
    recording = np.concatenate([recording, 0.25 * recording[:1], np.zeros_like(recording[:1])])
    separation = dpcl.separate(recording, 44100, model=str(tiny_model))
    sources, masks = separation.sources, separation.masks  # (C, 4, T), (C, L, F)
    assert masks is not None
    stft = STFT(4 * 353, 353)  # 64 samples at 8 kHz are 352.8 at 44.1 kHz
    spectrum = stft(torch.from_numpy(recording))  # (4, L, F)
    expected = stft.inverse(masks[:, None] * spectrum, recording.shape[-1])
    torch.testing.assert_close(sources, expected)
    torch.testing.assert_close(sources[:, 2], 0.25 * sources[:, 0], atol=1e-6, rtol=0)
    assert not sources[:, 3].any()


def test_a_source_on_the_left_stays_there() -> None:
    time = np.arange(44100) / 44100
    left = np.where(time % 0.4 < 0.2, 0.3, 0.03) * np.sin(2 * np.pi * 500 * time)
    right = 0.3 * np.sin(2 * np.pi * 1500 * time)
    talkers = np.stack([left, right]).astype(np.float32)
    found = separated(talkers, talkers, 44100).numpy()
    levels = 10 * np.log10((found**2).mean(-1) / (talkers**2).mean(-1)[:, None])  # (C, channels)
    np.testing.assert_allclose(np.diag(levels), 0, atol=0.5)
    assert levels[0, 1] < -20
    assert levels[1, 0] < -20


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
@pytest.mark.parametrize(("pitches", "hum"), [((500.0, 700.0), 0.0), ((2500.0, 3100.0), 0.2)])
def test_above_the_reach_of_the_network_what_sounds_together_stays_together(
    pitches: tuple[float, float], hum: float, rate: int
) -> None:
    """Each burst goes with the tone of its time, and not with the first talker's hum."""
    rng = np.random.default_rng(0)
    time = np.arange(2 * rate) / rate
    spectrum = np.fft.rfft(rng.standard_normal((2, len(time))))
    frequencies = np.fft.rfftfreq(len(time), 1 / rate)
    spectrum[:, (frequencies < 5000) | (frequencies > 7500)] = 0
    bursts = np.fft.irfft(spectrum, len(time))  # nothing of them below 5 kHz
    bursts *= 0.1 / bursts.std()
    tones = 0.2 * np.sin(2 * np.pi * np.array(pitches)[:, None] * time)
    turns = np.stack([time % 0.5 < 0.25, time % 0.5 >= 0.25])
    talkers = ((tones + bursts) * turns).astype(np.float32)
    talkers[0] += hum * np.sin(2 * np.pi * 300 * time)
    mixture = talkers.sum(0)
    found = separated(mixture, talkers, rate)
    scores = si_sdr(found, torch.from_numpy(talkers))
    assert scores.min() > 10, scores
    # and not a frame too early or too late at the end of the recording
    late = slice(-rate // 2, None)
    assert si_sdr(found[:, late], torch.from_numpy(talkers[:, late])).min() > 10


def test_masks_do_not_drift_in_a_long_recording() -> None:
    """A hop of 352.8 samples becomes 353: after half a minute that would be 17 ms too late."""
    rate, seconds = 44100, 30
    rng = np.random.default_rng(0)
    mixture = (0.1 * rng.standard_normal(rate * seconds)).astype(np.float32)
    turns = np.arange(len(mixture)) / rate % 1 < 0.5
    talkers = np.stack([mixture * turns, mixture * ~turns])
    found = separated(mixture, talkers, rate)
    late = slice(-2 * rate, None)
    assert si_sdr(found[:, late], torch.from_numpy(talkers[:, late])).min() > 15


def test_the_same_call_gives_the_same_sources(tiny_model: Path) -> None:
    recording = noises(16000, 0.5)[0]
    first = dpcl.separate(recording, 16000, model=str(tiny_model)).sources
    torch.manual_seed(99)
    assert torch.equal(first, dpcl.separate(recording, 16000, model=str(tiny_model)).sources)


def test_any_floating_point_and_any_memory_layout(tiny_model: Path) -> None:
    recording = noises(16000, 0.3)[0]
    expected = dpcl.separate(recording, 16000, model=str(tiny_model)).sources
    reverse = recording[::-1].copy()
    read_only = recording.copy()
    read_only.flags.writeable = False
    for samples in (
        recording.astype(np.float64),
        recording.astype(">f4"),
        recording.tolist(),
        read_only,
        reverse[::-1],
        np.stack([recording, reverse], axis=1)[:, 0],
        torch.from_numpy(recording),
        torch.from_numpy(recording.astype(np.float64)).requires_grad_(),
    ):
        found = dpcl.separate(samples, 16000, model=str(tiny_model)).sources
        torch.testing.assert_close(found, expected)
    coarse = dpcl.separate(torch.from_numpy(recording).bfloat16(), 16000, model=str(tiny_model))
    assert coarse.sources.dtype == torch.float32


@pytest.mark.parametrize("rate", [8000, 44100])
def test_what_comes_back_is_the_callers_to_change(rate: int, tiny_model: Path) -> None:
    """In inference mode torch would refuse `sources *= 2`."""
    recording = noises(rate, 0.2)[0]
    before = recording.copy()
    separation = dpcl.separate(recording, rate, 1, str(tiny_model))
    for tensor in (separation.sources, separation.masks, separation.embeddings):
        assert tensor is not None
        assert not tensor.requires_grad
        tensor *= 2
    np.testing.assert_array_equal(recording, before)


BAD_SAMPLES: dict[str, tuple[object, str]] = {
    "none": ([], "at least one sample"),
    "no channels": (np.zeros((0, 5)), "at least one sample"),
    "no samples": (np.zeros((2, 0)), "at least one sample"),
    "a number": (0.5, r"\(T,\) or \(channels, T\)"),
    "three dimensions": (np.zeros((1, 2, 500)), r"\(1, 2, 500\)"),
    "samples first": (np.zeros((44100, 2)), r"\(44100, 2\).*samples\.T"),
    "NaN": (np.array([0.1, np.nan, 0.1]), "NaN or infinite"),
    "infinite": (np.array([[0.1, 0.2], [0.1, -np.inf]]), "NaN or infinite"),
    "16 bits": (np.zeros(800, dtype=np.int16), "int16; give floating point.*32768"),
    "whole numbers": ([0, 1, 0], "int64"),
    "a tensor of 32 bits": (torch.zeros(800, dtype=torch.int32), "int32"),
    "complex": (np.zeros(800, dtype=np.complex64), "complex64"),
    "complex tensor": (torch.zeros(800, dtype=torch.complex64), "complex64"),
    "text": ("meeting.wav", "is a path"),
}


@pytest.mark.parametrize(("samples", "what"), BAD_SAMPLES.values(), ids=BAD_SAMPLES.keys())
def test_samples_that_are_none(samples: np.ndarray, what: str, tiny_model: Path) -> None:
    with pytest.raises(InputError, match=what) as caught:
        dpcl.separate(samples, 8000, model=str(tiny_model))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sources", [0, -1, 11, 2.5, 2.0])
def test_a_number_of_sources_out_of_range(sources: int, tiny_model: Path) -> None:
    """2.5 sources never came to an end."""
    with pytest.raises(InputError, match="sources; give 1 to 10"):
        dpcl.separate(noises(8000, 0.1)[0], 8000, sources, str(tiny_model))


@pytest.mark.parametrize("rate", [0, -8000, 5, 10_000_000, float("nan"), float("inf")])
def test_a_rate_out_of_range(rate: int, tiny_model: Path) -> None:
    with pytest.raises(InputError, match="sample rate of"):
        dpcl.separate(noises(8000, 0.1)[0], rate, model=str(tiny_model))


def test_an_unknown_model() -> None:
    with pytest.raises(InputError, match="unknown model 'nonsense'"):
        dpcl.separate(np.zeros(800), 8000, model="nonsense")


def test_the_shipped_weights_separate_the_example() -> None:
    recording, rate = soundfile.read(EXAMPLES / "two_talkers.flac", dtype="float32")
    talkers = torch.from_numpy(
        np.stack(
            [
                soundfile.read(EXAMPLES / f"two_talkers_ref{k}.flac", dtype="float32")[0]
                for k in (1, 2)
            ]
        )
    )
    separation = separate_recording(recording, rate, build("default"))
    order = best_permutation(separation.sources, talkers)
    better = si_sdr(separation.sources[order], talkers) - si_sdr(
        torch.from_numpy(recording), talkers
    )
    assert better.min() > 3, better
    assert separation.background is not None
    total = separation.sources.sum(0) + separation.background
    np.testing.assert_allclose(total, recording, atol=1e-5)
    louder = separate_recording(100 * recording, rate, build("default"))
    assert separation.masks is not None
    assert louder.masks is not None
    assert ((separation.masks - louder.masks).abs() > 1e-3).float().mean() < 1e-3


@pytest.mark.parametrize("seconds", [3, 13])  # one window, and several
def test_noise_alone_is_background(seconds: int) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(seconds * 8000)
    found = dpcl.separate(noise, 8000)
    assert found.sources.shape == (0, seconds * 8000) and found.background is not None
    np.testing.assert_allclose(found.background, noise, atol=1e-5)


@pytest.mark.parametrize("disturbance", ["dc", "hum", "tone", "click"])
def test_what_nobody_hears_changes_nothing(disturbance: str) -> None:
    samples, rate = soundfile.read(EXAMPLES / "two_talkers.flac", dtype="float32")
    seconds = np.arange(len(samples)) / rate
    before = np.zeros(rate, np.float32)  # s
    disturbed = samples
    if disturbance == "dc":
        disturbed = samples + np.float32(0.05)
    elif disturbance == "hum":
        disturbed = (samples + 0.3 * np.sin(2 * np.pi * 50 * seconds)).astype(np.float32)
    else:
        before[rate // 2] = 1
        if disturbance == "tone":
            before = (0.9 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)).astype(np.float32)
        disturbed = np.concatenate([before, samples])
    clean = dpcl.separate(samples, rate).sources
    separation = dpcl.separate(disturbed, rate)
    found = separation.sources
    assert len(found) == len(clean) and separation.background is not None
    total = found.sum(0) + separation.background
    torch.testing.assert_close(total, torch.from_numpy(disturbed), rtol=0, atol=1e-5)
    skipped = len(disturbed) - len(samples) + rate // 4
    found, clean = found[:, skipped:], clean[:, rate // 4 :]
    low = torch.fft.rfftfreq(clean.shape[1], 1 / rate) < 100
    ours, theirs = (torch.fft.rfft(x).masked_fill(low, 0) for x in (found, clean))
    ours, theirs = torch.fft.irfft(ours), torch.fft.irfft(theirs)
    order = best_permutation(ours, theirs)
    assert si_sdr(ours[order], theirs).min() > 12  # dB, as the same mixture with a later start has
