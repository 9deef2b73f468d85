"""Entry point of `dpcl` and `python -m dpcl`, for a process of its own."""

import sys

from dpcl.apps import process


def main() -> None:
    """Run `dpcl.apps.cli.main`, and end the process at once where the command allows it.

    Programs that embed the command line call `dpcl.apps.cli.main`, which never ends their process
    and leaves their signals alone.
    """
    process.open_closed_streams()
    process.end_cleanly_on_signals()
    try:
        from dpcl.apps import cli  # takes a fifth of a second, in which Ctrl-C is no traceback
    except KeyboardInterrupt:
        sys.exit(process.interrupted())
    try:
        cli.main()
    except SystemExit as end:
        if process.quick_exit:
            process.leave(int(end.code or 0))  # the command has closed all files
        raise


if __name__ == "__main__":
    main()
