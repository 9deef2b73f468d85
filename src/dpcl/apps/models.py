"""`dpcl models`: models that ship and models of the hub, their cards; `dpcl export`: as ONNX."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from dpcl.apps.console import Force, complete_model, print_json, screen
from dpcl.catalogue import (
    SCHEME,
    ShippedModel,
    cached_models,
    discard,
    fetch,
    publish,
    shipped_models,
    weights_path,
)
from dpcl.errors import InputError, need_package


class CardByDefault(TyperGroup):
    """Group whose command `card` may be omitted: `dpcl models default`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command; other words are the name of a model."""
        named = args[:1] and args[0] not in self.commands
        return super().resolve_command(ctx, ["card", *args] if named else args)


app = typer.Typer(name="models", cls=CardByDefault, invoke_without_command=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
HubName = Annotated[
    str, typer.Argument(help="hf://ORG/NAME, or hf://ORG/NAME@REVISION.", metavar="NAME")
]


@app.callback()
def models(context: typer.Context, as_json: Json = False) -> None:
    """List the models that ship and those that were pulled; print cards, pull and push.

    `dpcl models NAME` prints the card of a model: training data, scores and limits.

    Example: **dpcl models default**
    """
    if context.invoked_subcommand is not None:
        return
    found = shipped_models() + [
        ShippedModel(model.name, model.path, _body(model.card)) for model in cached_models()
    ]
    if as_json:
        print_json([asdict(model) for model in found])
        return
    rows = [(m.name, f"{m.path.stat().st_size / 1e6:.1f} MB", m.summary) for m in found]
    if not sys.stdout.isatty():
        for row in rows:
            print("  ".join(row))
        return
    from rich.table import Table

    table = Table("model", "size", "purpose", box=None, header_style="bold")
    for row in rows:
        table.add_row(*(cell.replace("`", "") for cell in row))
    Console().print(table)


@app.command(hidden=True)
def card(
    name: Annotated[
        str, typer.Argument(help="Model whose card is printed.", autocompletion=complete_model)
    ],
    as_json: Json = False,
) -> None:
    """Print the card of a model: training data, scores and limits.

    Example: **dpcl models card default**
    """
    if name.startswith(SCHEME):
        model = fetch(name)
        found = [ShippedModel(model.name, model.path, _body(model.card))]
    else:
        found = [model for model in shipped_models() if model.name == name]
    if not found:
        raise InputError(f"no model {name!r} ships; choose one that `dpcl models` lists")
    if as_json:
        print_json([asdict(model) for model in found])
    elif sys.stdout.isatty():
        from rich.markdown import Markdown

        Console().print(Markdown(found[0].card))
    else:
        print(found[0].card)


@app.command()
def pull(name: HubName) -> None:
    """Download a model from the Hugging Face hub, or its newest commit.

    Prints the name with the commit, which always names the same weights. `--model` takes both
    names, and downloads a model that was not pulled.

    Example: **dpcl models pull hf://ORG/NAME**
    """
    from dpcl.model import load_model

    model = fetch(name, refresh=True)
    try:
        load_model(model.path)
    except InputError as error:
        discard(model)
        reason = str(error).removeprefix(f"{model.path}: ")
        raise InputError(f"{name}: {reason}") from error
    print(model.name)


@app.command()
def push(
    model: Annotated[
        str, typer.Argument(help="Shipped model, or a .safetensors file.", metavar="MODEL")
    ],
    name: Annotated[str, typer.Argument(help="Model on the hub: hf://ORG/NAME.", metavar="NAME")],
    private: Annotated[bool, typer.Option("--private", help="Make the model private.")] = False,
    licence: Annotated[
        str | None, typer.Option("--license", help="Licence of the weights, such as mit.")
    ] = None,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Add the model",
) -> None:
    """Upload a model with its card to the Hugging Face hub.

    Log in first with `hf auth login`, or set HF_TOKEN. The card beside the weights (.md) gets a
    front matter. Prints the name with the commit.

    Example: **dpcl models push runs/mine/mine.safetensors hf://ORG/NAME --license mit**
    """
    from dpcl.model import load_model

    weights = weights_path(model)
    load_model(weights or Path(model))
    assert weights is not None
    beside = weights.with_suffix(".md")
    if not beside.is_file():
        screen.print(f"dpcl: {beside} does not exist; the card holds the name only", style="yellow")
    text = beside.read_text(encoding="utf-8") if beside.is_file() else f"# {weights.stem}\n"
    print(publish(weights, name, _body(text), private, licence, message))


def _body(text: str) -> str:
    """Return a card without its front matter."""
    if not text.startswith("---\n"):
        return text
    return text.partition("\n---\n")[2].lstrip()


def export(
    model: Annotated[
        str, typer.Argument(help="Shipped model, or a .safetensors file.", metavar="MODEL")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write (.onnx).")],
    force: Force = False,
) -> None:
    """Write a network as an ONNX file: magnitudes of a mixture in, an embedding per bin out.

    The file's metadata holds the settings of STFT, k-means and masks, which the calling program
    computes. A network for streams takes one frame at a time.

    Example: **dpcl export default --out default.onnx**
    """
    from dpcl.io import folder_aside, refuse_existing

    if out.suffix.lower() != ".onnx":
        raise InputError(f"{out}: this suffix is no known format; end the name in .onnx")
    if out.is_dir():
        raise InputError(f"{out}: is a folder, not a file; give another --out")
    refuse_existing(out, force)
    need_package("onnx", "ONNX files need", "onnx")

    from dpcl.separators.onnx_graph import onnx_graph
    from dpcl.separators.registry import load_network

    graph = onnx_graph(load_network(model))
    with folder_aside(out.parent) as folder:
        (folder / out.name).write_bytes(graph)
        (folder / out.name).replace(out)
    print(out)
