"""Base class of all settings, and their reader: validated once, immutable afterwards."""

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
    """Read settings from a YAML file, apply changes and validate the result.

    Args:
        what: class of the settings. Its name in lower case appears in error messages.
        path: YAML file.
        changes: changes of the form "dotted.key=value", with the value in YAML.

    Returns:
        The validated settings.

    Raises:
        InputError: The file cannot be read, or a key is unknown, missing or impossible. The message
            names the file and the key.
    """
    import yaml  # slow to import, and not needed to separate

    name = what.__name__.lower()
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
    for change in changes:
        _apply(data, change)
    try:
        return what.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(
                f"{path}: unknown key {key}; see recipes/ for the known keys"
            ) from error
        problem = first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first["input"], dict | Settings) else f", not {first['input']!r}"
        raise InputError(": ".join([str(path), *key.split(), problem]) + given) from error


def _apply(data: dict[str, Any], change: str) -> None:
    """Set one dotted key in parent; an item of a list is addressed by its index."""
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
