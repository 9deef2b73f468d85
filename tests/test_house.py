"""The rules of the house: sizes of modules, one of each tool, terms of the field, examples."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml

import dpcl
from dpcl.model import ConfidenceSettings, CountSettings
from dpcl.settings import Settings
from dpcl.training.recipe import KINDS, ObjectiveSettings

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "dpcl"
MODULES = sorted(
    path for path in SOURCE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")
)
SMALLEST, LARGEST, SHARED = 80, 400, 3  # lines of a module, or number of its importers
ALONE = "evaluation/improvement.py"  # imports an optional package at its top
BENCHMARK_LINES = 1200


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)


def imports_of(path: Path) -> set[str]:
    """Modules of dpcl that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dpcl"):
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def importers() -> Counter[str]:
    counts: Counter[str] = Counter()
    for path in SOURCE.rglob("*.py"):
        counts.update(imports_of(path) & {name_of(module) for module in MODULES})
    return counts


def test_a_module_has_80_to_400_lines_or_three_importers() -> None:
    counts = importers()
    odd = []
    for path in MODULES:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        short = path.parent.name == "apps" or path == SOURCE / ALONE  # one file per command
        if short and lines < SMALLEST:
            continue
        if not SMALLEST <= lines <= LARGEST and counts[name_of(path)] < SHARED:
            odd.append(
                f"{path.relative_to(ROOT)}: {lines} lines, {counts[name_of(path)]} importers"
            )
    assert odd == []


def test_no_two_modules_of_a_package_are_forms_of_one_word() -> None:
    """experiment.py beside experimenting.py, rendered.py beside rendering.py: which is which?"""
    stems = {path: re.sub(r"(ing|ed|er|s)$", "", path.stem) for path in MODULES}
    pairs = [
        (a.name, b.name)
        for a in MODULES
        for b in MODULES
        if a < b and a.parent == b.parent and stems[a] == stems[b]
    ]
    assert pairs == []


@pytest.mark.parametrize(
    ("pattern", "home"),
    [
        (r"tempfile\.mkstemp\(", "io.py"),
        (r"^class \w*Progress\b", "io.py"),
        (r"^class \w+\((ValueError|RuntimeError|OSError|Exception)\)", "errors.py"),
    ],
)
def test_there_is_one_of_each(pattern: str, home: str) -> None:
    found = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert found <= {home}


def test_no_value_is_cast() -> None:
    """A cast states a type that the code does not show."""
    found = [
        path.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "typing"
        if any(alias.name == "cast" for alias in node.names)
    ]
    assert found == []


def test_benchmarks_stay_small() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in (ROOT / "benchmarks").glob("*.py"))
    assert lines <= BENCHMARK_LINES


def test_benchmarks_measure_time_and_memory_only() -> None:
    """Quality is `dpcl experiment`."""
    scores = {
        path.name: found
        for path in (ROOT / "benchmarks").glob("*.py")
        if (found := {name for name in imports_of(path) if name.startswith("dpcl.evaluation")})
    }
    assert scores == {}


FITTED = (ConfidenceSettings, CountSettings)  # a phase `fit` of a recipe computes their values


def settings_classes() -> list[type[Settings]]:
    """All classes of settings, without those of tests."""
    for info in pkgutil.walk_packages(dpcl.__path__, "dpcl."):
        if not info.name.startswith(("dpcl.apps", "dpcl.__main__")):
            importlib.import_module(info.name)
    found, left = [], [Settings]
    while left:
        left += (children := left.pop().__subclasses__())
        found += [child for child in children if child.__module__.startswith("dpcl.")]
    return found


def choices_of(annotation: Any) -> list[str]:
    """The texts that a setting may be."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return [part for part in parts if isinstance(part, str)]
    return [choice for part in parts for choice in choices_of(part)]


def keys_and_values(document: Any) -> Iterator[tuple[str, Any]]:
    """All keys of a YAML document, at any depth, with their values."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from ((part, value) for part in str(key).split("."))  # --set: dotted keys
    parts = document.values() if isinstance(document, dict) else document
    for part in parts if isinstance(document, dict | list) else ():
        yield from keys_and_values(part)


def test_every_setting_and_every_choice_is_used() -> None:
    """By a recipe, an experiment or a list of conditions, or by name in a test of behaviour."""
    folders = (ROOT / "recipes", ROOT / "lists", SOURCE / "experiments")
    written = [
        pair
        for folder in folders
        for path in folder.glob("*.yaml")
        for pair in keys_and_values(yaml.safe_load(path.read_text(encoding="utf-8")))
    ]
    keys = {key for key, _ in written}
    own = Path(__file__).resolve()
    tests = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "tests").rglob("*.py")
        if path.resolve() != own
    )
    unused = []
    for settings in settings_classes():
        if settings in FITTED:
            continue
        for name, field in settings.model_fields.items():
            where = f"{settings.__name__}.{name}"
            if name not in keys and not re.search(rf"[\"']{name}[\"']:|\b{name}=(?!=)", tests):
                unused.append(where)
            choices = choices_of(field.annotation)
            choices += KINDS if settings is ObjectiveSettings and name == "kind" else []
            unused += [
                f"{where}: {choice}"
                for choice in choices
                if (name, choice) not in written
                and choice != field.default
                and f'"{choice}"' not in tests
            ]
    assert unused == []


def documents() -> ModuleType:
    """tests/test_docs.py, which has the list of words."""
    spec = importlib.util.spec_from_file_location("test_docs", ROOT / "tests" / "test_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstrings_and_comments_use_the_terms_of_the_field() -> None:
    docs = documents()
    assert docs.misused(sorted(SOURCE.rglob("*.py")), docs.python_prose) == []


def test_docstrings_begin_with_a_verb_or_a_noun_phrase() -> None:
    """A function with a verb, never an article; nothing with a question word."""
    questions = re.compile(r"(What|Whether|Who|How|Where|When|Which)\b")
    articles = re.compile(r"(The|An?|Each|Every|All)\b")
    odd = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            text = ast.get_docstring(node) or ""
            verb = isinstance(node, ast.FunctionDef) and not any(
                "property" in ast.unparse(decorator) for decorator in node.decorator_list
            )
            if questions.match(text) or (verb and articles.match(text)):
                odd.append(f"{path.relative_to(ROOT)}: {text.splitlines()[0]}")
    assert odd == []


def error_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every InputError of a file; `{}` for each value in a text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        if getattr(node.func, "id", "") not in ("InputError", "UnknownTalker"):
            continue
        text = node.args[0]
        parts = text.values if isinstance(text, ast.JoinedStr) else [text]
        if all(isinstance(part, ast.Constant | ast.FormattedValue) for part in parts):
            words = [part.value if isinstance(part, ast.Constant) else "{}" for part in parts]
            yield node.lineno, "".join(map(str, words))


def test_errors_name_place_problem_and_remedy() -> None:
    """`{where}: {problem}; {remedy}`, in lower case, without a full stop."""
    found = [(path, *error) for path in MODULES for error in error_texts(path)]
    assert len(found) > 300
    odd = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path, line, text in found
        if re.match(r"[A-Z][a-z]+\b", text)
        or text.endswith(".")
        or not (";" in text or text.endswith("{}"))  # another error may end the text
    ]
    assert odd == []


@pytest.mark.parametrize(
    "name", [info.name for info in pkgutil.walk_packages(dpcl.__path__, "dpcl.")]
)
def test_examples_in_docstrings_run(name: str) -> None:
    text = Path(importlib.util.find_spec(name).origin).read_text()  # type: ignore[union-attr, arg-type]
    if ">>>" not in text:
        pytest.skip("no examples")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_no_path_outside_of_the_repository() -> None:
    files = [
        path
        for folder in (".", "recipes", "tests", "docs", "src", "examples", "lists", "benchmarks")
        for path in (ROOT / folder).glob("*" if folder == "." else "**/*")
        if path.suffix in (".yaml", ".py", ".md")
    ]
    outside = re.compile(r"\.\./shared|(?<![\w.])/(home|root|work)/")
    own = Path(__file__).resolve()
    odd = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        if path.resolve() != own
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if outside.search(line)
    ]
    assert odd == []
