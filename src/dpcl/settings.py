"""Settings: validated when they are made or read, and immutable."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from dpcl.errors import InputError

Whole = TypeVar("Whole", bound="Settings")


class Settings(BaseModel):
    """Base class of all settings: immutable; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read_settings(what: type[Whole], path: Path, changes: tuple[str, ...] = ()) -> Whole:
    """Read settings from YAML.

    Args:
        what: class of the settings.
        path: YAML file; its key `base` names another one, see `read_document`.
        changes: "dotted.key=value", values as YAML.

    Raises:
        InputError: The file cannot be read, or a key is unknown, missing or impossible.
    """
    data = read_document(path, what.__name__.lower())
    for change in changes:
        apply_change(data, change)
    return validated(what, path, data)


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


def _read_one(path: Path, name: str) -> dict[str, Any]:
    import yaml  # slow to import, and not needed for separation

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the {name} ({error.strerror}); check the path"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"{path}: not a YAML {name} ({detail}); correct the syntax") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: not a {name}; write settings as `key: value`")
    return data


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merge nested dictionaries; every other value of `changes` replaces that of `base`.

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
    """Make settings of a dictionary; raise InputError that begins with `where` and the key."""
    try:
        return what.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(
                f"{where}: unknown key {key}; see recipes/ for the known keys"
            ) from error
        problem = first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first["input"], dict | Settings) else f", not {first['input']!r}"
        raise InputError(": ".join([str(where), *key.split(), problem]) + given) from error


def apply_change(data: dict[str, Any], change: str) -> None:
    """Set one dotted key in `data`; an item of a list is addressed by its index."""
    import yaml

    key, equals, text = change.partition("=")
    if not equals or not key:
        raise InputError(f"--set {change}: not of the form key=value; write it like --set seed=1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
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
