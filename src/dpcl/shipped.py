"""Files of the package: networks with their cards, lists, recipes; read without torch."""

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


def find_folder(kind: str) -> Path:
    """Return the first folder of `lists` or `recipes`: in the working folder, or as installed."""
    places = _places(kind)
    return next((place for place in places if place.is_dir()), places[0])


def find_file(kind: str, name: str) -> Path | None:
    """Return the file of that name in the first folder of `kind` that has it; None without one."""
    return next((place / name for place in _places(kind) if (place / name).is_file()), None)


def _places(kind: str) -> tuple[Path, ...]:
    """Return the working folder's, the wheel's and the repository's."""
    package = Path(__file__).parent
    return Path(kind), package / "data" / kind, package.parents[1] / kind
