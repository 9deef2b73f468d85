"""A network as an ONNX graph, for programs in other languages: magnitudes in, embeddings out."""

from __future__ import annotations

import io
import warnings
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from dpcl.errors import InputError
from dpcl.model import Model
from dpcl.signal.features import FLOOR, FORGETTING

OPSET = 17  # the first with layer norms
FRAMES = 40  # of the example that is traced; the graph takes any number


def onnx_graph(model: Model) -> bytes:
    """The network of a model as an ONNX file, features included: what is left is STFT and k-means.

    magnitude (L, F) of a mixture's STFT, any L -> embeddings (L, F, K) and, of a mask head, masks
    (L, C, F). A network that follows streams takes a frame at a time: magnitude (F,), loudest (),
    state_0, state_1, … -> embeddings (F, K), masks (C, F), next_loudest, next_state_0, …, which go
    in with the next frame; before the first one they are zeros.
    Metadata: sample_rate in Hz, window and hop in samples of the STFT (dpcl.signal.stft.STFT), and
    how clusters become masks (MaskSettings; binary ones without a sharpness).
    Raises InputError for a network that needs all frames at once and hears them relative to those
    before; ImportError without onnx.
    """
    import onnx

    settings = model.settings
    streams = settings.signal.level == "running"
    if streams and not model.network.causal:
        raise InputError(
            "the network hears the whole recording at once, each frame relative to those before:"
            " ONNX has nothing for that; train one with signal.level=whole"
        )
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of every size that stays the same
        graph = _Step(model) if streams else _Whole(model)
        torch.onnx.export(
            graph.eval(),
            graph.example,
            file,  # type: ignore[arg-type]  # the stubs know of no file objects
            input_names=graph.inputs,
            output_names=graph.outputs,
            dynamic_axes=graph.frames,
            opset_version=OPSET,
            dynamo=False,  # the newer exporter writes out an LSTM frame by frame, for one length
        )
    made = onnx.load_model_from_string(file.getvalue())
    if not streams:  # torch wrote zeros for as many frames as the example has; none stand for zeros
        for node in made.graph.node:
            if node.op_type == "LSTM":
                node.input[5:7] = ["", ""]  # initial_h, initial_c
    about = settings.signal.model_dump() | settings.masks.model_dump(exclude_none=True)
    onnx.helper.set_model_props(made, {key: str(value) for key, value in about.items()})
    made.doc_string = "An embedding network for deep clustering, written by dpcl."
    onnx.checker.check_model(made)
    return cast(bytes, made.SerializeToString())


class _Graph(nn.Module):
    """What is traced: a module, an example of what it takes, and the names of what goes in and out.

    Frames come first everywhere, so that one frame is what is left without that axis.
    """

    example: tuple[Tensor, ...]
    inputs: list[str]
    frames: dict[str, dict[int, str]]  # which axes of what can have any length

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network, self.signal = model.network, model.settings.signal
        heads = model.network.heads
        self.outputs = ["embeddings"] * bool(heads.embedding) + ["masks"] * bool(heads.masks)

    def read(self, encoded: Tensor) -> list[Tensor]:
        """What was encoded (1, L, H) -> what the heads say of it: (L, F, K), (L, C, F)."""
        network, heads = self.network, self.network.heads
        said = []
        if heads.embedding:
            said.append(network.embed(encoded).view(-1, len(network.mean), heads.embedding))
        if heads.masks:
            said.append(network.infer_masks(encoded, heads.masks)[0].transpose(0, 1))
        return said


class _Whole(_Graph):
    """All frames of a mixture at once."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.example = (torch.rand(FRAMES, len(self.network.mean)),)
        self.inputs = ["magnitude"]
        self.frames = {name: {0: "frames"} for name in [*self.inputs, *self.outputs]}

    def forward(self, magnitude: Tensor) -> list[Tensor]:
        features = self.signal.features(magnitude.unsqueeze(0))
        return self.read(self.network.encode(features))


class _Step(_Graph):
    """One frame of a stream, and all that the next one hangs on."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        magnitude = torch.rand(len(self.network.mean))
        _, state = self.network.encode_next(magnitude[None])
        _, later = self.network.encode_next(magnitude[None], state)
        leaves, self.layout = tree_flatten(state)
        # What a network merely keeps at hand stays the same from frame to frame.
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
        # As running_log_magnitude, but not in logarithms: zero is then where nothing was encoded.
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
            *(said[0] for said in self.read(encoded[None])),
            loudest,
            *(x for x, kept in after if kept is None),
        ]
