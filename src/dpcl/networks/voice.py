"""Voice encoder: vectors that identify talkers, for recordings of conversations.

CAM++ by 3D-Speaker, which learned from 200,000 talkers. A window of a recording runs through it in
one pass, so that overlapping stretches share the work.

Source: Wang et al. 2023, "CAM++: a fast and efficient network for speaker verification using
context-aware masking".
"""

from __future__ import annotations

import math
from functools import cache
from importlib import resources

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from dpcl.networks.precision import fastest

RATE = 16000  # Hz
FRAME, SHIFT, FFT, MELS = 400, 160, 512, 80  # samples of a frame, between frames, of the transform
FULL_SCALE = 32768.0  # of the samples, as in the training
FAINTEST = 1.2e-7  # least energy of a band
CHANNELS, GROWTH, HIDDEN = 32, 32, 128  # of 2-D convolutions; added and inner ones of a dense layer
DENSE = (12, 1), (24, 2), (16, 2)  # layers of each dense block, and their dilation
SECONDS = 2 * SHIFT / RATE  # between encoded frames
CONTEXT = 25  # encoded frames of a block; the context of a frame is its block and both neighbours
SIZE = 192  # values D of a vector
LEAST = 1e-5  # least variance of a value, and sum of weights
SPEECH_STEP = 5  # encoded frames from one probability of speech to the next


class VoiceEncoder(nn.Module):
    """Network from samples to encoded frames, and from pooled frames to voice vectors.

    Batch normalisations of the published network are part of the convolutions, or a scale and a
    shift. The context of a frame spans 1.5 s and moves with it; published, it is the whole input.
    """

    waves: Tensor
    mels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", waves(), persistent=False)
        self.register_buffer("mels", mel_bands(), persistent=False)
        self.first = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.residual = nn.Sequential(*(Residual(stride) for stride in (2, 1, 2, 1)))
        self.last = nn.Conv2d(CHANNELS, CHANNELS, 3, (2, 1), padding=1)
        channels = HIDDEN
        self.time = nn.Conv1d(CHANNELS * MELS // 8, channels, 5, 2, padding=2)
        self.dense = nn.Sequential()
        for layers, dilation in DENSE:
            sizes = [channels + GROWTH * number for number in range(layers + 1)]
            block = [DenseLayer(size, dilation) for size in sizes[:-1]]
            halved = nn.Conv1d(sizes[-1], sizes[-1] // 2, 1, bias=False)
            self.dense.append(nn.Sequential(*block, Scaled(sizes[-1]), halved))
            channels = sizes[-1] // 2
        self.end = Scaled(channels)
        self.out = nn.Linear(2 * channels, SIZE)
        self.detect = nn.Linear(2 * channels, 1)  # of a file of its own, see `shipped_voices`

    def levels(self, samples: Tensor) -> Tensor:
        """Compute log-mel levels.

        Args:
            samples: (N, T) at 16 kHz.

        Returns:
            Levels (N, l, MELS), one frame every 10 ms; the first is centred at sample 0.
        """
        padded = functional.pad(FULL_SCALE * samples[:, None], (FRAME // 2, FRAME // 2))
        real, imaginary = functional.conv1d(padded, self.waves, stride=SHIFT).chunk(2, 1)
        energies = self.mels @ (real.square() + imaginary.square())
        return energies.clamp_min(FAINTEST).log().mT

    def forward(self, levels: Tensor) -> Tensor:
        """Encode levels.

        Args:
            levels: (N, l, MELS), without their mean over time.

        Returns:
            Encoded frames (N, channels, ceil(l / 2)), one every 20 ms.
        """
        with torch.autocast("cpu", torch.bfloat16, enabled=fastest(False) == "bfloat16"):
            x = levels.mT.unsqueeze(1).contiguous(memory_format=torch.channels_last)
            x = self.first(x).relu()
            x = self.last(self.residual(x)).relu().flatten(1, 2)  # (N, CHANNELS * MELS / 8, l)
            encoded: Tensor = self.end(self.dense(self.time(x).relu())).float()
        return encoded

    def encode(self, samples: Tensor, weights: Tensor | None = None) -> Tensor:
        """Encode samples.

        Args:
            samples: (N, T) at 16 kHz.
            weights: (N, L) of L frames from the first sample to the last, in the mean level of each
                band, which the network does not get; None for equal ones.

        Returns:
            Encoded frames (N, channels, l), one every 20 ms.
        """
        levels = self.levels(samples)
        if weights is None:
            weights = levels.new_ones(len(levels), 1)
        places = torch.linspace(0, weights.shape[1] - 1, levels.shape[1]).round().long()
        weights = weights[:, places].unsqueeze(-1)
        mean = (weights * levels).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp_min(
            LEAST
        )
        encoded: Tensor = self(levels - mean)
        return encoded

    def speech(self, encoded: Tensor) -> Tensor:
        """Estimate where there is speech, from half a second of encoded frames.

        Args:
            encoded: (N, channels, l).

        Returns:
            Log odds (N, n) of speech, one every SPEECH_STEP encoded frames from the first.
        """
        pooled = [
            functional.avg_pool1d(x, CONTEXT, SPEECH_STEP, CONTEXT // 2, count_include_pad=False)
            for x in (encoded, encoded.square())
        ]
        odds: Tensor = self.detect(statistics(*pooled).mT)
        return odds[..., 0]

    def vectors(self, moments: Tensor) -> Tensor:
        """Turn pooled moments into voice vectors.

        Args:
            moments: (..., 1 + 2 * channels, n), sums of the weights of frames, and of the encoded
                frames and their squares times these weights: see `moments`.

        Returns:
            Vectors (..., n, D) of unit length.
        """
        channels = self.out.in_features // 2
        total, first, second = torch.split(moments, [1, channels, channels], -2)
        total = total.clamp_min(1e-6)
        vectors: Tensor = self.out(statistics(first / total, second / total).mT)
        return functional.normalize(vectors, dim=-1)


class Scaled(nn.Module):
    """Scale and shift of every channel, then ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale x (N, C, l)."""
        scaled: Tensor = (x * self.scale.to(x)).add_(self.shift.to(x)).relu_()
        return scaled


class Residual(nn.Module):
    """Two 3x3 convolutions over mel bands and time beside a shortcut."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(CHANNELS, CHANNELS, 3, (stride, 1), padding=1)
        self.two = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.shortcut = nn.Conv2d(CHANNELS, CHANNELS, 1, (stride, 1)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, CHANNELS, bands, l) to (N, CHANNELS, bands / stride, l)."""
        y = self.two(self.one(x).relu())
        out: Tensor = (y + (x if self.shortcut is None else self.shortcut(x))).relu()
        return out


class DenseLayer(nn.Module):
    """Convolution along time, masked by its context; the output joins the input.

    Source: section 2.2 of the paper, context-aware masking.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.scaled = Scaled(channels)
        self.squeeze = nn.Conv1d(channels, HIDDEN, 1)
        self.local = nn.Conv1d(HIDDEN, GROWTH, 3, padding=dilation, dilation=dilation, bias=False)
        self.context = nn.Conv1d(HIDDEN, HIDDEN // 2, 1)
        self.mask = nn.Conv1d(HIDDEN // 2, GROWTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (N, C, l) with GROWTH more channels."""
        y = self.squeeze(self.scaled(x)).relu()
        mask = self.mask(self.context(2 * around(y)).relu()).sigmoid()  # (N, GROWTH, blocks)
        masked = self.local(y) * mask.repeat_interleave(CONTEXT, -1)[..., : y.shape[-1]]
        return torch.cat([x, masked], 1)


def statistics(mean: Tensor, square: Tensor) -> Tensor:
    """Return mean and deviation (..., 2 * channels, n) from the means of values and squares."""
    return torch.cat([mean, (square - mean.square()).clamp_min(LEAST).sqrt()], -2)


def around(x: Tensor) -> Tensor:
    """Return the mean of every block of CONTEXT frames and both neighbours.

    Args:
        x: (N, C, l).

    Returns:
        Means (N, C, ceil(l / CONTEXT)).
    """
    length = x.shape[-1]
    padded = functional.pad(x, (0, -length % CONTEXT))
    blocks = padded.view(*x.shape[:2], -1, CONTEXT).sum(-1)
    sizes = x.new_full((blocks.shape[-1],), CONTEXT)
    sizes[-1] = length - CONTEXT * (len(sizes) - 1)
    near = (torch.arange(len(sizes))[:, None] - torch.arange(len(sizes))).abs() <= 1
    weights = near.to(x)
    means: Tensor = blocks @ weights / (sizes @ weights)
    return means


def moments(encoded: Tensor, weights: Tensor) -> Tensor:
    """Sum encoded frames and their squares.

    Args:
        encoded: (N, channels, l).
        weights: (N, l, n), weight of each frame in each of n sums.

    Returns:
        Sums (N, 1 + 2 * channels, n) of the weights, the frames and their squares.
    """
    ones = torch.ones_like(encoded[:, :1])
    return torch.cat([ones, encoded, encoded.square()], 1) @ weights


def waves() -> Tensor:
    """Return the filters (2 * bins, 1, FRAME) of Kaldi's transform of a frame."""
    times = torch.arange(FRAME, dtype=torch.float64)
    window = (0.5 - 0.5 * torch.cos(2 * math.pi * times / (FRAME - 1))) ** 0.85
    emphasis = torch.eye(FRAME, dtype=torch.float64)
    emphasis[1:, :-1] -= 0.97 * torch.eye(FRAME - 1, dtype=torch.float64)
    emphasis[0, 0] -= 0.97
    without_mean = torch.eye(FRAME, dtype=torch.float64) - 1 / FRAME
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


def in_bytes(encoder: VoiceEncoder) -> bytes:
    """Return a safetensors file of the weights: 8 bits, and a scale for every output channel."""
    tensors = {}
    for name, value in encoder.state_dict().items():
        if name.startswith("detect."):
            continue
        if name.endswith("weight"):
            rows = value.flatten(1)
            scale = rows.abs().amax(1).clamp_min(1e-12) / 127
            tensors[name] = (rows / scale[:, None]).round().to(torch.int8).view_as(value)
            tensors[f"{name}.scale"] = scale
        else:
            tensors[name] = value.contiguous()
    return save(tensors)


def from_bytes(data: bytes, detector: bytes) -> VoiceEncoder:
    """Return the encoder of a file that `in_bytes` made, and of weights that detect speech."""
    tensors = load(data)
    weights = {f"detect.{name}": value for name, value in load(detector).items()}
    for name, value in tensors.items():
        if value.dtype == torch.int8:
            scale = tensors[f"{name}.scale"].view(-1, *[1] * (value.ndim - 1))
            weights[name] = value.float() * scale
        elif not name.endswith(".scale") or name.removesuffix(".scale") not in tensors:
            weights[name] = value
    with torch.device("meta"):
        encoder = VoiceEncoder()
    encoder.waves, encoder.mels = waves(), mel_bands()
    encoder.load_state_dict(weights, assign=True)
    return encoder.eval().requires_grad_(False)


@cache
def shipped_voices() -> VoiceEncoder:
    """Return the encoder that ships."""
    folder = resources.files("dpcl") / "weights" / "voices"
    files = (folder / f"{name}.safetensors" for name in ("encoder", "speech"))
    return from_bytes(*(file.read_bytes() for file in files))
