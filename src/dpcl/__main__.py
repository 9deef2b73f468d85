"""The program: `dpcl` and `python -m dpcl`, in a process of its own."""

import sys

from dpcl.apps import cli
from dpcl.apps.process import leave


def main() -> None:
    """As `dpcl.apps.cli.main`, which others may call in theirs; `separate` leaves quickly."""
    try:
        cli.main()
    except SystemExit as end:
        if sys.argv[1:2] == ["separate"]:
            leave(int(end.code or 0))  # it has closed all that it opened
        raise


if __name__ == "__main__":
    main()
