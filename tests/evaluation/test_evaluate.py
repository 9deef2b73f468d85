"""A separator is scored on a list: what is written, what is averaged, and what is refused."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.evaluation.evaluate import evaluate
from dpcl.evaluation.metrics import score
from dpcl.evaluation.summary import SourceResult, Summary, summarise, summary_table
from dpcl.evaluation.summary import means as means_of
from dpcl.io import Progress
from dpcl.mixtures.render import render_mixture
from dpcl.mixtures.rows import MixtureRow, SourceRow
from dpcl.recordings.separate import separate_recording
from dpcl.separators.base import Analyses, Link, WindowSeparator
from dpcl.separators.registry import Method, find_method, method_of
from dpcl.signal.stft import STFT

pytest.importorskip("fast_bss_eval")

CONDITIONS = [("within", "same"), ("within", "different"), ("across", "different")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three talkers of noise, each in a band and at times of its own, and one who is silent."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for talker in range(3):
        spectrum = np.fft.rfft(rng.standard_normal(8000))
        away = np.abs(np.fft.rfftfreq(8000) - (0.1 + 0.1 * talker)) > 0.06
        spectrum[away] *= 0.03
        gate = np.repeat(rng.random(10) > 0.3, 800)
        samples = np.fft.irfft(spectrum) * gate
        soundfile.write(root / f"t{talker}.wav", 0.5 * samples / np.abs(samples).max(), 8000)
    soundfile.write(root / "silent.wav", np.zeros(8000), 8000)
    return root


def _row(index: int, *talkers: str, corpora: str = "within", genders: str = "same") -> MixtureRow:
    sources = tuple(SourceRow(talker, (f"{talker}.wav",), 0.0, 0.0) for talker in talkers)
    return MixtureRow(f"m{index}", "tiny", 0, 0.9, corpora, genders, sources)


@pytest.fixture
def rows() -> list[MixtureRow]:
    pairs = [("t0", "t1"), ("t1", "t2"), ("t0", "t2")]
    return [
        _row(index, *pair, corpora=corpora, genders=genders)
        for index, (pair, (corpora, genders)) in enumerate(zip(pairs, CONDITIONS, strict=True))
    ]


class Halves(WindowSeparator):
    """A separator of one trick: low frequencies and high ones, whatever the number asked for."""

    sample_rate = 8000
    stft = STFT(256, 64)
    asked: int | None = None

    def link(self, analyses: Analyses, num_sources: int | None, most: int) -> Link:
        self.asked = num_sources
        return super().link(analyses, 2, most)

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        low = torch.zeros(spectrum.shape)
        low[:, : spectrum.shape[1] // 3] = 1
        return torch.stack([low, 1 - low])


class Broken(Halves):
    """A separator whose masks are no numbers."""

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        return torch.full((2, *spectrum.shape), math.nan)


def halves(separator: Halves | None = None) -> Method:
    return method_of(separator or Halves(), "halves")


def _read(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_hold_a_row_per_mixture_and_source(
    rows: list[MixtureRow], corpus: Path, tmp_path: Path
) -> None:
    evaluate(rows, corpus, halves(), tmp_path / "new" / "out")
    lines = _read(tmp_path / "new" / "out")
    assert list(lines[0]) == [
        "id", "corpora", "genders", "source", "speaker",
        "si_sdr", "si_sdri", "sdr", "sdri", "silent",
    ]  # fmt: skip
    assert [(line["id"], line["source"], line["speaker"]) for line in lines] == [
        ("m0", "1", "t0"), ("m0", "2", "t1"), ("m1", "1", "t1"),
        ("m1", "2", "t2"), ("m2", "1", "t0"), ("m2", "2", "t2"),
    ]  # fmt: skip
    mixture, references = map(torch.from_numpy, render_mixture(rows[1], corpus, 8000))
    expected = score(separate_recording(mixture, 8000, Halves()).sources, references, mixture)
    for index, line in enumerate(lines[2:4]):
        for metric in ("si_sdr", "si_sdri", "sdr", "sdri"):
            assert float(line[metric]) == pytest.approx(
                getattr(expected, metric)[index].item(), abs=1e-4
            )
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == [
        "results.csv",
        "summary.json",
    ]


def test_summary_is_the_mean_of_the_results_by_condition(
    rows: list[MixtureRow], corpus: Path, tmp_path: Path
) -> None:
    summary = evaluate(rows, corpus, halves(), tmp_path)
    written = json.loads((tmp_path / "summary.json").read_text())
    assert (written["list"], written["separator"]) == ("tiny", "halves")
    assert written["sample_rate"] == 8000
    assert list(written["conditions"]) == [
        "within", "across", "same", "different",
        "within same", "within different", "across different",
    ]  # fmt: skip
    lines = _read(tmp_path)
    for condition, means in {"": written["overall"], **written["conditions"]}.items():
        words = set(condition.split())
        chosen = [line for line in lines if words <= {line["corpora"], line["genders"]}]
        assert means["sources"] == len(chosen)
        assert means["mixtures"] == len(chosen) // 2
        for metric in ("si_sdr", "si_sdri", "sdr", "sdri"):
            mean = sum(float(line[metric]) for line in chosen) / len(chosen)
            assert means[metric] == pytest.approx(mean, abs=2e-4)
    assert written["overall"]["sdri"] == summary.overall.sdri


def test_a_list_of_kinds_is_averaged_by_kind_and_group(
    rows: list[MixtureRow], corpus: Path, tmp_path: Path
) -> None:
    groups = [("speech", "sound"), ("sound", "sound"), ("speech", "sound")]
    rows = [
        replace(
            row,
            sources=tuple(replace(s, group=g) for s, g in zip(row.sources, names, strict=True)),
        )
        for row, names in zip(rows, groups, strict=True)
    ]
    summary = evaluate(rows, corpus, halves(), tmp_path)
    assert {name: (m.mixtures, m.sources) for name, m in summary.conditions.items()} == {
        "sound+sound": (1, 2),
        "speech+sound": (2, 4),
        "speech in speech+sound": (2, 2),
        "sound in speech+sound": (2, 2),
    }
    lines = _read(tmp_path)
    assert [line["group"] for line in lines] == [name for pair in groups for name in pair]
    chosen = [float(x["si_sdri"]) for x in lines if (x["kind"], x["group"]) == (
        "speech+sound", "speech")]  # fmt: skip
    mean = summary.conditions["speech in speech+sound"].si_sdri
    assert mean == pytest.approx(sum(chosen) / 2, abs=2e-4)


def test_separator_is_told_the_number_of_sources(corpus: Path, tmp_path: Path) -> None:
    separator = Halves()
    evaluate([_row(0, "t0", "t1", "t2")], corpus, halves(separator), tmp_path)
    assert separator.asked == 3


def test_one_source_more_for_a_background(corpus: Path, tmp_path: Path) -> None:
    separator = Halves()
    evaluate([_row(0, "t0", "t1")], corpus, replace(halves(separator), more=1), tmp_path)
    assert separator.asked == 3
    assert find_method("default:more").more == 1
    assert find_method("default").more == 0


def test_same_run_gives_the_same_bytes_and_replaces_older_ones(
    rows: list[MixtureRow], corpus: Path, tmp_path: Path
) -> None:
    evaluate(rows, corpus, halves(), tmp_path / "a")
    evaluate(rows[:1], corpus, find_method("ibm"), tmp_path / "b")
    evaluate(rows, corpus, halves(), tmp_path / "b")
    for name in ("results.csv", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_oracles_bound_the_scores(rows: list[MixtureRow], corpus: Path, tmp_path: Path) -> None:
    def run(name: str) -> Summary:
        return evaluate(rows, corpus, find_method(name), tmp_path)

    nothing = run("mixture").overall
    assert nothing.si_sdri == pytest.approx(0, abs=1e-3)
    assert nothing.sdri == pytest.approx(0, abs=1e-3)
    ideal = run("ibm").overall.si_sdri
    assert ideal is not None
    assert ideal > 8


@pytest.mark.parametrize("method", [halves(), find_method("irm")], ids=["halves", "irm"])
def test_silent_reference_is_listed_and_not_averaged(
    method: Method, corpus: Path, tmp_path: Path
) -> None:
    rows = [_row(0, "t0", "t1"), _row(1, "silent", "t2")]
    summary = evaluate(rows, corpus, method, tmp_path)
    lines = _read(tmp_path)
    assert [line["silent"] for line in lines] == ["0", "0", "1", "0"]
    assert [lines[2][metric] for metric in ("si_sdr", "si_sdri", "sdr", "sdri")] == [""] * 4
    assert (summary.overall.sources, summary.overall.silent) == (3, 1)
    assert summary.overall.si_sdr == pytest.approx(
        sum(float(lines[index]["si_sdr"]) for index in (0, 1, 3)) / 3, abs=1e-3
    )
    assert "Not averaged: 1 silent references." in summary_table(summary)


def test_list_of_nothing_but_silence_has_no_means(corpus: Path, tmp_path: Path) -> None:
    summary = evaluate([_row(0, "silent", "silent")], corpus, halves(), tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["overall"]["si_sdri"] is None
    assert "| all | 1 | – | – | – | – |" in summary_table(summary)


def test_missing_estimates_are_counted(corpus: Path, tmp_path: Path) -> None:
    rows = [_row(0, "t0", "t1", "t2")]
    summary = evaluate(rows, corpus, halves(), tmp_path)
    assert (summary.overall.sources, summary.overall.unmatched) == (2, 1)
    assert "1 references without an estimate" in summary_table(summary)


def test_limit_and_progress(rows: list[MixtureRow], corpus: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    summary = evaluate(
        rows,
        corpus,
        halves(),
        tmp_path,
        limit=2,
        report=lambda moved: calls.append((moved.done, moved.total)),
    )
    assert calls == [(1, 2), (2, 2)]
    assert summary.overall.mixtures == 2


def test_run_that_dies_leaves_nothing(rows: list[MixtureRow], corpus: Path, tmp_path: Path) -> None:
    def die(moved: Progress) -> None:
        if moved.done == moved.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(rows, corpus, halves(), tmp_path / "out", report=die)
    assert not (tmp_path / "out").exists()


def test_estimates_that_cannot_be_scored_name_the_mixture(
    rows: list[MixtureRow], corpus: Path, tmp_path: Path
) -> None:
    """The driver gives estimates the length of their mixture; only NaN is left."""
    with pytest.raises(InputError, match=r"m0.*estimates hold NaN"):
        evaluate(rows, corpus, halves(Broken()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_file_names_the_mixture(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m0.*nobody\.wav"):
        evaluate([_row(0, "t0", "nobody")], corpus, halves(), tmp_path / "out")


def test_nothing_to_evaluate_and_nowhere_to_write(
    rows: list[MixtureRow], corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no mixtures"):
        evaluate([], corpus, halves(), tmp_path)
    with pytest.raises(InputError, match="limit of 0"):
        evaluate(rows, corpus, halves(), tmp_path, limit=0)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        evaluate(rows, corpus, halves(), tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        evaluate(rows[:1], corpus, halves(), tmp_path / "file" / "below")


def _result(corpora: str, genders: str, value: float, *, silent: bool = False) -> SourceResult:
    return SourceResult(
        f"{corpora}-{genders}", corpora, genders, 1, "a", value, value, value, value, silent
    )


def test_conditions_that_do_not_occur_are_left_out() -> None:
    results = [_result("across", "unknown", 4.0), _result("across", "same", 6.0)]
    summary = summarise(results, "list", "name", 8000)
    assert list(summary.conditions) == [
        "across", "same", "unknown", "across same", "across unknown",
    ]  # fmt: skip
    assert summary.overall.sdri == 5.0
    assert summary.conditions["across same"].sdri == 6.0


def test_table_has_a_line_per_condition() -> None:
    result = _result("within", "same", 1.0)
    results = [replace(result, sdri=3.456), replace(result, source=2)]
    assert summary_table(summarise(results, "open2", "ibm", 8000)) == (
        "| open2, ibm | mixtures | SI-SDR | SI-SDRi | SDR | SDRi |\n"
        "|---|--:|--:|--:|--:|--:|\n"
        "| all | 1 | 1.00 | 1.00 | 1.00 | 2.23 |\n"
        "| within | 1 | 1.00 | 1.00 | 1.00 | 2.23 |\n"
        "| same | 1 | 1.00 | 1.00 | 1.00 | 2.23 |\n"
        "| within same | 1 | 1.00 | 1.00 | 1.00 | 2.23 |\n"
    )


def test_metrics_that_are_asked_for_are_written_behind_the_others(
    rows: list[MixtureRow], corpus: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pystoi")
    evaluate(rows, corpus, halves(), tmp_path / "plain")
    summary = evaluate(rows, corpus, halves(), tmp_path / "more", metrics=("stoi",))
    plain, more = _read(tmp_path / "plain"), _read(tmp_path / "more")
    assert list(more[0]) == [*plain[0], "stoi", "stoii"]
    assert [{key: line[key] for key in plain[0]} for line in more] == plain
    mean = sum(float(line["stoii"]) for line in more) / len(more)
    assert summary.overall.value("stoii") == pytest.approx(mean, abs=1e-4)
    assert "stoi" not in (tmp_path / "plain" / "summary.json").read_text()
    assert "| STOI | STOIi |" in summary_table(summary)


def test_a_remix_of_the_mixture_is_compared_with_the_true_one(
    rows: list[MixtureRow], corpus: Path, tmp_path: Path
) -> None:
    evaluate(rows, corpus, halves(), tmp_path, metrics=("remix-12",))
    mixture, references = map(torch.from_numpy, render_mixture(rows[0], corpus, 8000))
    change = 10 ** (-12 / 20) - 1
    true = mixture + change * references[0]
    unprocessed = 10 * (true.square().sum() / (true - mixture).square().sum()).log10()
    line = _read(tmp_path)[0]
    improvement = float(line["remix-12i"])
    assert float(line["remix-12"]) - improvement == pytest.approx(float(unprocessed), abs=1e-3)


def test_intervals_are_those_of_the_mean_of_normal_scores() -> None:
    scores = np.random.default_rng(1).normal(5.0, 2.0, 400)
    results = [
        replace(_result("within", "same", float(value)), id=str(index), source=source)
        for index, value in enumerate(scores)
        for source in (1, 2)
    ]
    low, high = summarise(results, "list", "name", 8000).overall.intervals["sdri"]
    # Mixtures are drawn, not sources: two equal sources say no more than one.
    half = 1.96 * scores.std() / math.sqrt(len(scores))
    assert low == pytest.approx(scores.mean() - half, abs=0.02)
    assert high == pytest.approx(scores.mean() + half, abs=0.02)
    shuffled = [results[index] for index in np.random.default_rng(2).permutation(len(results))]
    assert summarise(shuffled, "list", "name", 8000).overall == means_of(results)


def test_one_mixture_has_no_interval_and_unscored_sources_change_none() -> None:
    one = _result("within", "same", 1.0)
    assert means_of([one, replace(one, source=2)]).intervals == {}
    two = [one, replace(one, id="other", si_sdr=3.0, si_sdri=3.0)]
    silent = replace(one, id="third", si_sdr=math.nan, silent=True)
    assert means_of([*two, silent]).intervals == means_of(two).intervals
    assert means_of(two).intervals["si_sdri"] == (1.0, 3.0)
