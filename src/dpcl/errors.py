"""What a user can put right: one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

from importlib.util import find_spec


class InputError(ValueError):
    """Wrong input, arguments or settings; the command line prints it and exits with status 2."""


def need_packages(extra: str, purpose: str, *packages: str) -> None:
    """Raise InputError if a package that an extra of dpcl brings is not installed.

    purpose: the sentence's beginning, as in "pictures need".
    """
    for package in packages:
        if find_spec(package) is None:
            raise InputError(
                f"{purpose} {package}, which is not installed; install it with"
                f' `pip install "dpcl[{extra}]"`'
            )
