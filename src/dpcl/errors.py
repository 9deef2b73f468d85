"""What a user can put right: one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

from importlib.util import find_spec


class InputError(ValueError):
    """Wrong input, arguments or settings; the command line prints it and exits with status 2."""


def need_package(extra: str, purpose: str, package: str) -> None:
    """Raise InputError if a package that an extra of dpcl brings is not installed.

    purpose: the sentence's beginning, as in "pictures need".
    """
    if find_spec(package) is None:
        raise missing_package(extra, purpose, package)


def missing_package(extra: str, purpose: str, package: str) -> InputError:
    """What to raise where it is known already; arguments as of `need_package`."""
    return InputError(
        f"{purpose} {package}, which is not installed; install it with `pip install"
        f' "dpcl[{extra}]"`'
    )
