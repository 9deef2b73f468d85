"""`dpcl web`: separate recordings on a page in the browser."""

from __future__ import annotations

from typing import Annotated

import typer

from dpcl.apps.serve import (
    Host,
    KeepMinutes,
    MaxMegabytes,
    MaxMinutes,
    Port,
    Waiting,
    Workers,
    run_server,
)


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
