"""The program: `dpcl` and `python -m dpcl`, in a process of its own."""

from dpcl.apps import cli, process


def main() -> None:
    """As `dpcl.apps.cli.main`, which others may call in theirs; `separate` leaves quickly."""
    try:
        cli.main()
    except SystemExit as end:
        if process.quick_exit:
            process.leave(int(end.code or 0))  # it has closed all that it opened
        raise


if __name__ == "__main__":
    main()
