"""Entry point of `dpcl` and `python -m dpcl`, for a process of its own."""

from dpcl.apps import cli, process


def main() -> None:
    """Run `dpcl.apps.cli.main`, and end the process at once where the command allows it.

    Programs that embed the command line call `dpcl.apps.cli.main`, which never ends their process
    and leaves their signals alone.
    """
    process.open_closed_streams()
    process.end_cleanly_on_signals()
    try:
        cli.main()
    except SystemExit as end:
        if process.quick_exit:
            process.leave(int(end.code or 0))  # the command has closed all files
        raise


if __name__ == "__main__":
    main()
