"""The documents agree with the repository and the program, and read as agreed."""

from __future__ import annotations

import ast
import io
import re
import shlex
import tokenize
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PROJECT = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]

FENCE = re.compile(r"^(?:<!-- (run) -->\n)?```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PUBLIC_NAME = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)

# Words that belong to people or to another century, or that leave the noun to the reader.
WORDS = re.compile(
    r"\b(?:heard|hears|tells?|told|asks|knows|so many|behind|aside|hangs? on|go(?:es)? on|be had"
    r"|lay|laid|he|his|him|himself|what is|that of)\b",
    re.IGNORECASE,
)
MARKER = "<!-- word -->"  # in a line that needs such a word

Extract = Callable[[str], Iterator[tuple[int, str]]]  # text of a file -> line number, prose


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchor(heading: str) -> str:
    """The anchor of a heading, as MkDocs and GitHub make it from plain words."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


def blocks(path: Path, language: str) -> list[tuple[str, bool]]:
    """The fenced blocks of a language, each with whether `<!-- run -->` precedes it."""
    found = FENCE.findall(path.read_text(encoding="utf-8"))
    return [(body, bool(run)) for run, kind, body in found if kind == language]


def dpcl_commands(text: str) -> Iterator[list[str]]:
    """The arguments of every dpcl command in a shell text; nothing is run."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) - set("|&;<>"):
                command.append(word)
                continue
            if command[:1] == ["dpcl"]:
                yield command[1:]
            command = []  # the file after > is a command of its own here: it is not dpcl


def parse(arguments: list[str]) -> None:
    """Parse as the program does; a wrong command, option or value raises."""
    from typer.main import get_command

    from dpcl.apps.cli import app

    command: Any = get_command(app)
    rest = list(arguments)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        context = command.make_context("dpcl", [], resilient_parsing=True)
        first, (_, command, rest) = rest[0], command.resolve_command(context, rest)
        assert command is not None, f"no command {first!r}"
    if hasattr(command, "commands"):  # `dpcl --version`
        known = {"--help", *(option for param in command.params for option in param.opts)}
        assert set(rest) <= known, rest
        return
    command.make_context("dpcl", rest)


@pytest.mark.parametrize("path", DOCS + PROJECT, ids=name)
def test_links_point_to_files_and_headings_that_exist(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, heading = unquote(target).partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), f"{name(path)}: no {target}"
        assert linked.is_relative_to(ROOT), f"{name(path)}: {target} leaves the repository"
        if heading:
            lines = linked.read_text(encoding="utf-8").splitlines()
            anchors = {anchor(line.lstrip("# ")) for line in lines if line.startswith("#")}
            assert heading in anchors, f"{name(path)}: no heading {target}"


@pytest.mark.parametrize("path", DOCS + PROJECT, ids=name)
def test_commands_and_options_exist(path: Path) -> None:
    for text, _ in blocks(path, "bash"):
        for arguments in dpcl_commands(text):
            try:
                parse(arguments)
            except Exception as error:
                said = getattr(error, "message", error)
                pytest.fail(f"{name(path)}: dpcl {shlex.join(arguments)}: {said}")


@pytest.mark.parametrize("path", DOCS, ids=name)
def test_extras_exist(path: Path) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^(\w+) = ", section, re.MULTILINE))
    for names in re.findall(r"(?:\.|\bdpcl|\.whl)\[([\w,]+)\]", path.read_text(encoding="utf-8")):
        assert set(names.split(",")) <= extras, f"{name(path)}: no extra in [{names}]"


def test_a_wrong_command_is_found() -> None:
    assert list(dpcl_commands("a | dpcl live --rate 8 > b && dpcl web # dpcl no\n")) == [
        ["live", "--rate", "8"],
        ["web"],
    ]
    for wrong in (["divide"], ["separate"], ["web", "--door", "1"], ["mix", "stir"]):
        with pytest.raises(Exception, match=r"stir|divide|recordings|REC|--door"):
            parse(wrong)


@pytest.mark.parametrize("path", DOCS, ids=name)
def test_python_blocks_compile_and_those_marked_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # the examples are read from here
    space: dict[str, Any] = {"__name__": "__main__"}  # the blocks of a page follow one another
    for text, run in blocks(path, "python"):
        code = compile(text, name(path), "exec", dont_inherit=True)
        if run:
            exec(code, space)
        else:  # the only other page needs a package of 100 MB
            assert path.name == "data.md"


def test_the_api_page_names_what_exists() -> None:
    names = PUBLIC_NAME.findall((ROOT / "docs" / "api.md").read_text(encoding="utf-8"))
    assert names
    for full in names:
        module, _, attribute = full.rpartition(".")
        assert hasattr(import_module(module), attribute), full


def test_the_site_lists_every_page_that_exists() -> None:
    """A page that is missing or not listed would fail the strict build of the site."""

    def pages(nav: Any) -> Iterator[str]:
        if isinstance(nav, str):
            yield nav
            return
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(part)

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    docs = ROOT / "docs"
    listed = {*pages(site["nav"])}
    exist = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    beside = ("*.md", "*/README.md", "src/dpcl/weights/*.md")
    added = {name(path) for pattern in beside for path in ROOT.glob(pattern)}
    assert listed <= exist | added
    cards = {page for page in added if page.startswith("src/dpcl/weights/")}
    tables = {page for page in exist if page.startswith("experiments/")}
    assert exist - tables | cards <= listed


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130


def markdown(text: str) -> Iterator[tuple[int, str]]:
    """Every line of a Markdown file, code included."""
    yield from enumerate(text.splitlines(), 1)


def python_prose(text: str) -> Iterator[tuple[int, str]]:
    """Docstrings and comments of a Python file, line by line."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            source = ast.get_source_segment(text, docstring) or ""
            yield from enumerate(source.splitlines(), docstring.lineno)


def misused(paths: Iterable[Path], extract: Extract) -> list[str]:
    """Return `path:line: word` for every word of WORDS in prose without MARKER in its line."""
    return [
        f"{path}:{number}: {found.group()}"
        for path in paths
        for number, line in extract(path.read_text(encoding="utf-8"))
        if MARKER not in line
        for found in WORDS.finditer(line)
    ]


def test_documents_use_the_terms_of_the_field() -> None:
    assert misused(DOCS + PROJECT, markdown) == []


def help_texts(command: Any) -> Iterator[str]:
    """The help of a command, of its options and of the commands below it."""
    for part in (command, *command.params):
        yield getattr(part, "help", None) or ""
    for below in getattr(command, "commands", {}).values():
        yield from help_texts(below)


def test_help_uses_the_terms_of_the_field() -> None:
    from typer.main import get_command

    from dpcl.apps.cli import app

    texts = list(help_texts(get_command(app)))
    assert len([text for text in texts if text]) > 100
    assert [found.group() for text in texts for found in WORDS.finditer(text)] == []


def test_words_are_found_in_docstrings_and_comments_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        '"""What the network heard."""\n'
        "told = 'laid'  # He asks.\n"
        "def he():\n"
        '    """Return 1.\n\n    It goes on.\n    A line of HIS: <!-- word -->\n    """\n'
    )
    assert [line.partition(":")[2] for line in misused([file], python_prose)] == [
        "2: He",
        "2: asks",
        "1: heard",
        "6: goes on",
    ]
