"""Settings: validated when they are made or read, and immutable."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from reprlib import Repr
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from dpcl.errors import InputError

Whole = TypeVar("Whole", bound="Settings")

# Largest number of values of a YAML document. Aliases of aliases grow without limit: 11 levels of
# nine each are a few hundred bytes, and 31 billion values.
MOST_VALUES = 100_000
LONGEST = 80  # characters of a value in a message
_short = Repr()
_short.maxstring = _short.maxother = _short.maxlong = LONGEST


class Settings(BaseModel):
    """Base class of all settings: immutable; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read_settings(what: type[Whole], path: Path) -> Whole:
    """Read settings from YAML.

    Args:
        what: class of the settings.
        path: YAML file; its key `base` names another one, see `read_document`.

    Raises:
        InputError: The file cannot be read, or a key is unknown, missing or impossible.
    """
    return validated(what, path, read_document(path, what.__name__.lower()))


def read_document(path: Path, name: str, own: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a YAML file of settings and merge it onto the file that its key `base` names.

    Args:
        path: YAML file. `base` is relative to its folder, and may have a base itself.
        name: kind of the file in messages, such as `recipe`.
        own: keys that are not taken from a base.

    Raises:
        InputError: A file cannot be read or holds no settings, or a base is its own base.
    """
    data = _read_one(path, name)
    seen = [path]
    while "base" in data:
        base = data.pop("base")
        last = seen[-1]
        following = last.parent / str(base)
        if not isinstance(base, str) or not following.is_file():
            raise InputError(
                f"{last}: base: there is no file {base}; give a file relative to the folder of"
                f" {last.name}"
            )
        if following.resolve() in [one.resolve() for one in seen]:
            raise InputError(
                f"{last}: base: {base} has {path.name} as its own base; remove one of the two"
            )
        seen.append(following)
        inherited = _read_one(following, name)
        data = merge({key: inherited[key] for key in inherited if key not in own}, data)
    return data


def parse_yaml(text: str) -> Any:
    """Parse one YAML document of plain values.

    Args:
        text: YAML.

    Returns:
        Its value.

    Raises:
        ValueError: The text is no YAML, has more than MOST_VALUES values or too many levels, or
            holds an impossible date or number.

    Example:
        >>> parse_yaml("{seed: 1, stages: [2, 3]}")
        {'seed': 1, 'stages': [2, 3]}
    """
    import yaml  # slow to import, and not needed for separation

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values, by its aliases")
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("too many levels of brackets") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error


def _values(node: Any, known: dict[int, int]) -> int:
    """Return the number of values of a YAML node, aliases repeated; at most MOST_VALUES + 1."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # meanwhile: a node within itself has no end
        parts = node.value if isinstance(node.value, list) else []
        flat = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
        size = 1 + sum(_values(one, known) for one in flat)
        known[id(node)] = min(size, MOST_VALUES + 1)
    return known[id(node)]


def _read_one(path: Path, name: str) -> dict[str, Any]:
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the {name} ({error.strerror}); check the path"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not a YAML {name} ({error}); correct the syntax") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: not a {name}; write settings as `key: value`")
    return data


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merge nested dictionaries; any other value of `changes` replaces the one of `base`.

    Example:
        >>> merge({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}})
        {'a': {'b': 1, 'c': [3]}}
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def validated(what: type[Whole], where: Path | str, data: dict[str, Any]) -> Whole:
    """Return the settings of a dictionary; an InputError begins with `where` and the key."""
    try:
        return what.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part)[:LONGEST] for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(
                f"{where}: unknown key {key}; see recipes/ for the known keys"
            ) from error
        problem = first["msg"].removeprefix("Value error, ")
        value = first["input"]
        given = "" if isinstance(value, dict | Settings) else f", not {_short.repr(value)}"
        remedy = "" if ";" in problem else "; correct it"
        sentence = ": ".join([str(where), *key.split(), problem])
        raise InputError(f"{sentence}{given}{remedy}") from error


def check_range(name: str, bounds: tuple[float, float]) -> None:
    """Raise ValueError if two limits are no range."""
    low, high = bounds
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"{name} {low:g} to {high:g} is no range; give the lower limit first")


def check_shares(name: str, shares: dict[str, float], known: Iterable[str]) -> None:
    """Raise ValueError if a key is unknown, a share is negative, or their sum is not 1."""
    known = tuple(known)
    if unknown := [key for key in shares if key not in known]:
        raise ValueError(f"{name} has {unknown[0]!r}; there are {', '.join(known)}")
    total = sum(shares.values())
    if any(share < 0 for share in shares.values()) or abs(total - 1.0) > 1e-6:
        raise ValueError(f"{name} add up to {total:g}; give shares of 0 or more that add up to 1")


def apply_change(data: dict[str, Any], change: str) -> None:
    """Set one dotted key in `data`; an item of a list is addressed by its index."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise InputError(f"--set {change}: not of the form key=value; write it like --set seed=1")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise InputError(
            f"--set {change}: the value is not YAML; correct the text after ="
        ) from error
    *path, last = key.split(".")
    parent: Any = data
    try:
        for part in path:
            parent = parent[int(part)] if isinstance(parent, list) else parent.setdefault(part, {})
        if isinstance(parent, list):
            parent[int(last)] = value
        else:
            parent[last] = value
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise InputError(
            f"--set {change}: the recipe has no key {key}; see recipes/ for the known keys"
        ) from error
