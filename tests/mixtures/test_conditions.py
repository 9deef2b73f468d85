from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pydantic import ValidationError
from torch.utils.data import DataLoader

import dpcl.errors
from dpcl.errors import InputError
from dpcl.mixtures.channels import BandSettings, CodecSettings
from dpcl.mixtures.conditions import (
    ConditionedMixture,
    ConditionedMixtures,
    ConditionParts,
    ConditionSettings,
    prepare_conditions,
)
from dpcl.mixtures.corpus import PackedCorpus, pack_corpus, read_corpus
from dpcl.mixtures.noise import BackgroundSettings, coloured_noise, mains_hum, read_sounds

RATE, SAMPLES = 8000, 4000
NONE = {
    "talkers": (0.0, 1.0),
    "levels": {"wide": 0, "misjudged": 0},
    "turns": {"probability": 0},
    "gain_control": {"probability": 0},
    "rooms": {"probability": 0},
    "background": {"probability": 0, "hiss": 0},
    "band": {"telephone": 0, "highpass": 0, "lowpass": 0},
    "shelf": {"probability": 0},
    "clipping": {"probability": 0},
    "codec": {"probability": 0},
}
ALL = {
    "talkers": (0.2, 0.4, 0.4),
    "turns": {"probability": 1},
    "gain_control": {"probability": 0.5},
    "rooms": {"count": 2, "positions": 3, "rt60": (0.1, 0.2)},
    "background": {"probability": 0.8, "only": ("noises",)},
    "clipping": {"probability": 0.5},
    "codec": {"probability": 0.5},
}


def settings(changes: dict[str, object], base: dict[str, object] = NONE) -> ConditionSettings:
    return ConditionSettings.model_validate({**base, **changes})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six talkers and two sounds: noise in bands that comes and goes."""
    rng = np.random.default_rng(0)
    rows = []
    for corpus, names in (("speech", "abcdef"), ("noises", "xy")):
        for name in names:
            for number in range(2):
                path = tmp_path / "corpus" / corpus / name / f"{number}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, 0.1 * rng.standard_normal(6000), RATE)
                place = path.relative_to(tmp_path / "corpus").as_posix()
                rows.append(["train", corpus, name, "", place, "0.75", f"{name}{number}"])
    header = ["split", "corpus", "speaker", "gender", "path", "seconds", "text"]
    with (tmp_path / "corpus" / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return tmp_path / "corpus"


@pytest.fixture
def speech(root: Path, tmp_path: Path) -> PackedCorpus:
    return pack_corpus(read_corpus(root, "train", ["speech"]), RATE, tmp_path / "cache")


@pytest.fixture
def all_conditions(root: Path, speech: PackedCorpus, tmp_path: Path) -> ConditionedMixtures:
    chosen = settings({}, ALL)
    parts = prepare_conditions(chosen, root, RATE, tmp_path / "cache")
    return ConditionedMixtures(chosen, speech, parts, SAMPLES, 40, seed=3)


def plain(speech: PackedCorpus, changes: dict[str, object], items: int = 20) -> ConditionedMixtures:
    parts = ConditionParts(None, None)
    return ConditionedMixtures(settings(changes), speech, parts, SAMPLES, items)


def test_parts_add_up_and_are_padded(all_conditions: ConditionedMixtures) -> None:
    numbers = set()
    for item in range(40):
        drawn = all_conditions[item]
        number = int(drawn.num_talkers)
        numbers.add(number)
        assert drawn.sources.shape == (3, SAMPLES) and drawn.mixture.shape == (SAMPLES,)
        assert not drawn.sources[number:].any() and drawn.sources[:number].any(dim=1).all()
        torch.testing.assert_close(drawn.sources.sum(0) + drawn.background, drawn.mixture)
        assert all(value.isfinite().all() for value in drawn)
        assert max(drawn.sources.abs().max(), drawn.mixture.abs().max()) == pytest.approx(0.9)
    assert numbers == {1, 2, 3}


def test_items_depend_on_seed_epoch_and_item_alone(
    all_conditions: ConditionedMixtures, speech: PackedCorpus
) -> None:
    first = [all_conditions[item] for item in range(8)]
    same(first[5], all_conditions[5])
    loader = DataLoader(all_conditions, batch_size=4, num_workers=2, persistent_workers=True)
    batches = list(loader)
    assert isinstance(batches[0], ConditionedMixture)
    for item, drawn in enumerate(first):
        same(drawn, ConditionedMixture(*(value[item % 4] for value in batches[item // 4])))
    all_conditions.set_epoch(1)
    assert not torch.equal(all_conditions[5].mixture, first[5].mixture)
    # Workers that outlive an epoch draw the next one too.
    assert torch.equal(next(iter(loader)).mixture[0], all_conditions[0].mixture)
    all_conditions.set_epoch(0)
    same(first[5], all_conditions[5])
    with pytest.raises(IndexError):
        all_conditions[40]


def same(one: ConditionedMixture, other: ConditionedMixture) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def test_without_conditions_the_mixture_is_the_sum(speech: PackedCorpus) -> None:
    mixtures = plain(speech, {})
    for item in range(5):
        drawn = mixtures[item]
        assert drawn.background.abs().max() < 1e-6 and drawn.level_factor == 1.0
        assert drawn.sources.shape[0] == 2


@pytest.mark.parametrize("kind", ["noise", "hum", "babble"])
def test_backgrounds_have_the_ratio_asked_for(speech: PackedCorpus, kind: str) -> None:
    background = {"probability": 1, "hiss": 0, "snr_db": (7, 7), "shares": {kind: 1}}
    mixtures = plain(speech, {"background": background})
    for item in range(5):
        drawn = mixtures[item]
        ratio = drawn.sources.sum(0).square().mean() / drawn.background.square().mean()
        assert 10 * ratio.log10() == pytest.approx(7.0, abs=0.01)


def test_sounds_have_the_ratio_asked_for(root: Path, speech: PackedCorpus, tmp_path: Path) -> None:
    background = {"probability": 1, "hiss": 0, "snr_db": (-3, -3), "only": ("noises",)}
    background["shares"] = {"sound": 0.5, "sounds": 0.5}
    chosen = settings({"background": background})
    parts = prepare_conditions(chosen, root, RATE, tmp_path / "cache")
    assert parts.rooms is None and parts.sounds is not None
    drawn = ConditionedMixtures(chosen, speech, parts, SAMPLES, 5)[2]
    ratio = drawn.sources.sum(0).square().mean() / drawn.background.square().mean()
    assert 10 * ratio.log10() == pytest.approx(-3.0, abs=0.01)
    with pytest.raises(InputError, match=r"background\.shares: there are no sounds"):
        ConditionedMixtures(chosen, speech, ConditionParts(None, None), SAMPLES, 5)


def test_levels_lie_apart_and_are_misjudged_as_asked_for(speech: PackedCorpus) -> None:
    levels = {"wide": 1, "wide_db": 15, "misjudged": 1, "misjudged_db": 8}
    mixtures = plain(speech, {"levels": levels}, 60)
    apart, factors = [], []
    for item in range(60):
        drawn = mixtures[item]
        first, second = drawn.sources.square().mean(1)
        apart.append(abs(float(10 * (first / second).log10())))
        factors.append(abs(float(20 * drawn.level_factor.log10())))
    assert 10 < max(apart) < 15.5 and min(apart) < 3
    assert 6 < max(factors) <= 8.001


def test_a_band_applies_to_talkers_and_background_and_a_codec_to_the_mixture(
    speech: PackedCorpus,
) -> None:
    background = {"probability": 1, "hiss": 0, "snr_db": (0, 0), "shares": {"noise": 1}}
    band = {"telephone": 1, "highpass": 0, "lowpass": 0}
    drawn = plain(speech, {"background": background, "band": band})[0]
    for part in (*drawn.sources, drawn.background):
        spectrum = torch.fft.rfft(part).abs().square()
        assert spectrum[:50].mean() < 0.01 * spectrum[250:1400].mean()  # bins of 2 Hz
    for name in ("clipping", "codec"):
        drawn = plain(speech, {name: {"probability": 1}})[0]
        error = drawn.background.square().mean() / drawn.mixture.square().mean()
        assert 1e-6 < error < 2


def test_talkers_pause(speech: PackedCorpus) -> None:
    mixtures = plain(speech, {"turns": {"probability": 1, "talker": 1}})
    silent = [(mixtures[item].sources.abs() < 1e-7).float().mean(1) for item in range(20)]
    shares = torch.stack(silent)
    assert shares.max() <= 0.87 and (shares > 0.1).float().mean() > 0.4


def test_a_talker_alone_pauses_too_and_the_background_remains(speech: PackedCorpus) -> None:
    noise = {"probability": 1, "snr_db": [0, 0], "shares": {"noise": 1}}
    changes = {"talkers": [1.0], "turns": {"probability": 1, "talker": 1}, "background": noise}
    item = plain(speech, changes)[0]
    silent = item.sources[0] == 0
    assert 0.05 < silent.float().mean() < 0.9
    assert item.background[silent].abs().mean() > 0.01


def test_rooms_ring_on(root: Path, speech: PackedCorpus, tmp_path: Path) -> None:
    rooms = {"probability": 1, "count": 2, "positions": 2, "rt60": (0.2, 0.3)}
    chosen = settings({"rooms": rooms})
    with pytest.raises(InputError, match=r"rooms\.probability: there is no bank"):
        ConditionedMixtures(chosen, speech, ConditionParts(None, None), SAMPLES, 5)
    parts = prepare_conditions(chosen, root, RATE, tmp_path / "cache")
    wet = ConditionedMixtures(chosen, speech, parts, SAMPLES, 5)[1]
    dry = plain(speech, {})[1]
    assert wet.background.abs().max() < 1e-6
    cosine = torch.cosine_similarity(wet.sources, dry.sources)
    assert (cosine.abs() < 0.95).all()


def test_noises_have_their_slopes() -> None:
    rng = np.random.default_rng(0)
    for slope in (0.0, 1.0, 2.0):
        noise = coloured_noise(rng, 80000, RATE, slope)
        assert noise.shape == (80000,) and noise.dtype == np.float32
        spectrum = np.abs(np.fft.rfft(noise)) ** 2  # bins of 0.1 Hz
        fall = 10 * np.log10(spectrum[2000:4000].mean() / spectrum[20000:40000].mean())
        assert fall == pytest.approx(10 * slope, abs=1.0)
    hum = mains_hum(rng, 16000, RATE)
    peak = np.argmax(np.abs(np.fft.rfft(hum))) * RATE / 16000
    assert peak > 49 and hum.dtype == np.float32


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: BandSettings(telephone=0.5, highpass=0.4, lowpass=0.2), "add up to 1.1; give at"),
        (lambda: BackgroundSettings(shares={"noise": 0.7, "hum": 0.6}), "shares add up to 1.3"),
        (lambda: BackgroundSettings(shares={"rain": 1.0}), "shares has 'rain'; there are sound"),
        (lambda: BackgroundSettings(snr_db=(10, 0)), "snr_db 10 to 0 is no range"),
        (lambda: CodecSettings(shares={"gsm": 0.9, "ulaw": 0.2}), "shares add up to 1.1"),
        (lambda: CodecSettings(shares={"atrac": 1.0}), "shares has 'atrac'; there are ulaw"),
        (lambda: ConditionSettings(talkers=(0.5, 0.7)), "talkers add up to 1.2; give shares"),
        (lambda: ConditionSettings(talkers=()), "talkers has 0 shares"),
        (lambda: ConditionSettings.model_validate({"echo": 1}), "Extra inputs"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_sentence(make: object, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        make()  # type: ignore[operator]


def test_what_is_missing_is_named_before_any_work(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "untouched"
    chosen = settings({"background": {"only": ("esc10",)}})
    with pytest.raises(InputError, match=r"split train has no sounds of background\.only"):
        prepare_conditions(chosen, root, RATE, cache)
    with pytest.raises(InputError, match="does not exist"):
        prepare_conditions(chosen, tmp_path / "nothing", RATE, cache)
    only = BackgroundSettings(only=("noises",))
    assert {u.speaker for u in read_sounds(str(root), only).utterances} == {"x", "y"}
    monkeypatch.setattr(dpcl.errors, "find_spec", lambda name: None)
    chosen = settings({"codec": {"probability": 0.1, "shares": {"amr": 1.0}}})
    with pytest.raises(InputError, match=r"codec amr needs av.*dpcl\[codecs\]"):
        prepare_conditions(chosen, root, RATE, cache)
    assert not cache.exists()
