"""Description of the package for the package index: README.md, whose links work there.

Links in README.md are relative to the repository, so that they work in every viewer and clone. The
index has no other files: with the address of the repository in DPCL_URL, links become absolute and
the address is one of the project's URLs; without it, links to files become plain text.

    DPCL_URL=https://github.com/ORG/NAME python -m build
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:)([^)\s]+)\)")
PAGES = {"Documentation": "docs/index.md", "Changelog": "CHANGELOG.md"}


class Description(MetadataHookInterface):
    """Metadata hook of hatchling that sets `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the dynamic fields of the project."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        address = os.environ.get("DPCL_URL", "").rstrip("/")
        metadata["readme"] = {"content-type": "text/markdown", "text": linked(text, address)}
        metadata["urls"] = urls(address)


def linked(text: str, address: str) -> str:
    """Return Markdown whose relative links lead to the repository at `address`, if there is one."""

    def replaced(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        if not address:
            return "" if picture else words
        return f"{picture}[{words}]({address}/{'raw' if picture else 'blob'}/main/{target})"

    return LINK.sub(replaced, text)


def urls(address: str) -> dict[str, str]:
    """Return the URLs of the project; none without an address."""
    if not address:
        return {}
    pages = {name: f"{address}/blob/main/{path}" for name, path in PAGES.items()}
    return {"Repository": address, "Issues": f"{address}/issues", **pages}
