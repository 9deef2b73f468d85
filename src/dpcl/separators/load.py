"""Separators by name: networks that ship, weights files of one's own, and the classical ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import cast

from dpcl.errors import InputError
from dpcl.networks.model import load_model
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.separation import MaskSeparator

WEIGHTS = Path(__file__).parent.parent / "weights"
# Separators that need no weights: where they are, imported when they are asked for.
CLASSICAL = {
    "casa": ("dpcl.separators.casa", "Casa"),
    "spectral": ("dpcl.separators.spectral", "Spectral"),
}


@dataclass(frozen=True)
class ShippedModel:
    """One network of the package, with its model card."""

    name: str
    path: Path  # .safetensors
    card: str  # Markdown

    @property
    def summary(self) -> str:
        """The first paragraph of the card under its heading, in one line."""
        paragraphs = self.card.strip().split("\n\n")
        return " ".join(next((p for p in paragraphs if not p.startswith("#")), "").split())


def shipped_models() -> list[ShippedModel]:
    """What ships, in the order of the names."""
    return [
        ShippedModel(path.stem, path, path.with_suffix(".md").read_text(encoding="utf-8"))
        for path in sorted(WEIGHTS.glob("*.safetensors"))
    ]


def load_separator(name: str = "default") -> MaskSeparator:
    """The separator of a shipped model's name or of a .safetensors path; kept for the next call.

    `casa` and `spectral` are the classical ones, which need no weights. Raises InputError for a
    name that does not ship and a file that dpcl did not write.
    """
    if name in CLASSICAL:
        module, kind = CLASSICAL[name]
        return cast(MaskSeparator, getattr(import_module(module), kind)())
    shipped = WEIGHTS / f"{name}.safetensors"
    path = shipped if Path(name).name == name and shipped.is_file() else Path(name)
    if path.suffix != ".safetensors" and not path.is_file():
        names = ", ".join([*(model.name for model in shipped_models()), *CLASSICAL])
        raise InputError(f"unknown model {name!r}; give a .safetensors file or one of: {names}")
    # A training may have replaced the file, or one went to another folder, since the last call.
    written = path.stat().st_mtime_ns if path.is_file() else 0
    return _load(path.absolute(), written)


@lru_cache(maxsize=4)
def _load(path: Path, written: int) -> DeepClustering:
    return DeepClustering(load_model(path))
