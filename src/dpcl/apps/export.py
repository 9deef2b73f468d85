"""`dpcl export`: a network for programs in other languages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpcl.apps.console import Force
from dpcl.errors import InputError, need_package


def export(
    model: Annotated[
        str, typer.Argument(help="A shipped model, or a .safetensors file.", metavar="MODEL")
    ],
    out: Annotated[Path, typer.Option(help="The .onnx file.")],
    force: Force = False,
) -> None:
    """Write a network as an ONNX file: magnitudes of a mixture in, an embedding of each bin out.

    What is left to the program that runs it is the STFT, k-means and masks, whose settings are in
    the file's metadata. A network for streams takes one frame at a time.

    Example: **dpcl export default --out default.onnx**
    """
    from dpcl.io import folder_aside, refuse_existing

    if out.suffix.lower() != ".onnx":
        raise InputError(f"{out}: the suffix says no format that can be written; give .onnx")
    if out.is_dir():
        raise InputError(f"{out}: is a folder; give a file")
    refuse_existing(out, force)
    need_package("onnx", "ONNX files need", "onnx")

    from dpcl.separators.onnx_graph import onnx_graph
    from dpcl.separators.registry import load_network

    graph = onnx_graph(load_network(model))
    with folder_aside(out.parent) as aside:
        (aside / out.name).write_bytes(graph)
        (aside / out.name).replace(out)
    print(out)
