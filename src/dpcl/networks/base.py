"""Base class of the trunks: feature normalisation, embedding and mask heads, unit norms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.jit import is_tracing  # type: ignore[attr-defined]
from torch.nn import functional

from dpcl.networks.precision import in_bfloat16, in_int8, input_dtype


def random_vectors(number: int, width: int, deviation: float = 1.0) -> nn.Parameter:
    """A parameter (number, width) of normal numbers.

    On the meta device, where load_model replaces them, it draws none: for that torch would load
    parts of its compiler, up to a second of imports.
    """
    vectors = torch.empty(number, width)
    if not vectors.is_meta:
        vectors.normal_(std=deviation)
    return nn.Parameter(vectors)


# Rows that a CPU handles at once: what lies between two operations stays in its cache.
BLOCK = 4096
# A shorter row has no direction; it is scaled by this instead of by its length, and stays short.
SHORTEST = 1e-12


def unit_length(vectors: Tensor) -> Tensor:
    """vectors (..., K), any float type -> the same directions with length one, float32 at least.

    As torch.nn.functional.normalize; forward and backward take about half its time on a CPU with
    K = 20, a third where the vectors are bfloat16.
    """
    if is_tracing():  # type: ignore[no-untyped-call]  # onnx_graph: no blocks there
        return functional.normalize(vectors.float(), dim=-1, eps=SHORTEST)
    result: Tensor = _UnitLength.apply(vectors)  # type: ignore[no-untyped-call]
    return result


class _UnitLength(torch.autograd.Function):
    """v = x / |x|, dx = (dv - v (v.dv)) / |x|."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        rows = vectors.reshape(-1, vectors.shape[-1])  # (rows, K)
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        units = torch.empty(rows.shape, dtype=dtype, device=rows.device)
        scale = torch.empty(len(rows), 1, dtype=dtype, device=rows.device)  # 1 / |x|
        for block in _blocks(rows):
            x = rows[block].to(dtype)
            squares = (x * x).sum(-1, keepdim=True)
            scale[block] = squares.clamp_min_(SHORTEST**2).rsqrt_()
            torch.mul(x, scale[block], out=units[block])
        ctx.save_for_backward(units, scale)
        ctx.dtype = vectors.dtype
        return units.view(vectors.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        units, scale = ctx.saved_tensors
        grad = grads[0].reshape(units.shape)
        result = torch.empty(units.shape, dtype=ctx.dtype, device=units.device)
        for block in _blocks(units):
            v, dv = units[block], grad[block]
            along = (v * dv).sum(-1, keepdim=True)  # (block, 1)
            result[block] = torch.addcmul(dv, v, along, value=-1).mul_(scale[block])
        return result.view(grads[0].shape)


def _blocks(rows: Tensor) -> Iterator[slice]:
    """The rows that are handled at once: on a GPU, all of them."""
    size = BLOCK if rows.device.type == "cpu" else max(1, len(rows))
    for start in range(0, len(rows), size):
        yield slice(start, start + size)


# How the names of what is not trunk begin, in a file of weights.
HEADS = (
    "project.", "mask_head.", "background_head.", "count_head.", "anchors", "log_alpha", "enhance.",
)  # fmt: skip

Activation = Literal["none", "tanh", "logistic"]


@dataclass(frozen=True)
class Heads:
    """What is read off the trunk."""

    embedding: int = 0  # K; none without an embedding head
    masks: int = 0  # C of the mask head; none without one
    activation: Activation = "none"  # on the embeddings before they get unit length
    unit: bool = True  # give them unit length
    anchors: int = 0  # trainable points among the embeddings
    background: bool = False  # log odds that the background dominates a bin
    counts: int = 0  # classes 0, 1, ... of the number of talkers in a frame; 0 without the head


class Outputs(NamedTuple):
    """What a network says of a mixture; None for a head that it does not have."""

    embeddings: Tensor | None  # (B, L*F, K)
    masks: Tensor | None  # (B, C, L, F), adding up to one in each bin


class EmbeddingNetwork(nn.Module):
    """Log-magnitude features of a mixture to an embedding per bin, masks, or both.

    bins: frequency bins F; width: values a frame that the trunk gives, or values a bin where it is
    `per_bin`; dropout: before the heads.

    A subclass is a trunk: it says what `encode` is. Two heads on one trunk are the chimera network
    (Luo et al. 2017; Wang, Le Roux, Hershey 2018); a mask head alone is mask inference; anchors
    are those of the anchored attractor network (Luo, Chen, Mesgarani 2018).
    """

    mean: Tensor
    std: Tensor
    causal = False  # hears forward in time only, so that `encode_next` is there for streams

    def __init__(
        self, bins: int, width: int, heads: Heads, dropout: float = 0.0, per_bin: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.per_bin = heads, dropout, per_bin
        columns = 1 if per_bin else bins
        if heads.embedding:
            self.project = nn.Linear(width, columns * heads.embedding)
        if heads.masks:
            self.mask_head = nn.Linear(width, columns * heads.masks)
        if heads.background:
            self.background_head = nn.Linear(width, columns)
        if heads.anchors:
            self.anchors = random_vectors(heads.anchors, heads.embedding)
        # Statistics of the training features, one per bin; they travel with the weights.
        self.register_buffer("mean", torch.zeros(bins))
        self.register_buffer("std", torch.ones(bins))

    def forward(
        self, features: Tensor, num_sources: int | None = None, together: int = 1
    ) -> Outputs:
        """features (B, L, F) -> embeddings (B, L*F, K) and masks (B, C, L, F).

        num_sources: C, for a network that gives masks of any number; else that of its head;
        together: so many neighbours of the batch are windows of one mixture and get their masks as
        one, (B/together, C, together*L, F), while each is encoded by itself.
        """
        encoded = self.encode(features)
        count = self.heads.masks if num_sources is None else num_sources
        embeddings = self.embed(encoded) if self.heads.embedding else None
        if not self.gives_masks(count):
            return Outputs(embeddings, None)
        mixtures = len(features) // together
        joined = (
            None if embeddings is None else embeddings.reshape(mixtures, -1, self.heads.embedding)
        )
        encoded = encoded.reshape(mixtures, -1, encoded.shape[-1])
        return Outputs(embeddings, self.infer_masks(encoded, count, joined))

    def encode(self, features: Tensor) -> Tensor:
        """features (B, L, F) -> what the heads need of each frame (B, L, H)."""
        raise NotImplementedError

    def encode_next(self, features: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """As `encode` for the next frames of a stream: features (L, F) -> (L, H), new state.

        For trunks that are `causal`.
        """
        raise NotImplementedError

    def embed(self, encoded: Tensor) -> Tensor:
        """What was encoded of each frame (B, L, H) -> embeddings (B, L*F, K), float32 rows."""
        v = self._head(self.project, encoded).reshape(len(encoded), -1, self.heads.embedding)
        if self.heads.activation == "tanh":
            v = v.tanh()
        elif self.heads.activation == "logistic":
            v = v.sigmoid()
        return unit_length(v) if self.heads.unit else v.float()

    def background(self, encoded: Tensor) -> Tensor:
        """Encoded frames (B, L, H) -> log odds (B, L*F) that the background dominates a bin."""
        return self._head(self.background_head, encoded).reshape(len(encoded), -1).float()

    def frame_counts(self, encoded: Tensor) -> Tensor:
        """Encoded frames (B, L, H) -> logits (B, L, counts) of 0, 1, ... active talkers."""
        raise NotImplementedError

    def gives_masks(self, num_sources: int) -> bool:
        """Whether `infer_masks` can give masks of so many sources."""
        return num_sources == self.heads.masks > 0

    def infer_masks(
        self,
        encoded: Tensor,
        num_sources: int,
        embeddings: Tensor | None = None,
        centroids: Tensor | None = None,
    ) -> Tensor:
        """What was encoded of each frame (B, L, H) -> masks (B, C, L, F), adding up to one.

        embeddings: (B, L*F, K) of it, where they are there already; centroids: (B, C, K) of the
        sources, where they are known. A mask head needs neither.
        """
        bins = len(self.mean)
        scores = self._head(self.mask_head, encoded).reshape(*encoded.shape[:2], bins, num_sources)
        return scores.float().softmax(-1).permute(0, 3, 1, 2)

    def in_bfloat16(self) -> EmbeddingNetwork:
        """A copy that multiplies bfloat16, half the size (see precision)."""
        copy = cast(EmbeddingNetwork, in_bfloat16(self))
        copy.mean, copy.std = self.mean.clone(), self.std.clone()  # features stay exact
        return copy

    def in_int8(self) -> EmbeddingNetwork:
        """A copy whose LSTMs and linear layers multiply 8-bit integers (see precision)."""
        return cast(EmbeddingNetwork, in_int8(self))

    def _head(self, head: nn.Linear, encoded: Tensor) -> Tensor:
        """(B, L, H) -> (B, L, columns * values): of a per-bin trunk (B, L, F, values)."""
        encoded = functional.dropout(encoded, self.dropout, self.training)
        if not torch.is_autocast_enabled(encoded.device.type):
            encoded = encoded.to(input_dtype(head))
        if encoded.shape[-1] != head.in_features:  # values of all bins, one after the other
            encoded = encoded.reshape(*encoded.shape[:-1], -1, head.in_features)
        result: Tensor = head(encoded)
        return result
