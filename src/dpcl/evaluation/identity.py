"""What a score hangs on, as one word: weights, code, mixture and metrics, hashed."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dpcl.mixtures.lists import MixtureRow, row_files
from dpcl.separators.classical import CLASSICAL
from dpcl.separators.load import LIVE, LOCAL, named_separator, split_name
from dpcl.separators.oracle import ORACLES
from dpcl.separators.shipped import weights_path
from dpcl.separators.speaker_dependent import SPEAKER_DEPENDENT, SpeakerDependent

SCORING = ("dpcl.evaluation.metrics", "dpcl.evaluation.perceptual", "dpcl.mixtures.lists")
LIBRARIES = ("torch", "numpy", "scipy", "soxr")


def separator_identity(name: str, modules: Sequence[str] = SCORING) -> str:
    """Another word for another separator: its weights by content, its code and all it imports.

    modules: what else its outcome hangs on.
    """
    separator = named_separator(name)
    if isinstance(separator, SpeakerDependent):
        own = [
            separator.learn.__module__,
            separator.separator.__module__,
            "dpcl.evaluation.talkers",
        ]
    else:
        own = [getattr(separator, "__module__", type(separator).__module__)]
    model, how = split_name(name)
    path = weights_path(model)
    if path is not None and model not in {**CLASSICAL, **ORACLES, **SPEAKER_DEPENDENT}:
        name = f"{hashlib.sha256(path.read_bytes()).hexdigest()} {how == LOCAL} {how == LIVE}"
    return _hash(name, code_identity((*own, *modules)))


def row_identity(row: MixtureRow, root: str | os.PathLike[str], more: Any = None) -> str:
    """Another word for another mixture, whatever it is called; recordings count by their size."""
    sizes = [path.stat().st_size for path in row_files(row, root)]
    names = {"id", "list", "seed"}
    content = {key: value for key, value in asdict(row).items() if key not in names}
    return _hash(content, sizes, more)


def code_identity(modules: Iterable[str]) -> str:
    """Of modules of dpcl and all of dpcl that they import; comments and layout do not count."""
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module], imports = _parsed(module)
            waiting += imports
    return _hash(sorted(found.items()), [version(library) for library in LIBRARIES])


@cache
def _parsed(module: str) -> tuple[str, tuple[str, ...]]:
    """The code of a module, and the modules of dpcl that it imports anywhere in it."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return "", ()
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dpcl":
            imports.append(str(node.module))
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree), tuple(imports)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
