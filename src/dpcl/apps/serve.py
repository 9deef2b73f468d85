"""`dpcl serve`: separate recordings over HTTP, for programs; `dpcl web`: the same with a page."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from dpcl.apps.console import screen
from dpcl.errors import InputError, need_package

if TYPE_CHECKING:
    import socket

Host = Annotated[
    str,
    typer.Option(
        help="Address to listen on: 127.0.0.1 (this computer only) or 0.0.0.0 (any computer on"
        " the network)."
    ),
]
Port = Annotated[int, typer.Option(help="Port; 0 selects a free one.", min=0, max=65_535)]
Workers = Annotated[int, typer.Option(help="Number of recordings at once.", min=1)]
Waiting = Annotated[int, typer.Option(help="Largest number of waiting recordings.", min=1)]
MaxMegabytes = Annotated[float, typer.Option(help="Largest recording in MB.", min=0.001)]
MaxMinutes = Annotated[float, typer.Option(help="Longest recording in minutes.", min=0.001)]
KeepMinutes = Annotated[float, typer.Option(help="Minutes for which finished jobs stay.", min=0)]


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    key: Annotated[
        list[str] | None,
        typer.Option(help="API key that clients must send; may be repeated.", envvar="DPCL_KEYS"),
    ] = None,
    workers: Workers = 1,
    waiting: Waiting = 100,
    max_megabytes: MaxMegabytes = 500.0,
    max_minutes: MaxMinutes = 60.0,
    keep_minutes: KeepMinutes = 60.0,
    root_path: Annotated[
        str, typer.Option(help="Path below which a proxy serves dpcl, such as /dpcl.")
    ] = "",
) -> None:
    """Serve separation over HTTP: send a recording, follow its progress, fetch its sources.

    The page /docs describes the interface, /metrics is for Prometheus. Press Ctrl-C to stop.

    Example: **dpcl serve --port 8000 --workers 2**
    """
    if not all(text.strip() for text in key or ()):
        raise InputError("--key: is empty; give a key, or omit the option")
    run_server(
        host,
        port,
        tuple(key or ()),
        False,
        workers,
        waiting,
        (max_megabytes, 60 * max_minutes, 60 * keep_minutes),
        root_path,
    )


def run_server(
    host: str,
    port: int,
    keys: tuple[str, ...],
    page: bool,
    workers: int,
    waiting: int,
    limits: tuple[float, float, float],
    root_path: str = "",
    browser: bool = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM; recordings are removed at the end.

    Args:
        host: address to listen on.
        port: port to listen on; 0 selects a free one.
        keys: API keys; empty for none.
        page: serve the page too.
        workers: number of recordings at once.
        waiting: largest number of waiting recordings.
        limits: largest recording in MB, longest in s, and time that finished jobs stay in s.
        root_path: path below which a proxy serves dpcl.
        browser: open the page in the browser.

    Raises:
        InputError: The address cannot be used, or a package is missing.
    """
    for package in ("fastapi", "uvicorn"):
        need_package("web", "the server needs", package)
    listener = listen(host, port)
    import uvicorn

    from dpcl.apps.jobs import Jobs
    from dpcl.apps.security import LOOPBACK
    from dpcl.apps.service import Limits, make_app

    megabytes, seconds, keep = limits
    jobs = Jobs(workers, waiting, keep)
    app = make_app(jobs, Limits(megabytes, seconds), keys, page, host in LOOPBACK)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}{root_path}"
    config = uvicorn.Config(
        app, log_level="warning", root_path=root_path, timeout_graceful_shutdown=1
    )
    logging.getLogger("uvicorn.error").addFilter(is_error)
    print(address, flush=True)
    if host not in LOOPBACK and not keys:
        screen.print("dpcl: anyone who reaches this address can use it", style="yellow")
    if browser:
        import webbrowser

        webbrowser.open(address)
    try:
        uvicorn.Server(config).run([listener])
    except KeyboardInterrupt:  # uvicorn raises the signal again after its end
        pass
    finally:
        jobs.close()
        listener.close()


def is_error(record: logging.LogRecord) -> bool:
    """Return False for requests that the end of the server cancelled: they are no errors."""
    from asyncio import CancelledError  # at the top it would slow every `dpcl --help`

    error = record.exc_info[1] if record.exc_info else None
    cancelled = isinstance(error, CancelledError)
    return not cancelled and not record.getMessage().startswith("Cancel ")


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise InputError if the address cannot be used."""
    import socket

    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{host}:{port} cannot be used ({reason}); give another --port or --host"
        ) from error


def web(
    host: Host = "127.0.0.1",
    port: Port = 7860,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    workers: Workers = 1,
    waiting: Waiting = 100,
    max_megabytes: MaxMegabytes = 500.0,
    max_minutes: MaxMinutes = 60.0,
    keep_minutes: KeepMinutes = 60.0,
) -> None:
    """Serve a page: drop a recording or record one, play its sources together, save them.

    Recordings stay on this computer, in a private folder that is removed when the visit ends. The
    same address has the HTTP interface of `dpcl serve`. Press Ctrl-C to stop.

    Example: **dpcl web --port 8000**
    """
    limits = max_megabytes, 60 * max_minutes, 60 * keep_minutes
    run_server(host, port, (), True, workers, waiting, limits, browser=browser)
