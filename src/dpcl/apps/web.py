"""`dpcl web`: a page in the browser."""

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

    serve(host, port, browser)


if TYPE_CHECKING:
    import gradio as gr

KEPT = 3600  # s that a page's recordings and sources stay on the disk, once nobody uses them
HEADING = """# dpcl

One recording in which sounds overlap in, each sound on its own out. The sources have its rate,
channels and length, and add up to it. Nothing leaves the computer that this page comes from."""
NOTHING_YET = "There is no recording yet: drop a file, or record one."
AS_HEARD = "as many as are heard"


def serve(host: str, port: int, browser: bool) -> None:
    """Show the page until Ctrl-C. Raises InputError where the address cannot be used."""
    import gradio as gr

    page = make_page()
    _, address, _ = page.launch(
        server_name=host,
        server_port=_free(host, port),
        inbrowser=browser,
        theme=gr.themes.Default(font="sans-serif", font_mono="monospace"),  # none from elsewhere
        footer_links=[],
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    print(address, flush=True)
    page.block_thread()


def make_page() -> gr.Blocks:
    """The page, not yet to be seen."""
    import gradio as gr

    from dpcl.shipped import shipped_models

    def pressed(
        recording: str | None,
        sources: int,
        model: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio looks for it here
    ) -> Iterator[list[Any]]:
        yield from separated(recording, sources, model, progress)

    models = sorted(shipped_models(), key=lambda model: model.name != "default")  # which is first
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
                    [(AS_HEARD, 0), *((str(n), n) for n in range(1, MOST_SOURCES + 1))],
                    value=0,
                    label="How many sounds",
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
                told = gr.Markdown("Sources come here.", min_height=60)
                players = [
                    gr.Audio(
                        label=f"Source {n}", visible=False, interactive=False, buttons=["download"]
                    )
                    for n in range(1, MOST_SOURCES + 1)
                ]
        button.click(
            pressed,
            [recording, sources, model],
            [told, *players],
            api_name="separate",
            show_progress_on=told,
        )
    return page


def separated(
    recording: str | None,
    sources: int,
    model: str,
    progress: Callable[..., Any] = lambda *_, **__: None,
) -> Iterator[list[Any]]:
    """What is said of the separation, and a player of each source; those beyond are hidden.

    sources: 0 for as many as are heard.
    """
    import gradio as gr

    from dpcl.apps.files import Separated, separate_files

    if not recording:
        raise gr.Error(NOTHING_YET, print_exception=False)
    finished: list[Separated] = []
    # gradio copies what it is given before it asks for more; then the folder goes.
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
            raise gr.Error(_as_named(str(error), recording), print_exception=False) from error
        (result,) = finished
        number = len(result.outputs)
        sounds = f"{number} sound{'s' if number > 1 else ''}"
        lines = [f"{sounds} in {result.seconds:.1f} s, separated in {result.took:.1f} s."]
        players = [gr.Audio(value=str(path), visible=True) for path in result.outputs]
        hidden = [gr.Audio(value=None, visible=False)] * (MOST_SOURCES - number)
        lines += [_as_named(warning, recording) for warning in result.warnings]
        yield ["\n\n".join(lines), *players, *hidden]


def _as_named(told: str, recording: str) -> str:
    """What is told of a recording, under its own name: not where gradio has put it."""
    return told.replace(recording, Path(recording).name)


def _free(host: str, port: int) -> int:
    """The port, or a free one for 0, where this address can be used."""
    try:
        with socket.create_server((host, port)) as server:
            return int(server.getsockname()[1])
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be used ({error.strerror or error}); give another --port or"
            " --host"
        ) from error
