"""Networks as ONNX graphs, for programs in other languages: magnitudes in, embeddings out."""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from dpcl.errors import InputError
from dpcl.model import Model
from dpcl.signal.features import FLOOR, FORGETTING

OPSET = 17  # first ONNX operator set with layer norms
FRAMES = 40  # frames of the traced example; the graph takes any number


def onnx_graph(model: Model) -> bytes:
    """Export the network of a model as an ONNX file, features included.

    STFT and k-means remain for the calling program.
    For a network of whole recordings, the input is `magnitude` (L, F) of a mixture's STFT, any L.
    The outputs are `embeddings` (L, F, K) and, from heads for them, `masks` (L, C, F) and
    `background` (L, F), the probability that no talker dominates a bin.
    A network for streams takes one frame: `magnitude` (F,), `loudest` (), `state_0`, `state_1`, …
    Its outputs are `embeddings` (F, K), `masks` (C, F), `next_loudest`, `next_state_0`, … The
    `next_` outputs are inputs with the next frame; at the start they are zeros.
    Metadata: sample_rate in Hz, window and hop in samples of the STFT (dpcl.signal.stft.STFT), and
    how clusters become masks (MaskSettings; binary ones without a sharpness).

    Args:
        model: model to export.

    Returns:
        The bytes of the file.

    Raises:
        InputError: The network needs all frames at once but its level is the running one.
        ImportError: onnx is not installed.
    """
    import onnx

    settings = model.settings
    streams = settings.signal.level == "running"
    if streams and not model.network.causal:
        raise InputError(
            "the network encodes the whole recording at once with a running level, which ONNX does"
            " not support; train one with `signal.level` whole"
        )
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about every size that stays constant
        graph = _Step(model) if streams else _Whole(model)
        torch.onnx.export(
            graph.eval(),
            graph.example,
            file,  # type: ignore[arg-type]  # the stubs have no file objects
            input_names=graph.inputs,
            output_names=graph.outputs,
            dynamic_axes=graph.frames,
            opset_version=OPSET,
            dynamo=False,  # the newer exporter unrolls an LSTM frame by frame, for one length
        )
    made = onnx.load_model_from_string(file.getvalue())
    if not streams:  # drop torch's initial states, zeros of the example's size: none mean zeros
        for node in made.graph.node:
            if node.op_type == "LSTM":
                node.input[5:7] = ["", ""]  # initial_h, initial_c
    about = settings.signal.model_dump() | settings.masks.model_dump(exclude_none=True)
    onnx.helper.set_model_props(made, {key: str(value) for key, value in about.items()})
    made.doc_string = "An embedding network for deep clustering, written by dpcl."
    onnx.checker.check_model(made)
    written: bytes = made.SerializeToString()
    return written


class _Graph(nn.Module):
    """Module to trace, an example of its inputs, and the names of its inputs and outputs.

    Frames are the first axis everywhere, so that a graph for one frame only lacks that axis.
    """

    example: tuple[Tensor, ...]
    inputs: list[str]
    frames: dict[str, dict[int, str]]  # axes of any length, for each input and output

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network, self.signal = model.network, model.settings.signal
        heads = model.network.heads
        self.outputs = ["embeddings"] * bool(heads.embedding) + ["masks"] * bool(heads.masks)
        self.outputs += ["background"] * heads.background

    def read(self, encoded: Tensor) -> list[Tensor]:
        """Read the heads from encoded frames (1, L, H), in the order of `outputs`.

        Embeddings (L, F, K), masks (L, C, F), probability of background (L, F).
        """
        network, heads = self.network, self.network.heads
        outputs = []
        if heads.embedding:
            outputs.append(network.embed(encoded).view(-1, len(network.mean), heads.embedding))
        if heads.masks:
            outputs.append(network.infer_masks(encoded, heads.masks)[0].transpose(0, 1))
        if heads.background:
            outputs.append(network.background(encoded).view(-1, len(network.mean)).sigmoid())
        return outputs


class _Whole(_Graph):
    """Graph of all frames of a mixture at once."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.example = (torch.rand(FRAMES, len(self.network.mean)),)
        self.inputs = ["magnitude"]
        self.frames = {name: {0: "frames"} for name in [*self.inputs, *self.outputs]}

    def forward(self, magnitude: Tensor) -> list[Tensor]:
        features = self.signal.features(magnitude.unsqueeze(0))
        return self.read(self.network.encode(features))


class _Step(_Graph):
    """Graph of one frame of a stream and of the state that the next frame depends on."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        magnitude = torch.rand(len(self.network.mean))
        _, state = self.network.encode_next(magnitude[None])
        _, later = self.network.encode_next(magnitude[None], state)
        leaves, self.layout = tree_flatten(state)
        # Parts of the state that stay identical from frame to frame are constants of the graph.
        self.kept = [
            one if one is other else None
            for one, other in zip(leaves, tree_leaves(later), strict=True)
        ]
        states = [x for x, kept in zip(leaves, self.kept, strict=True) if kept is None]
        self.example = (magnitude, torch.tensor(1.0), *states)
        self.inputs = ["magnitude", "loudest", *(f"state_{i}" for i in range(len(states)))]
        self.outputs += [f"next_{name}" for name in self.inputs[1:]]
        self.frames = {}
        self.fade = 10 ** (-FORGETTING / 20 * self.signal.hop / self.signal.sample_rate)

    def forward(self, magnitude: Tensor, loudest: Tensor, *states: Tensor) -> list[Tensor]:
        # The level follows running_log_magnitude without logarithms: its state can start at zero.
        loudest = torch.maximum(self.fade * loudest, magnitude.amax())
        level = torch.where(loudest > 0, loudest, torch.ones_like(loudest))
        features = (magnitude / level).clamp_min(FLOOR).log()
        given = iter(states)
        leaves = [next(given) if kept is None else kept for kept in self.kept]
        encoded, state = self.network.encode_next(
            features[None], tree_unflatten(leaves, self.layout)
        )
        after = zip(tree_leaves(state), self.kept, strict=True)
        return [
            *(output[0] for output in self.read(encoded[None])),
            loudest,
            *(x for x, kept in after if kept is None),
        ]
