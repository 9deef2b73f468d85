"""The network that hears in ONNX Runtime beside torch: is it worth being an option?

    pip install onnx onnxruntime
    python benchmarks/onnx_runtime.py

Windows of ten seconds through the recurrent layers of a model, in one thread: float32, bfloat16
and 8-bit integers in torch, as `dpcl separate` chooses from; float32 and 8-bit integers in ONNX
Runtime, whose graph has the same weights in its own LSTM operators. Rounds A B C A B C, medians;
outputs are compared with those of torch in float32.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import machine
import numpy as np
import onnx
import onnxruntime
import torch
from dpcl.separators.load import load_separator
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from torch import nn

from dpcl.networks.lstm import BLSTMEmbedding

FRAMES = 612
Hear = Callable[[], NDArray[np.float32]]


def graph(lstm: nn.LSTM) -> onnx.ModelProto:
    """The layers of a bidirectional LSTM: x (L, B, I) -> y (L, B, 2H)."""
    nodes, weights = [], []
    hidden, before = lstm.hidden_size, "x"

    def gates(name: str, layer: int) -> NDArray[np.float32]:
        """(2, 4H, …), torch's gates i, f, g, o in ONNX's order i, o, f, g."""
        ways = [getattr(lstm, f"{name}_l{layer}{way}").detach() for way in ("", "_reverse")]
        order = [w.unflatten(0, (4, hidden))[[0, 3, 1, 2]].flatten(0, 1) for w in ways]
        return torch.stack(order).numpy()

    for layer in range(lstm.num_layers):
        biases = np.concatenate([gates("bias_ih", layer), gates("bias_hh", layer)], axis=1)
        tensors = gates("weight_ih", layer), gates("weight_hh", layer), biases
        names = [f"{name}{layer}" for name in "wrb"]
        weights += [
            numpy_helper.from_array(tensor, name)
            for name, tensor in zip(names, tensors, strict=True)
        ]
        both, turned = f"both{layer}", f"turned{layer}"
        after = "y" if layer == lstm.num_layers - 1 else f"y{layer}"
        nodes += [
            helper.make_node(
                "LSTM", [before, *names], [both], direction="bidirectional", hidden_size=hidden
            ),  # (L, 2, B, H)
            helper.make_node("Transpose", [both], [turned], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [turned, "shape"], [after]),
        ]
        before = after
    weights.append(numpy_helper.from_array(np.array([0, 0, 2 * hidden], np.int64), "shape"))
    floats = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("x", floats, ["L", "B", lstm.input_size])]
    outputs = [helper.make_tensor_value_info("y", floats, ["L", "B", 2 * hidden])]
    made = helper.make_model(
        helper.make_graph(nodes, "encode", inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    onnx.checker.check_model(made)
    return made


def in_onnx(path: Path, x: NDArray[np.float32]) -> Hear:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default", help="name or path (a BLSTM)")
    parser.add_argument("--windows", type=int, default=20, help="in one call")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    model = load_separator(arguments.model).model
    network = model.network
    if type(network) is not BLSTMEmbedding or network.causal:
        parser.error(f"{arguments.model} is no BLSTM, whose graph is written here")
    scaled = torch.randn(arguments.windows, FRAMES, len(network.mean))
    features = network.mean + network.std * scaled
    x = scaled.transpose(0, 1).contiguous().numpy()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        whole, small = Path(folder, "whole.onnx"), Path(folder, "small.onnx")
        onnx.save(graph(network.lstm), whole)
        quantize_dynamic(whole, small)
        networks = {
            "torch, float32": network,
            "torch, bfloat16": network.in_bfloat16(),
            "torch, int8": network.in_int8(),
        }
        systems: dict[str, Hear] = {
            name: lambda n=n: n.encode(features).float().transpose(0, 1).numpy()  # type: ignore[misc]
            for name, n in networks.items()
        }
        systems["ONNX Runtime, float32"] = in_onnx(whole, x)
        systems["ONNX Runtime, int8"] = in_onnx(small, x)
        exact = systems["torch, float32"]()
        print(
            machine.heading(machine.describe()),
            f"onnxruntime {onnxruntime.__version__}.\n",
            sep="\n",
        )
        print("| | ms a second of audio | largest difference |\n|---|--:|--:|")
        times = machine.interleaved(systems, arguments.repeats)
        signal = model.settings.signal
        seconds = arguments.windows * FRAMES * signal.hop / signal.sample_rate
        for name, hear in systems.items():
            milliseconds = 1000 * statistics.median(times[name]) / seconds
            print(f"| {name} | {milliseconds:.2f} | {np.abs(hear() - exact).max():.3g} |")


if __name__ == "__main__":
    main()
