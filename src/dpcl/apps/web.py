"""`dpcl web`: separate recordings on a page in the browser."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpcl.errors import InputError, need_package
from dpcl.separators.limits import MOST_SOURCES


def web(
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on: 127.0.0.1 (this computer only) or 0.0.0.0 (any computer on"
            " the network)."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 selects a free one.", min=0, max=65_535)
    ] = 7860,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Serve a page: drop a recording or record one, play and save its sources.

    Recordings stay on this computer. Press Ctrl-C to stop.

    Example: **dpcl web --port 8000**
    """
    need_package("web", "the page needs", "gradio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio must not report the use of the page

    serve(host, port, browser)


if TYPE_CHECKING:
    import gradio as gr

KEPT = 3600  # time that recordings and sources stay on the disk after their last use, s
HEADING = """# dpcl

Separates recordings of overlapping talkers or sounds: one recording in, one file per source out.
Sources keep the recording's sample rate, channels and length, and sum to it. Recordings stay on the
computer that serves this page."""
NOTHING_YET = "There is no recording yet; drop a file, or record one."
ESTIMATED = "estimated"


def serve(host: str, port: int, browser: bool) -> None:
    """Serve the page until Ctrl-C.

    Args:
        host: address to listen on.
        port: port to listen on; 0 selects a free one.
        browser: open the page in the browser.

    Raises:
        InputError: The address cannot be used.
    """
    import gradio as gr

    page = make_page()
    _, address, _ = page.launch(
        server_name=host,
        server_port=_free(host, port),
        inbrowser=browser,
        theme=gr.themes.Default(font="sans-serif", font_mono="monospace"),  # local fonts only
        footer_links=[],
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    print(address, flush=True)
    page.block_thread()


def make_page() -> gr.Blocks:
    """Build the page, without serving it."""
    import gradio as gr

    from dpcl.shipped import shipped_models

    def pressed(
        recording: str | None,
        sources: int,
        model: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio requires this default
    ) -> Iterator[list[Any]]:
        """Separate the recording when the button is pressed."""
        yield from separated(recording, sources, model, progress)

    models = sorted(shipped_models(), key=lambda model: model.name != "default")  # default first
    page: gr.Blocks
    with gr.Blocks(title="dpcl", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown(HEADING)
        with gr.Row():
            with gr.Column():
                recording = gr.Audio(
                    label="Recording",
                    sources=["upload", "microphone"],
                    type="filepath",
                    buttons=["download"],
                )
                sources = gr.Dropdown(
                    [(ESTIMATED, 0), *((str(n), n) for n in range(1, MOST_SOURCES + 1))],
                    value=0,
                    label="Number of sources",
                )
                model = gr.Radio(
                    [
                        (f"{model.name}: {model.summary.replace('`', '')}", model.name)
                        for model in models
                    ],
                    value="default",
                    label="Model",
                )
                button = gr.Button("Separate", variant="primary")
            with gr.Column():
                message = gr.Markdown("Sources appear here.", min_height=60)
                players = [
                    gr.Audio(
                        label=f"Source {n}", visible=False, interactive=False, buttons=["download"]
                    )
                    for n in range(1, MOST_SOURCES + 1)
                ]
                background = gr.Audio(
                    label="Background", visible=False, interactive=False, buttons=["download"]
                )
        button.click(
            pressed,
            [recording, sources, model],
            [message, *players, background],
            api_name="separate",
            show_progress_on=message,
        )
    return page


def separated(
    recording: str | None,
    sources: int,
    model: str,
    progress: Callable[..., Any] = lambda *_, **__: None,
) -> Iterator[list[Any]]:
    """Separate a recording, and yield a message, a player per source and one of the background.

    Args:
        recording: audio file; None if there is none yet.
        sources: number of sources; 0 to estimate it.
        model: separator, as `dpcl.separate` takes it.
        progress: called with the share of the work that is done, and a description.

    Yields:
        The message and all players; surplus players are hidden.

    Raises:
        gradio.Error: There is no recording, or it cannot be separated.
    """
    import gradio as gr

    from dpcl.apps.files import Separated, separate_files

    if not recording:
        raise gr.Error(NOTHING_YET, print_exception=False)
    finished: list[Separated] = []
    # The folder is removed after gradio has copied the files and resumes this generator.
    with tempfile.TemporaryDirectory(prefix="dpcl-web-") as folder:
        try:
            separate_files(
                [Path(recording)],
                Path(folder),
                model,
                sources or None,
                done=finished.append,
                report=lambda moved: progress(
                    moved.done / moved.total, desc=f"{moved.done:.0f} of {moved.total:.0f} s"
                ),
            )
        except InputError as error:
            raise gr.Error(_with_own_name(str(error), recording), print_exception=False) from error
        (result,) = finished
        number = len(result.sources)
        counted = f"{number} source{'s' if number > 1 else ''}"
        lines = [f"{counted} in {result.seconds:.1f} s, separated in {result.took:.1f} s."]
        files = [*result.sources, *[None] * (MOST_SOURCES - number), result.background]
        players = [gr.Audio(value=path and str(path), visible=path is not None) for path in files]
        lines += [_with_own_name(warning, recording) for warning in result.warnings]
        yield ["\n\n".join(lines), *players]


def _with_own_name(message: str, recording: str) -> str:
    """Replace the path of gradio's copy of a recording by the recording's own name."""
    return message.replace(recording, Path(recording).name)


def _free(host: str, port: int) -> int:
    """Return the port, or a free one for 0; raise InputError if the address cannot be used."""
    try:
        with socket.create_server((host, port)) as server:
            return int(server.getsockname()[1])
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be used ({error.strerror or error}); give another --port or"
            " --host"
        ) from error
