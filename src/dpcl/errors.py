"""Errors that a user can correct, each one sentence: `{where}: {problem}; {remedy}`."""

from __future__ import annotations

from importlib.util import find_spec


class InputError(ValueError):
    """Wrong input, argument or setting.

    The command line prints the message, without a traceback, and exits with status 2.
    """


def need_package(extra: str, purpose: str, package: str) -> None:
    """Check that an optional package is installed.

    Args:
        extra: name of the extra of dpcl that installs the package.
        purpose: beginning of the error message, such as "pictures need".
        package: name under which the package is imported.

    Raises:
        InputError: The package is not installed.

    Example:
        >>> need_package("show", "pictures need", "math")
    """
    if find_spec(package) is None:
        raise missing_package(extra, purpose, package)


def missing_package(extra: str, purpose: str, package: str) -> InputError:
    """Return the error for a package whose import failed.

    Args:
        extra: name of the extra of dpcl that installs the package.
        purpose: beginning of the error message, such as "pictures need".
        package: name under which the package is imported.

    Returns:
        The error, for the caller to raise.

    Example:
        >>> print(missing_package("show", "pictures need", "matplotlib"))
        pictures need matplotlib, which is not installed; install it with `pip install "dpcl[show]"`
    """
    return InputError(
        f"{purpose} {package}, which is not installed; install it with `pip install"
        f' "dpcl[{extra}]"`'
    )
