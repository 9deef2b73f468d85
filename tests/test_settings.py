"""YAML of any content is a value or one sentence, in little time and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpcl.errors import InputError
from dpcl.settings import LONGEST, Settings, apply_change, parse_yaml, read_settings


class Tree(Settings):
    value: int
    more: list[int] = []  # noqa: RUF012 - pydantic copies it


def nested(levels: int) -> str:
    """Return aliases of aliases: 9 ** levels values in some hundred bytes."""
    names = [
        f"v{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)
    ]
    return "\n".join(["v0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]", *names])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (nested(11), "values, by its aliases"),
        ("value: &a [*a]", "values, by its aliases"),
        ("value: 2026-02-30", "day is out of range"),
        (f"value: {'9' * 5000}", "digits"),
        ("value: " + "[" * 3000, "too many levels"),
        ("value: {1, [2}", "while parsing"),
        ("value: !!python/name:os.system", "could not determine a constructor"),
    ],
)
def test_hostile_yaml_is_one_sentence(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=problem) as caught:
        read_settings(Tree, path)
    assert str(caught.value).startswith(f"{path}: not a YAML tree (")
    assert len(str(caught.value)) < 600
    with pytest.raises(InputError, match="the value is not YAML"):
        apply_change({}, f"value={text.removeprefix('value: ')}" if "v0" not in text else "a=[")


def test_aliases_of_modest_size_are_values() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: [*a, *a]") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    assert parse_yaml("") is None


def test_long_values_and_keys_are_cut_in_messages(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for text in (f"value: {'x' * 9999}", f"{'k' * 9999}: 1", f"value: [{'1, ' * 9999}1]"):
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            read_settings(Tree, path)
        assert len(str(caught.value)) < len(str(path)) + LONGEST + 150
