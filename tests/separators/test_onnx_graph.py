"""What ONNX Runtime makes of the graph is what the network says: any length, or frame by frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.model import Model, ModelSettings, build_network
from dpcl.separators.onnx_graph import onnx_graph

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

BINS = 33
WHOLE = [
    {"kind": "blstm", "layers": 2, "width": 8},
    {"kind": "blstm", "layers": 1, "width": 8, "masks": 2},
    {"kind": "blstm", "layers": 1, "width": 8, "masks": 3, "embedding": 0},
    {"kind": "blstm", "layers": 1, "width": 8, "unit": False},
    {"kind": "lstm", "layers": 2, "width": 8},
    {"kind": "conv", "layers": 3, "width": 8},
    {"kind": "dual_path", "layers": 2, "width": 8},
    {"kind": "conv", "layers": 2, "width": 8, "unfolded": {}},
]
STREAMS = [
    {"kind": "lstm", "layers": 2, "width": 8},
    {"kind": "lstm", "layers": 2, "width": 8, "masks": 2},
    {"kind": "causal_conv", "layers": 3, "width": 8},
    {"kind": "causal_dual_path", "layers": 2, "width": 8},
    {"kind": "causal_dual_path", "layers": 1, "width": 8, "unfolded": {}},
]


def model_of(network: dict[str, object], level: str) -> Model:
    """A model of random weights and statistics."""
    torch.manual_seed(0)
    settings = ModelSettings.model_validate(
        {
            "signal": {"sample_rate": 8000, "window": 64, "hop": 16, "level": level},
            "network": {"embedding": 5, "dropout": 0.5} | network,
            "masks": {"head": "masks" if "masks" in network else "embedding"},
        }
    )
    made = build_network(settings).eval()
    made.mean.normal_()
    made.std.uniform_(0.5, 2)
    return Model(settings, made, {})


def session(model: Model) -> Any:
    return onnxruntime.InferenceSession(onnx_graph(model), providers=["CPUExecutionProvider"])


def said(model: Model, magnitude: Tensor) -> dict[str, np.ndarray]:
    """What the network itself makes of magnitudes (L, F), frames first."""
    with torch.no_grad():
        outputs = model.network(model.settings.signal.features(magnitude[None]))
    found = {}
    if outputs.embeddings is not None:
        found["embeddings"] = outputs.embeddings.view(*magnitude.shape, -1).numpy()
    if outputs.masks is not None:
        found["masks"] = outputs.masks[0].transpose(0, 1).numpy()
    return found


@pytest.mark.parametrize("network", WHOLE, ids=str)
def test_any_number_of_frames_as_the_network(network: dict[str, object]) -> None:
    model = model_of(network, "whole")
    graph = session(model)
    names = [output.name for output in graph.get_outputs()]
    for magnitude in (torch.rand(1, BINS), torch.rand(40, BINS), torch.rand(91, BINS) * 1e-3):
        expected = said(model, magnitude)
        assert names == list(expected)
        for name, found in zip(
            names, graph.run(None, {"magnitude": magnitude.numpy()}), strict=True
        ):
            np.testing.assert_allclose(found, expected[name], atol=3e-6)


@pytest.mark.parametrize("network", STREAMS, ids=str)
def test_frame_by_frame_as_the_network(network: dict[str, object]) -> None:
    model = model_of(network, "running")
    graph = session(model)
    magnitude = torch.rand(50, BINS) * torch.logspace(-2, 1, 50)[torch.randperm(50)].unsqueeze(-1)
    magnitude[:2] = 0  # a stream that begins with silence
    expected = said(model, magnitude)
    state = {x.name: np.zeros(x.shape, np.float32) for x in graph.get_inputs()}
    names = [output.name for output in graph.get_outputs()]
    assert {f"next_{name}" for name in state if name != "magnitude"} | set(expected) == set(names)
    for number, frame in enumerate(magnitude.numpy()):
        found = dict(zip(names, graph.run(None, state | {"magnitude": frame}), strict=True))
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values[number], atol=3e-6)
        state = {name: found[f"next_{name}"] for name in state if name != "magnitude"}


def test_silence_is_finite() -> None:
    model = model_of(WHOLE[0], "whole")
    (embeddings,) = session(model).run(None, {"magnitude": np.zeros((7, BINS), np.float32)})
    assert np.isfinite(embeddings).all()


def test_the_file_says_what_stft_it_wants_and_how_masks_are_made() -> None:
    about = session(model_of(WHOLE[0], "whole")).get_modelmeta().custom_metadata_map
    stft = {"sample_rate": "8000", "window": "64", "hop": "16", "level": "whole"}
    masks = {"head": "embedding", "centroids": "kmeans", "similarity": "cosine"}
    bins = {"weighting": "threshold", "floor_db": "-40.0"}
    assert about == stft | masks | bins  # no sharpness: masks are binary


def test_making_a_graph_leaves_the_network_as_it_was() -> None:
    model = model_of(WHOLE[1], "whole")
    magnitude = torch.rand(9, BINS)
    before = said(model, magnitude)
    onnx_graph(model)
    after = said(model, magnitude)
    assert all((after[name] == values).all() for name, values in before.items())


def test_what_onnx_has_no_operator_for_is_refused() -> None:
    with pytest.raises(InputError, match="whole recording"):
        onnx_graph(model_of(WHOLE[0], "running"))
