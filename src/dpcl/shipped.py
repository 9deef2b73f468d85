"""The networks that ship with the package, and their cards; read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"


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


def weights_path(name: str) -> Path | None:
    """The file of a shipped model's name or of a path; None where there is none."""
    shipped = WEIGHTS / f"{name}.safetensors"
    path = shipped if Path(name).name == name and shipped.is_file() else Path(name)
    return path if path.is_file() else None
