"""Write the voice encoder of Resemblyzer as ONNX, the teacher of recipes/voices.yaml.

    pip install onnx onnxruntime && pip install --no-deps Resemblyzer==0.1.4
    python examples/voice_teacher.py teacher.onnx

Resemblyzer (Apache-2.0) has the encoder of Wan et al. 2018, "Generalized end-to-end loss for
speaker verification". The graph maps samples (B, T) at 16 kHz to vectors (B, 256).
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

RATE, WINDOW, HOP, MELS = 16000, 400, 160, 40
LEVEL_DB = (
    -30.0
)  # of the root mean square, over the frames that are not far softer than the loudest


class Encoder(nn.Module):
    """Mel energies, three LSTM layers and a linear layer."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.lstm = nn.LSTM(MELS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
        self.load_state_dict({k: v for k, v in state.items() if k.startswith(("lstm", "linear"))})
        turns = np.outer(np.arange(WINDOW // 2 + 1), np.arange(WINDOW)) / WINDOW
        waves = np.exp(-2j * np.pi * turns) * torch.hann_window(WINDOW).numpy()
        self.waves = torch.from_numpy(np.concatenate([waves.real, waves.imag])).float().unsqueeze(1)
        self.mels = mel_bands()

    def forward(self, samples: Tensor) -> Tensor:
        """Return vectors (B, 256) of samples (B, T)."""
        power = functional.avg_pool1d(samples.square().unsqueeze(1), WINDOW, WINDOW)[:, 0]  # (B, l)
        loud = (power > 0.01 * power.amax(1, keepdim=True)).float()
        power = (power * loud).sum(1, keepdim=True) / loud.sum(1, keepdim=True).clamp_min(1.0)
        samples = samples * 10 ** (LEVEL_DB / 20) / power.clamp_min(1e-12).sqrt()
        padded = functional.pad(samples, (WINDOW // 2, WINDOW // 2)).unsqueeze(1)
        parts = functional.conv1d(padded, self.waves, stride=HOP)  # (B, 2 * bins, l)
        real, imaginary = parts.chunk(2, 1)
        energy = self.mels @ (real.square() + imaginary.square())  # (B, MELS, l)
        last = self.lstm(energy.transpose(1, 2))[0][:, -1]
        return functional.normalize(self.linear(last).relu(), dim=-1)


def mel_bands() -> Tensor:
    """Return the weights (MELS, bins) of bands of equal width on the scale of Slaney 1998."""
    highest = 15 + np.log(RATE / 2 / 1000) / (np.log(6.4) / 27)
    mels = np.linspace(0, highest, MELS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    hertz = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rising = (hertz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - hertz) / np.diff(edges)[1:, None]
    bands = np.minimum(rising, falling).clip(0) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return torch.from_numpy(bands).float()


def main() -> None:
    spec = importlib.util.find_spec("resemblyzer")
    if spec is None or spec.origin is None or len(sys.argv) != 2:
        sys.exit(__doc__)
    encoder = Encoder(Path(spec.origin).parent / "pretrained.pt").eval()
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
