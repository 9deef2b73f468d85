"""Base class of the trunks: feature normalisation, embedding and mask heads, unit norms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.jit import is_tracing  # type: ignore[attr-defined]
from torch.nn import functional

from dpcl.networks.precision import in_bfloat16, in_int8

if TYPE_CHECKING:
    from dpcl.networks.unfolded import UnfoldedClustering


def random_vectors(number: int, width: int, deviation: float = 1.0) -> nn.Parameter:
    """Return a parameter (number, width) of normal random numbers.

    On the meta device, where `load_model` replaces the values, none are drawn: drawing there makes
    torch load parts of its compiler, up to a second of imports.

    Args:
        number: number of vectors.
        width: values of a vector.
        deviation: standard deviation of the values.
    """
    vectors = torch.empty(number, width)
    if not vectors.is_meta:
        vectors.normal_(std=deviation)
    return nn.Parameter(vectors)


# Rows that a CPU processes in one step, so that intermediate results stay in its cache.
BLOCK = 4096
# Length below which a row has no direction: it is divided by SHORTEST instead of by its length.
SHORTEST = 1e-12


def unit_length(vectors: Tensor) -> Tensor:
    """Normalise vectors to unit length.

    Same result as torch.nn.functional.normalize. Forward and backward take about half its time on a
    CPU with K = 20, and a third for bfloat16 vectors.

    Args:
        vectors: (..., K), any float type.

    Returns:
        The same directions with length one, float32 at least.

    Example:
        >>> unit_length(torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
    """
    if is_tracing():  # type: ignore[no-untyped-call]  # traced for ONNX: without blocks
        return functional.normalize(vectors.float(), dim=-1, eps=SHORTEST)
    result: Tensor = _UnitLength.apply(vectors)  # type: ignore[no-untyped-call]
    return result


class _UnitLength(torch.autograd.Function):
    """Autograd function v = x / |x|, dx = (dv - v (v.dv)) / |x|, in blocks of rows."""

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
    """Yield the slices of rows that are processed in one step: on a GPU, one slice of all rows."""
    size = BLOCK if rows.device.type == "cpu" else max(1, len(rows))
    for start in range(0, len(rows), size):
        yield slice(start, start + size)


Activation = Literal["none", "tanh", "logistic"]


@dataclass(frozen=True)
class Heads:
    """Heads on a trunk, and the sizes of their outputs."""

    embedding: int = 0  # values K of an embedding; 0 without the embedding head
    masks: int = 0  # sources C of the mask head; 0 without the head
    activation: Activation = "none"  # function applied to embeddings before they are normalised
    unit: bool = True  # normalise embeddings to unit length
    anchors: int = 0  # trainable points among the embeddings
    background: bool = False  # head with the log odds that the background dominates a bin
    counts: int = 0  # classes 0, 1, ... of the number of talkers in a frame; 0 without


class Outputs(NamedTuple):
    """Outputs of a network for a batch of mixtures; None for a head that it does not have."""

    embeddings: Tensor | None  # (B, L*F, K)
    masks: Tensor | None  # (B, C, L, F), summing to one in each bin


class Predictions(NamedTuple):
    """Outputs of the heads that know bins and frames; None for a head that a network lacks."""

    embeddings: Tensor  # (B, L*F, K)
    background: Tensor | None  # log odds (B, L*F)
    counts: Tensor | None  # logits (B, L, counts)


class EmbeddingNetwork(nn.Module):
    """Network from log-magnitude features to an embedding per bin, masks, or both.

    A subclass is a trunk: it defines `encode`. Heads are added to it, each by `add_head`. Two heads
    on one trunk are the chimera network (Luo et al. 2017; Wang, Le Roux, Hershey 2018). A mask head
    alone is mask inference. Anchors belong to the anchored attractor network (Luo, Chen, Mesgarani
    2018). Unfolded clustering is a head on the embeddings.

    Args:
        bins: number of frequency bins F.
        width: values of the trunk for each frame, or for each bin if `per_bin`.
        heads: heads and the sizes of their outputs.
        dropout: probability, before the heads.
        per_bin: the trunk gives values for every bin.
    """

    mean: Tensor
    std: Tensor
    # heads, which `add_head` adds
    project: nn.Linear
    mask_head: nn.Linear
    background_head: nn.Linear
    anchors: nn.Parameter
    causal = False  # encodes forward in time only; `encode_next` is then available for streams
    integers = True  # products of 8-bit integers may be the fastest

    def __init__(
        self, bins: int, width: int, heads: Heads, dropout: float = 0.0, per_bin: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.per_bin = heads, dropout, per_bin
        self._head_names: set[str] = set()
        self.unfolded: UnfoldedClustering | None = None  # a head that `NetworkSettings.build` adds
        columns = 1 if per_bin else bins
        if heads.embedding:
            self.add_head("project", nn.Linear(width, columns * heads.embedding))
        if heads.masks:
            self.add_head("mask_head", nn.Linear(width, columns * heads.masks))
        if heads.background:
            self.add_head("background_head", nn.Linear(width, columns))
        if heads.anchors:
            self.add_head("anchors", random_vectors(heads.anchors, heads.embedding))
        # Mean and deviation of the training features of each bin, saved with the weights.
        self.register_buffer("mean", torch.zeros(bins))
        self.register_buffer("std", torch.ones(bins))

    def add_head(self, name: str, head: nn.Module | nn.Parameter) -> None:
        """Add a head as an attribute; a head of the same name is replaced.

        Args:
            name: name of the attribute, and of its weights in a file.
            head: module, or parameter.
        """
        self._head_names.add(name)
        setattr(self, name, head)

    def is_head(self, weight: str) -> bool:
        """Return True if a weight, by its name in `state_dict`, is of a head, not of the trunk."""
        return weight.partition(".")[0] in self._head_names

    def normalise(self, features: Tensor) -> Tensor:
        """Normalise features (..., F) by mean and deviation of the training features."""
        return (features - self.mean) / self.std

    def predict(self, features: Tensor) -> Predictions:
        """Predict embeddings, background and number of talkers from features (B, L, F)."""
        encoded = self.encode(features)
        return Predictions(
            self.embed(encoded),
            self.background(encoded) if self.heads.background else None,
            self.frame_counts(encoded) if self.heads.counts else None,
        )

    def forward(
        self,
        features: Tensor,
        num_sources: int | None = None,
        together: int = 1,
        detect: bool = False,
    ) -> Outputs | Predictions:
        """Predict embeddings and masks, or embeddings, background and number of talkers.

        Args:
            features: (B, L, F).
            num_sources: number of sources C, for a network that predicts masks of any number; None
                for the number of its mask head.
            together: number of neighbours in the batch that are windows of one mixture. Each window
                is encoded by itself; the masks are predicted jointly.
            detect: return `predict(features)`; training passes through here, where mixed precision
                applies.

        Returns:
            Embeddings (B, L*F, K) and masks (B/together, C, together*L, F).
        """
        if detect:
            return self.predict(features)
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
        features = features.reshape(mixtures, -1, features.shape[-1])
        return Outputs(embeddings, self.infer_masks(encoded, count, features, joined))

    def encode(self, features: Tensor) -> Tensor:
        """Encode frames for the heads.

        Args:
            features: (B, L, F).

        Returns:
            Encoded frames (B, L, H).
        """
        raise NotImplementedError

    def encode_next(self, features: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Encode the next frames of a stream; only for trunks that are `causal`.

        Args:
            features: (L, F).
            state: state after the previous frames; None at the start.

        Returns:
            Encoded frames (L, H) and the new state.
        """
        raise NotImplementedError

    def embed(self, encoded: Tensor) -> Tensor:
        """Embed the bins of encoded frames.

        Args:
            encoded: (B, L, H).

        Returns:
            Embeddings (B, L*F, K), float32 rows.
        """
        v = self._head(self.project, encoded).reshape(len(encoded), -1, self.heads.embedding)
        if self.heads.activation == "tanh":
            v = v.tanh()
        elif self.heads.activation == "logistic":
            v = v.sigmoid()
        return unit_length(v) if self.heads.unit else v.float()

    def background(self, encoded: Tensor) -> Tensor:
        """Predict the log odds that the background dominates a bin.

        Args:
            encoded: (B, L, H).

        Returns:
            Log odds (B, L*F).
        """
        return self._head(self.background_head, encoded).reshape(len(encoded), -1).float()

    def frame_counts(self, encoded: Tensor) -> Tensor:
        """Predict the number of active talkers in each frame.

        Args:
            encoded: (B, L, H).

        Returns:
            Logits (B, L, counts) of 0, 1, ... talkers.
        """
        raise NotImplementedError

    def gives_masks(self, num_sources: int) -> bool:
        """Return True if `infer_masks` can predict masks of this number of sources."""
        if self.unfolded is not None:
            return num_sources > 0
        return num_sources == self.heads.masks > 0

    def infer_masks(
        self,
        encoded: Tensor,
        num_sources: int,
        features: Tensor | None = None,
        embeddings: Tensor | None = None,
        centroids: Tensor | None = None,
    ) -> Tensor:
        """Predict masks from encoded frames. A mask head needs no argument but the first two.

        Args:
            encoded: (B, L, H).
            num_sources: number of sources C.
            features: (B, L, F), which `encoded` is of; for unfolded clustering.
            embeddings: (B, L*F, K) of these frames, if computed already.
            centroids: (B, C, K) of the sources, if known.

        Returns:
            Masks (B, C, L, F), summing to one in each bin.
        """
        if self.unfolded is not None:
            assert features is not None
            if embeddings is None:
                embeddings = self.embed(encoded)
            masks: Tensor = self.unfolded(
                features, embeddings, num_sources, centroids, self.normalise
            )
            return masks
        bins = len(self.mean)
        scores = self._head(self.mask_head, encoded).reshape(*encoded.shape[:2], bins, num_sources)
        return scores.float().softmax(-1).permute(0, 3, 1, 2)

    def in_bfloat16(self) -> EmbeddingNetwork:
        """Return a copy that multiplies bfloat16 numbers, half the size (see precision)."""
        copy = in_bfloat16(self)
        copy.mean, copy.std = self.mean.clone(), self.std.clone()  # features keep float32
        return copy

    def in_int8(self) -> EmbeddingNetwork:
        """Return a copy whose LSTMs and linear layers multiply 8-bit integers (see precision)."""
        return in_int8(self)

    def _head(self, head: nn.Linear, encoded: Tensor) -> Tensor:
        """Apply a head to (B, L, H): (B, L, columns * values); per bin, (B, L, F, values)."""
        encoded = functional.dropout(encoded, self.dropout, self.training)
        if not torch.is_autocast_enabled(encoded.device.type):
            encoded = encoded.to(input_dtype(head))
        if encoded.shape[-1] != head.in_features:  # the trunk encodes every bin: split them
            encoded = encoded.reshape(*encoded.shape[:-1], -1, head.in_features)
        result: Tensor = head(encoded)
        return result


def lstm_input(inputs: Tensor, lstm: nn.LSTM) -> Tensor:
    """Convert inputs to the type and the size that an LSTM takes.

    Args:
        inputs: (..., I).
        lstm: LSTM, perhaps from `in_bfloat16` or `in_int8`.

    Returns:
        Inputs (..., I') of the type of the LSTM, padded with zeros.
    """
    inputs = inputs.to(input_dtype(lstm))
    missing = lstm.input_size - inputs.shape[-1]
    return functional.pad(inputs, (0, missing)) if missing else inputs


def input_dtype(layer: nn.Module) -> torch.dtype:
    """Return the type of a layer's inputs: its weights' type, or float32 for integer weights."""
    weight = next(layer.parameters(), None)  # layers in int8 have no parameters
    return torch.float32 if weight is None else weight.dtype
