"""`dpcl web`: a page in the browser, for a recording and no terminal."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from dpcl.errors import need_package


def web(
    host: Annotated[
        str, typer.Option(help="Who may reach it: 127.0.0.1 is this computer, 0.0.0.0 anyone.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Its number in the address; 0 is any free one.", min=0, max=65_535)
    ] = 7860,
    browser: Annotated[bool, typer.Option(help="Open it in the browser.")] = True,
) -> None:
    """A page on this computer: drop a recording or record one, hear and save its sources.

    Example: **dpcl web --port 8000**; Ctrl-C ends it. What is dropped there stays on this computer.
    """
    need_package("web", "the page needs", "gradio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nor is anything told to others about it
    from dpcl.apps.web_page import serve

    serve(host, port, browser)
