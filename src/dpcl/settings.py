"""What all settings are: checked when they are made or read, and never changed after."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from dpcl.errors import InputError

Whole = TypeVar("Whole", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read_settings(what: type[Whole], path: Path, changes: tuple[str, ...] = ()) -> Whole:
    """Read settings from YAML, whole and checked; `changes` are "dotted.key=value", values as YAML.

    Raises InputError that names the file and the key that is unknown, missing or impossible.
    """
    import yaml  # slow to load, and nobody needs it to separate

    name = what.__name__.lower()
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the {name}; {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"{path}: not a YAML {name}; {detail}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: not a {name}; it must hold settings as `key: value`")
    for change in changes:
        _apply(data, change)
    try:
        return what.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(
                f"{path}: unknown key {key}; see recipes/ for the keys there are"
            ) from error
        problem = first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first["input"], dict | Settings) else f", not {first['input']!r}"
        raise InputError(": ".join([str(path), *key.split(), problem]) + given) from error


def _apply(data: dict[str, Any], change: str) -> None:
    """Set one dotted key; lists take a number as a key."""
    import yaml

    key, equals, text = change.partition("=")
    if not equals or not key:
        raise InputError(f"--set {change}: write it as key=value, such as --set seed=1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {change}: what follows = is not YAML") from error
    *path, last = key.split(".")
    place: Any = data
    try:
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        if isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"--set {change}: the recipe has no such place as {key}") from error
