"""Trunk for real recordings: bands of bins, blocks that mix the full band over time.

Each block has three residual steps on the values of N bands in every frame:

    full band   every band gives a few values, a narrow layer turns those of a frame into one
                vector, an LSTM follows this vector over the frames, and the result returns to
                the bands
    local       a gated depthwise convolution over neighbouring frames and bands
    along       an LSTM along the frames of every band

The first step sees the whole spectrum and the whole recording at little cost. The other two keep
the detail that separates talkers within a band.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpcl.networks.base import EmbeddingNetwork, Heads, input_dtype, random_vectors, unit_length
from dpcl.networks.dual_path import band_count, overlapping_bands
from dpcl.networks.lstm import lstm_layers

STRIDE = 8  # bins from one band to the next; a band covers twice this number
SQUEEZED = 16  # values of a band in the vector of a frame
NEIGHBOURS = 5  # bins whose features reach an embedding directly
FRAMES, BANDS = 5, 3  # kernel size of the local convolution
COUNTED, COUNT_WIDTH = 16, 64  # values of a band, and of a frame, in the talker count head


@dataclass(frozen=True)
class Sizes:
    """Sizes of a block, apart from the values of a band.

    Attributes:
        frame: values of the vector of a frame.
        frame_units: units of the LSTM over frames, per direction.
        band_units: units of the LSTM along a band, per direction.
    """

    frame: int = 256
    frame_units: int = 192
    band_units: int = 32


class FullBandEmbedding(EmbeddingNetwork):
    """Trunk with overlapping bands, blocks of three steps, and heads for every bin and every frame.

    Args:
        bins: number of frequency bins F.
        layers: number of blocks.
        width: values D of a band.
        heads: embedding size K, background head, and number of classes of the talker count.
        dropout: probability, after every block.
        causal: not available.
        sizes: sizes of a block.

    Raises:
        ValueError: `causal` is set, or the heads include masks or lack embeddings.

    Sources: overlapping bands and their transposed convolution back to bins of TF-GridNet (Wang et
    al. 2023); mixing of the full band by one linear layer of SpatialNet (Quan and Li 2024); gated
    units (Shazeer 2020).
    """

    count_head: CountHead
    integers = False  # a narrow LSTM in int8 takes twice its time in bfloat16

    def __init__(
        self,
        bins: int,
        layers: int,
        width: int,
        heads: Heads,
        dropout: float = 0.0,
        causal: bool = False,
        sizes: Sizes | None = None,
    ) -> None:
        if causal or heads.masks or not heads.embedding:
            raise ValueError(
                "full_band: needs embeddings, and has neither causal form nor masks;"
                " set `embedding`, or choose another `kind`"
            )
        super().__init__(bins, width, heads, dropout, per_bin=True)
        sizes = sizes or Sizes()
        self.bands = band_count(bins, STRIDE)
        self.split = nn.Linear(2 * STRIDE, width)
        self.place = random_vectors(self.bands, width, 0.1)
        self.blocks = nn.ModuleList(Block(width, self.bands, sizes) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.add_head("project", nn.Linear(width, 2 * STRIDE * heads.embedding))
        self.near = nn.Conv1d(1, heads.embedding, NEIGHBOURS, padding="same")
        if heads.background:
            self.add_head("background_head", nn.Linear(width, 2 * STRIDE))
        if heads.counts:
            self.add_head("count_head", CountHead(width, self.bands, heads.counts))

    def encode(self, features: Tensor) -> Tensor:
        """Encode features (B, L, F) as normalised features and band values (B, L, F + N*D)."""
        normal = self.normalise(features)
        x = self.split(overlapping_bands(normal.to(input_dtype(self.split)), STRIDE)) + self.place
        for block in self.blocks:
            x = functional.dropout(block(x), self.dropout, self.training)
        return torch.cat([normal.to(x.dtype), self.norm(x).flatten(-2)], dim=-1)

    def embed(self, encoded: Tensor) -> Tensor:
        """Embed encoded frames (B, L, F + N*D): float32 rows (B, L*F, K) of length one."""
        size, batch, frames = self.heads.embedding, len(encoded), encoded.shape[1]
        normal, bands = self._parts(encoded)
        joined = self._to_bins(self.project(bands), size)  # (B, L, F, K)
        near = self.near(normal.to(self.near.weight.dtype).reshape(-1, 1, normal.shape[-1]))
        vectors = joined.float() + near.view(batch, frames, size, -1).transpose(2, 3).float()
        return unit_length(vectors.reshape(batch, -1, size))

    def background(self, encoded: Tensor) -> Tensor:
        """Predict the log odds (B, L*F) that the background dominates a bin, from (B, L, H)."""
        joined = self._to_bins(self.background_head(self._parts(encoded)[1]), 1)  # (B, L, F, 1)
        return joined.float().flatten(1)

    def frame_counts(self, encoded: Tensor) -> Tensor:
        """Predict logits (B, L, counts) of 0, 1, ... active talkers, from (B, L, H)."""
        counts: Tensor = self.count_head(self._parts(encoded)[1])
        return counts.float()

    def _parts(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Split encoded frames into normalised features (B, L, F) and bands (B, L, N, D)."""
        bins = len(self.mean)
        bands = encoded[..., bins:].reshape(*encoded.shape[:-1], self.bands, -1)
        return encoded[..., :bins], bands.to(input_dtype(self.split))

    def _to_bins(self, bands: Tensor, values: int) -> Tensor:
        """Sum both bands of each bin: (B, L, N, 2*STRIDE*values) -> (B, L, F, values)."""
        halves = bands.reshape(*bands.shape[:-1], 2, STRIDE, values)
        bins = halves[:, :, 1:, 0] + halves[:, :, :-1, 1]  # (B, L, N - 1, STRIDE, values)
        return bins.flatten(2, 3)[:, :, : len(self.mean)]


class Block(nn.Module):
    """Block of the three steps, for x (B, L, N, D)."""

    def __init__(self, width: int, bands: int, sizes: Sizes) -> None:
        super().__init__()
        self.full_band = FullBand(width, bands, sizes.frame, sizes.frame_units)
        self.local = Local(width)
        self.along = Along(width, sizes.band_units)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, L, N, D) after the block."""
        result: Tensor = self.along(self.local(self.full_band(x)))
        return result


class FullBand(nn.Module):
    """First step: the vector of each frame, followed over time and returned to the bands."""

    def __init__(self, width: int, bands: int, frame: int, units: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.squeeze = nn.Linear(width, SQUEEZED)
        self.gather = nn.Linear(bands * SQUEEZED, frame)
        self.norm_frame = nn.LayerNorm(frame)
        self.lstm = nn.LSTM(frame, units, bidirectional=True)
        self.leave = nn.Linear(2 * units, frame)
        self.scatter = nn.Linear(frame, bands * SQUEEZED)
        self.widen = nn.Linear(SQUEEZED, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, L, N, D) after the step."""
        squeezed = functional.silu(self.squeeze(self.norm(x)))  # (B, L, N, SQUEEZED)
        frame = functional.gelu(self.gather(squeezed.flatten(-2)))  # (B, L, frame)
        followed, _ = lstm_layers(self.lstm, self.norm_frame(frame).transpose(0, 1))
        frame = frame + self.leave(followed).transpose(0, 1)
        back = functional.silu(self.scatter(frame)).view_as(squeezed)
        result: Tensor = x + self.widen(back)
        return result


class Local(nn.Module):
    """Second step: a gated depthwise convolution over neighbouring frames and bands."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 2 * width
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * inner)
        padding = FRAMES // 2, BANDS // 2
        self.conv = nn.Conv2d(inner, inner, (FRAMES, BANDS), padding=padding, groups=inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, L, N, D) after the step."""
        if torch.is_grad_enabled():
            return self._step(x)
        # One recording at a time: the values of several exceed the block of memory that is
        # reused from call to call, and fetching new memory takes longer than the step.
        return torch.cat([self._step(one) for one in torch.split(x, 1)])

    def _step(self, x: Tensor) -> Tensor:
        values, gate = self.up(self.norm(x)).chunk(2, -1)
        values = self.conv(values.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        result: Tensor = x + self.down(functional.silu(values) * gate)
        return result


class Along(nn.Module):
    """Third step: an LSTM along the frames of every band."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.lstm = nn.LSTM(width, units, bidirectional=True)
        self.leave = nn.Linear(2 * units, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, L, N, D) after the step."""
        batch, frames, bands, _ = x.shape
        followed, _ = lstm_layers(self.lstm, self.norm(x).transpose(0, 1).flatten(1, 2))
        result: Tensor = x + self.leave(followed).view(frames, batch, bands, -1).transpose(0, 1)
        return result


class CountHead(nn.Module):
    """Head that predicts the number of active talkers in each frame."""

    def __init__(self, width: int, bands: int, counts: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, COUNTED)
        self.gather = nn.Linear(bands * COUNTED, COUNT_WIDTH)
        self.lstm = nn.LSTM(COUNT_WIDTH, COUNT_WIDTH // 2, bidirectional=True)
        self.leave = nn.Linear(COUNT_WIDTH, counts)

    def forward(self, bands: Tensor) -> Tensor:
        """Predict logits (B, L, counts) from bands (B, L, N, D)."""
        squeezed = functional.silu(self.squeeze(bands)).flatten(-2)
        frame = functional.silu(self.gather(squeezed)).transpose(0, 1)  # (L, B, COUNT_WIDTH)
        followed, _ = lstm_layers(self.lstm, frame)
        result: Tensor = self.leave(followed).transpose(0, 1)
        return result
