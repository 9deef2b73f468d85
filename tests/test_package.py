"""`import dpcl` is quick, and gives the names that others build on."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import dpcl

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "lightning", "scipy", "matplotlib", "safetensors")


def run(code: str, path: Path = Path(dpcl.__file__).parents[1], cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(path)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_heavy() -> None:
    loaded = run(f"import sys, dpcl; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded.strip() == "[]"


@pytest.mark.parametrize(("word", "printed"), [("--help", "separate"), ("models", "default")])
def test_what_only_prints_loads_nothing_heavy(word: str, printed: str) -> None:
    loaded = run(
        f"import sys; from dpcl.apps.cli import main; sys.argv = ['dpcl', '{word}']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert loaded.splitlines()[-1] == "[]"
    assert printed in loaded


def test_a_wrong_name_is_answered_before_torch_is_loaded() -> None:
    loaded = run(
        "import sys; from dpcl.apps.cli import main\n"
        "sys.argv = ['dpcl', 'separate', 'none.wav', '--out', 'none']\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_separating_does_not_wait_for_what_it_does_without() -> None:
    """A quarter of a short recording's time once went into loading scipy, which nothing used."""
    loaded = run(
        "import sys, numpy, dpcl; dpcl.separate(numpy.zeros(800, 'f'), 8000, sources=2)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert loaded.strip() == "['torch', 'safetensors']"


def test_a_stream_does_not_wait_for_a_compiler() -> None:
    """A second went into loading torch._dynamo, for random weights that were replaced at once."""
    loaded = run(
        "import sys, dpcl; dpcl.StreamSeparator('causal'); print('torch._dynamo' in sys.modules)"
    )
    assert loaded.strip() == "False"
    loaded = run(
        "import sys, torch; from dpcl.model import NetworkSettings\n"
        "with torch.device('meta'): NetworkSettings(embedding=4, anchors=3).build(33)\n"
        "print('torch.fx.experimental.symbolic_shapes' in sys.modules)"
    )
    assert loaded.strip() == "False"


def test_the_names_that_others_build_on() -> None:
    for name in dpcl.__all__:
        assert getattr(dpcl, name).__name__ == name
    assert callable(dpcl.objectives.affinity_loss)
    assert callable(dpcl.clustering.kmeans)
    assert issubclass(dpcl.InputError, ValueError)


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'seperate'"):
        _ = dpcl.seperate
    assert not hasattr(dpcl, "__wrapped__")


def test_links_of_the_description_are_absolute_and_lead_to_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The package index has no other file of the repository."""
    stand_in: Any = ModuleType("hatchling.metadata.plugin.interface")
    stand_in.MetadataHookInterface = SimpleNamespace
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))["Description"](root=str(ROOT))
    links: dict[str, list[str]] = {}
    for address in ("https://example.org/dpcl", ""):
        monkeypatch.setenv("DPCL_URL", address + "/" * bool(address))
        metadata: dict[str, Any] = {}
        hook.update(metadata)
        assert ("Repository" in metadata["urls"]) == bool(address)
        links[address] = [
            *re.findall(r"\]\(([^)]+)\)", metadata["readme"]["text"]),
            *metadata["urls"].values(),
        ]
        assert all(link.startswith("https://") for link in links[address])
    own = [link for link in links["https://example.org/dpcl"] if link not in links[""]]
    assert len(own) > 25
    for link in own:
        found = re.fullmatch(r"https://example.org/dpcl(?:|/issues|/(?:blob|raw)/main/(.+))", link)
        assert found, link
        assert not found[1] or (ROOT / found[1]).is_file(), link


INSTALLED = """
import json, dpcl
from dpcl.evaluation.descriptions import experiment_names, list_settings, read_experiment
from dpcl.catalogue import find_file, find_folder, shipped_models
lists = {name for one in experiment_names() for name in read_experiment(one).lists}
files = {f"{a}.yaml" if b else f"{a}.csv" for a, _, b in (name.partition("/") for name in lists)}
print(json.dumps({
    "lists": [str(find_folder("lists") / name) for name in sorted(files)],
    "settings": sorted(list_settings()),
    "recipe": str(find_file("recipes", "quick.yaml")),
    "recipes": str(find_folder("recipes")),
    "models": [str(model.path) for model in shipped_models()],
}))
"""


def test_an_installed_package_holds_its_lists_and_recipes(tmp_path: Path) -> None:
    """The wheel is the package and the folders that pyproject.toml adds to it."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    for package in wheel["packages"]:
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / package, tmp_path / "site" / Path(package).name, ignore=ignored)
    for model in (ROOT / "src" / "dpcl" / "weights").glob("*.safetensors"):
        (tmp_path / "site" / "dpcl" / "weights" / model.name).touch()
    for folder, place in wheel["force-include"].items():
        shutil.copytree(ROOT / folder, tmp_path / "site" / place)
    working = tmp_path / "working"
    (working / "lists").mkdir(parents=True)  # of the user, for something else
    found = json.loads(run(INSTALLED, tmp_path / "site", working))
    paths = [*found["lists"], found["recipe"], found["recipes"], *found["models"]]
    assert len(found["lists"]) > 2 and len(found["models"]) > 1 and "open2" in found["settings"]
    for path in paths:
        assert Path(path).is_relative_to(tmp_path / "site") and Path(path).exists(), path
