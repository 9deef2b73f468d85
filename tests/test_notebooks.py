"""The notebooks in examples/ run from top to bottom; long ones with smaller parameters."""

from __future__ import annotations

import ast
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SMALL = {  # values of cells with the tag `parameters`
    "train": {
        "changes": [
            "model.network.width=8",
            "stages.0.steps=2",
            "stages.0.frames=20",
            "stages.0.batch=2",
            "validation.limit=1",
            "accelerator=cpu",
        ],
    },
    "reproduce": {"limit": 2},
}


def run(path: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """Run the cells of a notebook, and show the last value of each as Jupyter does."""
    space: dict[str, Any] = {"__name__": "__main__"}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        *body, last = ast.parse("".join(cell["source"]), path.name).body
        ends = isinstance(last, ast.Expr)
        code = ast.Module([*body, *([] if ends else [last])], [])
        exec(compile(code, path.name, "exec"), space)
        if ends:
            value = eval(compile(ast.Expression(last.value), path.name, "eval"), space)
            assert getattr(value, "_repr_html_", lambda: None)() or repr(value)
        if "parameters" in cell["metadata"].get("tags", ()):
            space.update(parameters)
    return space


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    pytest.importorskip("torchmetrics")
    matplotlib.use("agg")
    monkeypatch.chdir(ROOT)
    display = types.ModuleType("IPython.display")
    display.Markdown = str  # type: ignore[attr-defined]
    package = types.ModuleType("IPython")
    package.version_info = (9, 0)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    parameters = dict(SMALL.get(path.stem, {}))
    if path.stem == "train":
        parameters["runs"] = str(tmp_path)
        parameters["changes"].append(f"data.cache={tmp_path / 'cache'}")
    space = run(path, parameters)
    if path.stem == "separate":
        assert space["improvement"] > 5
    if path.stem == "reproduce":
        scores = {name: found.overall.si_sdri for name, found in space["summaries"].items()}
        assert scores["mixture"] == 0 < scores["default"] < scores["ibm"]


def test_notebooks_have_no_outputs() -> None:
    """Outputs are sounds and pictures of megabytes; a reader runs the notebook."""
    assert len(NOTEBOOKS) == 4
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs"), path
