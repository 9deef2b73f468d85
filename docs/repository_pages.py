"""Add Markdown files outside docs/ to the site, and point links at their pages.

A hook of MkDocs (`hooks:` in mkdocs.yml). Links in the files are relative to the repository, and
work in any viewer of it. The site has only pages, pictures and sounds: a link to a page is
rewritten, a link to a sound becomes a player, a link to any other file becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ADDED = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "examples/README.md",
    "lists/README.md",
    "recipes/README.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("src/dpcl/weights/*.md"))),
)
SOUNDS = tuple(path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("examples/*.flac")))
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages; each keeps its path in the repository as its address."""
    for path in ADDED:
        if (ROOT / path).is_file():
            content = (ROOT / path).read_text(encoding="utf-8")
            files.append(File.generated(config, path, content=content))
    for path in SOUNDS:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Rewrite links that lead out of docs/, or from an added page into it."""
    source = page.file.src_uri
    place = source if source in ADDED else f"docs/{source}"

    def rewrite(match: re.Match[str]) -> str:
        picture, text, target, anchor = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match.group()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        path = "index.md" if path == "README.md" else path.removeprefix("docs/")
        file = files.get_file_from_path(path)
        if file is None:
            return text
        if path.endswith(".flac"):
            sound = posixpath.relpath(file.url, page.url or ".")
            style = "width: 16rem; max-width: 60vw"
            attributes = f'preload="none" src="{sound}" aria-label="{text}" style="{style}"'
            return f"<audio controls {attributes}></audio>"
        link = posixpath.relpath(path, posixpath.dirname(source) or ".")
        return f"{picture}[{text}]({link}{anchor or ''})"

    return LINK.sub(rewrite, markdown)
