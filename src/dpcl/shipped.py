"""Files of the package: networks with their cards, lists, recipes; readable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dpcl.hub import SCHEME, fetch

WEIGHTS = Path(__file__).parent / "weights"  # folder of the shipped models


@dataclass(frozen=True)
class ShippedModel:
    """Model that ships with the package.

    Attributes:
        name: name of the model.
        path: its .safetensors file.
        card: its model card, Markdown.
    """

    name: str
    path: Path
    card: str

    @property
    def summary(self) -> str:
        """First paragraph of the card after its heading, in one line."""
        paragraphs = self.card.strip().split("\n\n")
        return " ".join(next((p for p in paragraphs if not p.startswith("#")), "").split())


def shipped_models() -> list[ShippedModel]:
    """Return the shipped models in the order of their names.

    Example:
        >>> "default" in [model.name for model in shipped_models()]
        True
    """
    return [
        ShippedModel(path.stem, path, path.with_suffix(".md").read_text(encoding="utf-8"))
        for path in sorted(WEIGHTS.glob("*.safetensors"))
    ]


def weights_path(name: str) -> Path | None:
    """Find a weights file; a model of the hub is downloaded unless it is in the cache.

    Args:
        name: name of a shipped model, hf://ORG/NAME, or a path.

    Returns:
        The path of the file; None if it does not exist.

    Raises:
        InputError: The hub has no such model, or cannot be reached.
    """
    if name.startswith(SCHEME):
        return fetch(name).path
    shipped = WEIGHTS / f"{name}.safetensors"
    path = shipped if Path(name).name == name and shipped.is_file() else Path(name)
    return path if path.is_file() else None


def find_folder(kind: str) -> Path:
    """Return the folder of the `lists` or `recipes` that ship, installed or in the repository."""
    places = _shipped(kind)
    return next((place for place in places if place.is_dir()), places[0])


def find_file(kind: str, name: str) -> Path | None:
    """Return a file of the working folder `kind`, else the one that ships; None without both."""
    places = (Path(kind), *_shipped(kind))
    return next((place / name for place in places if (place / name).is_file()), None)


def _shipped(kind: str) -> tuple[Path, ...]:
    """Return the wheel's folder and the repository's."""
    package = Path(__file__).parent
    return package / "data" / kind, package.parents[1] / kind
