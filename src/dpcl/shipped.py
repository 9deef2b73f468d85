"""Models that ship with the package, and their cards; readable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    """Find a weights file.

    Args:
        name: name of a shipped model, or a path.

    Returns:
        The path of the file; None if it does not exist.
    """
    shipped = WEIGHTS / f"{name}.safetensors"
    path = shipped if Path(name).name == name and shipped.is_file() else Path(name)
    return path if path.is_file() else None
