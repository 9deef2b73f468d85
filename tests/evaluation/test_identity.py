"""What is the same score: another mixture, other weights and other code have other words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from dpcl.evaluation import identity
from dpcl.evaluation.identity import code_identity, row_identity, separator_identity
from dpcl.mixtures.lists import MixtureRow
from dpcl.networks.model import Model, load_model, save_model


def test_a_mixture_is_its_sources_and_not_its_name(
    noises: Path, noise_rows: list[MixtureRow], tmp_path: Path
) -> None:
    row = noise_rows[0]
    same = row_identity(row, noises)
    assert row_identity(replace(row, id="x", list="y", seed=3), noises) == same
    first, second = row.sources
    for other in (
        replace(row, seconds=0.5),
        replace(row, sources=(second, first)),
        replace(row, sources=(replace(first, gain_db=1.0), second)),
        replace(row, sources=(replace(first, start=0.5), second)),
        noise_rows[1],
    ):
        assert row_identity(other, noises) != same
    assert row_identity(row, noises, ["learned from"]) != same
    for path in noises.glob("*.wav"):
        soundfile.write(tmp_path / path.name, torch.zeros(100).numpy(), 8000)
    assert row_identity(row, tmp_path) != same


def test_weights_count_by_content_and_not_by_place(tiny_model: Path, tmp_path: Path) -> None:
    copy, other = tmp_path / "copy.safetensors", tmp_path / "other.safetensors"
    copy.write_bytes(tiny_model.read_bytes())
    model = load_model(tiny_model)
    model.network.mean.add_(0.5)
    save_model(Model(model.settings, model.network, {}), other)
    words = [separator_identity(str(path)) for path in (tiny_model, copy, other)]
    assert words[0] == words[1]
    assert words[0] != words[2]
    assert separator_identity(f"{tiny_model}:local") != words[0]


def test_the_causal_network_in_a_stream_by_either_name() -> None:
    assert separator_identity("causal:live") == separator_identity("live")
    assert separator_identity("causal") != separator_identity("live")


def test_every_separator_has_a_word_of_its_own() -> None:
    names = ["default", "default:local", "live", "nmf", "fhmm", "casa", "spectral", "ibm", "irm"]
    words = [separator_identity(name) for name in names]
    assert len(set(words)) == len(names)
    assert [separator_identity(name) for name in names] == words


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes modules dpcl.NAME that are found before the real ones."""
    import importlib.machinery

    def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
        path = tmp_path / f"{name}.py"
        return (
            importlib.machinery.ModuleSpec(name, None, origin=str(path)) if path.exists() else None
        )

    monkeypatch.setattr(identity, "find_spec", find_spec)

    def write(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        identity._parsed.cache_clear()

    return write


def test_code_counts_with_all_that_it_imports_and_comments_do_not(
    package: Callable[[str, str], None], request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(identity._parsed.cache_clear)
    package("dpcl.a", "def f():\n    from dpcl.b import g\n    return g()\n")
    package("dpcl.b", "def g():\n    return 1\n")
    package("dpcl.c", "x = 1\n")
    before = code_identity(["dpcl.a"])
    package(
        "dpcl.a",
        '"""Doc."""\ndef f():\n    "Says."\n    from dpcl.b import g  # why\n    return g()',
    )
    package("dpcl.c", "x = 2\n")
    assert code_identity(["dpcl.a"]) == before
    package("dpcl.b", "def g():\n    return 2\n")
    assert code_identity(["dpcl.a"]) != before
    assert "dpcl.a" not in sys.modules
