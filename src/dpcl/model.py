"""Models: settings, networks and weights files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dpcl.clustering.count import CUES, FRAME_CUES, SOURCE_CUES
from dpcl.errors import InputError
from dpcl.io import atomic
from dpcl.networks.activity import TalkerActivity
from dpcl.networks.base import Activation, EmbeddingNetwork, Heads
from dpcl.networks.convolutional import ConvolutionalEmbedding
from dpcl.networks.dual_path import DualPathEmbedding
from dpcl.networks.full_band import FullBandEmbedding, Sizes
from dpcl.networks.lstm import BLSTMEmbedding
from dpcl.networks.precision import expect_forks
from dpcl.networks.unfolded import UnfoldedClustering, UnfoldedSettings
from dpcl.settings import Settings
from dpcl.signal.features import (
    Weighting,
    first_bin,
    level_log_magnitude,
    log_magnitude,
    running_log_magnitude,
)
from dpcl.signal.stft import STFT

# Trunks by kind, without `causal_`.
TRUNKS: dict[str, type[BLSTMEmbedding | ConvolutionalEmbedding | DualPathEmbedding]] = {
    "blstm": BLSTMEmbedding,
    "lstm": BLSTMEmbedding,
    "conv": ConvolutionalEmbedding,
    "dual_path": DualPathEmbedding,
}
ACTIVITY = "activity."  # prefix of the weights of the activity network in a file
LARGEST = 100_000  # size of a layer; beyond it, numbers of weights overflow
LAYOUT = 2  # of a model file; a newer program may write a higher number
# Beginnings of the names of weights in files of layout 1, and their names today.
RENAMED = {"log_alpha": "unfolded.log_alpha", "enhance.": "unfolded.enhance."}


class SignalSettings(Settings):
    """Settings of the signal: sample rate, STFT and level of the features."""

    sample_rate: int = Field(default=8000, ge=1000, le=192000)  # Hz
    window: int = Field(default=256, ge=16, le=1 << 20)  # samples
    hop: int = Field(default=64, ge=1)  # samples
    # Reference of the features: the loudest bin of the whole mixture (whole), or of the frames so
    # far (running), or a high quantile of the frames' levels above 70 Hz (quantile). DC, rumble and
    # claps do not change the quantile.
    level: Literal["whole", "running", "quantile"] = "whole"

    @model_validator(mode="after")
    def _inverse_exists(self) -> SignalSettings:
        self.stft()  # rejects a window and hop without perfect reconstruction
        return self

    def stft(self) -> STFT:
        """Return the STFT of these settings."""
        return STFT(self.window, self.hop)

    def features(self, spectrum: Tensor) -> Tensor:
        """Compute the features that the network gets.

        Args:
            spectrum: (..., L, F), complex or magnitude.

        Returns:
            Features (..., L, F).
        """
        if self.level == "whole":
            return log_magnitude(spectrum)
        if self.level == "quantile":
            return level_log_magnitude(spectrum, first_bin(self.sample_rate, self.window))
        return running_log_magnitude(spectrum, self.hop / self.sample_rate)[0]


class NetworkSettings(Settings):
    """Settings of the network: trunk, heads and sizes."""

    # Kind of the trunk; lstm and causal_…: forward in time only, for streams.
    kind: Literal[
        "blstm", "lstm", "conv", "causal_conv", "dual_path", "causal_dual_path", "full_band"
    ] = "blstm"
    # Number of LSTM layers, of convolutions, or of blocks (dual_path: of two LSTMs each).
    layers: int = Field(default=2, ge=1, le=20)
    # Units per direction, channels, or both.
    width: int = Field(default=600, ge=1, le=LARGEST)
    # Values K of an embedding; 0 without the head.
    embedding: int = Field(default=40, ge=0, le=LARGEST)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    activation: Activation = "tanh"
    unit: bool = True  # normalise embeddings to unit length
    anchors: int = Field(default=0, ge=0, le=LARGEST)  # trainable points among the embeddings
    masks: int = Field(default=0, ge=0, le=10)  # sources of the mask head; 0 without the head
    background: bool = False  # head for bins that no talker dominates
    # Classes 0, 1, ... of the number of talkers in a frame; 0 without the head.
    counts: int = Field(default=0, ge=0, le=10)
    # Sizes of full_band: values of a frame's vector, units of its LSTM, and units of the LSTM along
    # each band.
    frame: int = Field(default=256, ge=1, le=LARGEST)
    frame_units: int = Field(default=192, ge=1, le=LARGEST)
    band_units: int = Field(default=32, ge=1, le=LARGEST)
    unfolded: UnfoldedSettings | None = None  # masks of any number of sources; null: none

    @model_validator(mode="after")
    def _has_a_head(self) -> NetworkSettings:
        if not self.embedding and not self.masks:
            raise ValueError("embedding and masks: both are 0; set `embedding` or `masks`")
        if self.anchors and not self.embedding:
            raise ValueError("anchors: needs embeddings; set `embedding`")
        if self.unfolded and not self.embedding:
            raise ValueError("unfolded: needs embeddings; set `embedding`")
        if self.kind == "full_band" and (self.masks or self.anchors or self.unfolded):
            raise ValueError("full_band: has neither masks, anchors nor unfolded; omit these keys")
        if self.counts and self.kind != "full_band":
            raise ValueError(
                "counts: needs another kind; set `kind` to full_band, or omit `counts`"
            )
        if self.unfolded and self.masks:
            raise ValueError("unfolded: has masks of its own; set `masks` to 0")
        return self

    def gives_masks(self, num_sources: int) -> bool:
        """Return True if the network has masks of its own for this number of sources."""
        return self.unfolded is not None or num_sources == self.masks > 0

    def build(self, bins: int) -> EmbeddingNetwork:
        """Build the network with new random weights.

        Args:
            bins: number of frequency bins F.

        Returns:
            The network.
        """
        heads = Heads(
            self.embedding,
            self.masks,
            self.activation,
            self.unit,
            self.anchors,
            self.background,
            self.counts,
        )
        sizes = bins, self.layers, self.width, heads, self.dropout
        if self.kind == "full_band":
            inner = Sizes(self.frame, self.frame_units, self.band_units)
            return FullBandEmbedding(*sizes, sizes=inner)
        causal = self.kind == "lstm" or self.kind.startswith("causal_")
        network = TRUNKS[self.kind.removeprefix("causal_")](*sizes, causal=causal)
        if self.unfolded is not None:
            network.add_head("unfolded", UnfoldedClustering(bins, self.unfolded))
        return network


class MaskSettings(Settings):
    """Settings of the masks: from clustered embeddings, from the network's own head, or both."""

    # Masks to use: the masks of the clustered embeddings; the masks of the mask head, if it has the
    # number of sources; or the geometric mean of both.
    head: Literal["embedding", "masks", "both"] = "embedding"
    # Centroids: from k-means, or the attractors of the network's anchors.
    centroids: Literal["kmeans", "anchors"] = "kmeans"

    # Level relative to the loudest bin below which bins do not pull centroids, and weights of the
    # other bins. "energy" is best for sounds of any kind (0.8 dB on valid-general); for talkers it
    # performs like "magnitude".
    floor_db: float = Field(default=-40.0, lt=0)
    weighting: Weighting = "threshold"
    # Sharpness of masks: softmax(sharpness * similarity to the centroid); null: binary masks.
    sharpness: float | None = Field(default=None, gt=0)
    # Similarity: inner product with the centroid's direction (cosine) or the centroid (product).
    similarity: Literal["cosine", "product"] = "cosine"


class CountSettings(Settings):
    """Weights of the source counter, fitted by the phase `fit: count` of a recipe."""

    # Weights of the two layers, see dpcl.clustering.count.count_sources; `output` has one row for
    # each of 1, 2, … sources.
    hidden: tuple[tuple[float, ...], ...] = Field(min_length=1)
    output: tuple[tuple[float, ...], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_the_cues(self) -> CountSettings:
        sizes = {len(row) for row in self.hidden}
        if sizes not in ({1 + CUES}, {1 + CUES + FRAME_CUES}):
            raise ValueError(
                f"hidden: rows have the wrong length; give 1 + {CUES} numbers in each,"
                f" or {FRAME_CUES} more with counts"
            )
        if any(len(row) != 1 + len(self.hidden) for row in self.output):
            raise ValueError(
                f"output: rows have the wrong length; give 1 + {len(self.hidden)} numbers in each"
            )
        return self


class ConfidenceSettings(Settings):
    """Estimate of the sources' SI-SDR, fitted by the phase `fit: confidence` of a recipe."""

    # Intercept and one coefficient per cue, see dpcl.clustering.count
    coefficients: tuple[float, ...] = Field(min_length=1 + SOURCE_CUES, max_length=1 + SOURCE_CUES)
    error_db: float = Field(ge=0)  # mean absolute error on mixtures that the fit did not use


class ModelSettings(Settings):
    """All settings that a separator needs beside the weights."""

    signal: SignalSettings = SignalSettings()
    network: NetworkSettings = NetworkSettings()
    masks: MaskSettings = MaskSettings()
    count: CountSettings | None = None  # null: two sources, if the number is not given
    confidence: ConfidenceSettings | None = None  # null: no estimate of the sources' SI-SDR
    # Whitening (K, K) for embeddings of long recordings, fitted on conversations by
    # `fit: whitening`: see dpcl.separators.masks. null: none.
    whitening: tuple[tuple[float, ...], ...] | None = None

    @model_validator(mode="after")
    def _whitening_fits_the_embeddings(self) -> ModelSettings:
        size = self.network.embedding
        if self.whitening and [len(row) for row in self.whitening] != [size] * size:
            raise ValueError(
                f"whitening: has another size than embeddings; give {size} rows of {size} numbers"
            )
        return self

    @model_validator(mode="after")
    def _network_has_what_masks_need(self) -> ModelSettings:
        masks, network = self.masks, self.network
        if masks.head != "embedding" and not (network.masks or network.unfolded):
            raise ValueError(
                f"masks.head {masks.head}: needs a mask head; set `network.masks` or"
                " `network.unfolded`"
            )
        if masks.head != "masks" and not network.embedding:
            raise ValueError(f"masks.head {masks.head}: needs embeddings; set `network.embedding`")
        if masks.centroids == "anchors" and not network.anchors:
            raise ValueError("masks.centroids anchors: needs anchors; set `network.anchors`")
        return self


@dataclass(frozen=True)
class Model:
    """Settings and networks of a model.

    Attributes:
        settings: settings of the model.
        network: embedding or mask network.
        notes: notes for people: recipe, data, scores.
        activity: activity network for long recordings; None without one.
    """

    settings: ModelSettings
    network: EmbeddingNetwork
    notes: dict[str, Any]
    activity: TalkerActivity | None = None


def build_network(settings: ModelSettings) -> EmbeddingNetwork:
    """Build a network with new random weights for these settings.

    Args:
        settings: settings of the model.

    Returns:
        The network.
    """
    return settings.network.build(settings.signal.stft().bins)


def save_model(model: Model, path: Path, half: bool = False) -> None:
    """Write a model to a file, atomically.

    Args:
        model: model to write.
        path: .safetensors file.
        half: store the weights in float16, half the size.

    Raises:
        InputError: The file cannot be written, as on a full disk.
    """
    weights = dict(model.network.state_dict())
    if model.activity is not None:
        weights |= model.activity.state_dict(prefix=ACTIVITY)
    tensors = {
        name: (value.half() if half else value).detach().cpu().contiguous()
        for name, value in weights.items()
    }
    metadata = {
        "layout": str(LAYOUT),
        "settings": model.settings.model_dump_json(),
        "notes": json.dumps(model.notes),
    }
    try:
        with atomic(path) as partial:
            save_file(tensors, partial, metadata)
    except (SafetensorError, OSError) as error:
        detail = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: cannot be written ({detail}); free some space, or choose another folder"
        ) from error


def load_model(path: Path) -> Model:
    """Read a file that `save_model` wrote; weights become float32.

    Args:
        path: .safetensors file.

    Returns:
        The model.

    Raises:
        InputError: The file is missing, is no safetensors file, was not written by dpcl or by a
            newer one, or holds a weight that is not finite.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file; `dpcl models` lists the shipped models")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {
                # a copy, because the file may be replaced while the network is in use
                _renamed(name): file.get_tensor(name).to(torch.float32, copy=True)
                for name in file.keys()  # noqa: SIM118
            }
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file; give weights that dpcl wrote") from error
    layout = metadata.get("layout", "1")
    if layout.isdigit() and int(layout) > LAYOUT:
        raise InputError(
            f"{path}: has layout {layout}, which this dpcl cannot read; install a newer dpcl"
        )
    try:
        settings = ModelSettings.model_validate_json(metadata["settings"])
        with torch.device("meta"):  # the weights are replaced: spend no time and no random numbers
            network = build_network(settings)
        activity = _activity(tensors, settings.signal.stft().bins)
        _part(tensors, "voice.")  # a network of earlier versions
        network.load_state_dict(tensors, assign=True)
        notes = json.loads(metadata.get("notes", "{}"))
    # A ValidationError is a ValueError.
    except (KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise InputError(
            f"{path}: safetensors, but no dpcl model; give weights that dpcl wrote"
        ) from error
    if not isinstance(notes, dict):
        raise InputError(f"{path}: its notes are damaged; give weights that dpcl wrote")
    parts = activity.state_dict().values() if activity else ()
    weights = [*tensors.values(), *parts]
    # Largest and smallest value of each tensor, or NaN if it holds one: ten times faster than to
    # test all values.
    ends = torch.stack([end for value in weights for end in value.aminmax()])
    if not bool(torch.isfinite(ends).all()):
        raise InputError(
            f"{path}: the weights hold NaN or infinite values; train or fetch them again"
        )
    if not bool((network.std > 0).all()):
        raise InputError(
            f"{path}: the deviation of a feature is not above 0; train or fetch the weights again"
        )
    expect_forks()  # the tests of the weights above ran in threads
    return Model(settings, network.eval(), notes, activity)


def _renamed(name: str) -> str:
    """Return the name of a weight today."""
    old = next((old for old in RENAMED if name.startswith(old)), "")
    return RENAMED.get(old, "") + name.removeprefix(old)


def _activity(tensors: dict[str, Tensor], bins: int) -> TalkerActivity | None:
    """Move the weights of the activity network out of `tensors` and build it; None without any."""
    own = _part(tensors, ACTIVITY)
    if not own:
        return None
    with torch.device("meta"):
        activity = TalkerActivity(bins, len(own["first.weight"]))
    activity.load_state_dict(own, assign=True)
    return activity.eval()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Move the tensors with a prefix out of `tensors`, and remove the prefix."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}
