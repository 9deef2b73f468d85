"""`dpcl export`: write a network as ONNX, for programs in other languages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpcl.apps.console import Force
from dpcl.errors import InputError, need_package


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
