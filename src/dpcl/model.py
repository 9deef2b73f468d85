"""A model: its settings, its network and its file."""

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

from dpcl.clustering.count import FRAME_SIGNS, SIGNS
from dpcl.errors import InputError
from dpcl.io import atomic
from dpcl.networks.activity import TalkerActivity
from dpcl.networks.base import Activation, EmbeddingNetwork, Heads
from dpcl.networks.convolutional import ConvolutionalEmbedding
from dpcl.networks.dual_path import DualPathEmbedding
from dpcl.networks.full_band import FullBandEmbedding, Sizes
from dpcl.networks.lstm import BLSTMEmbedding
from dpcl.networks.unfolded import (
    UnfoldedBLSTM,
    UnfoldedConvolutional,
    UnfoldedDualPath,
    UnfoldedSettings,
)
from dpcl.settings import Settings
from dpcl.signal.bins import Weighting
from dpcl.signal.features import (
    first_bin,
    level_log_magnitude,
    log_magnitude,
    running_log_magnitude,
)
from dpcl.signal.stft import STFT

Trunk = type[BLSTMEmbedding | ConvolutionalEmbedding | DualPathEmbedding]
UnfoldedTrunk = type[UnfoldedBLSTM | UnfoldedConvolutional | UnfoldedDualPath]
# By kind, less what says that it is causal: the network, and the one with its clustering inside.
TRUNKS: dict[str, tuple[Trunk, UnfoldedTrunk]] = {
    "blstm": (BLSTMEmbedding, UnfoldedBLSTM),
    "lstm": (BLSTMEmbedding, UnfoldedBLSTM),
    "conv": (ConvolutionalEmbedding, UnfoldedConvolutional),
    "dual_path": (DualPathEmbedding, UnfoldedDualPath),
}
ACTIVITY = "activity."  # prefix of the weights of the activity network in a file
LAYOUT = 1  # of a model file; a newer program may write a higher number


class SignalSettings(Settings):
    """At which rate the network hears, and through which STFT."""

    sample_rate: int = Field(default=8000, ge=1000, le=192000)  # Hz
    window: int = Field(default=256, ge=16)  # samples
    hop: int = Field(default=64, ge=1)  # samples
    # Features are relative to the loudest bin of the whole mixture, or up to this frame, or to a
    # high quantile of the frames' levels above 70 Hz, which DC, rumble and claps do not change.
    level: Literal["whole", "running", "quantile"] = "whole"

    @model_validator(mode="after")
    def _inverse_exists(self) -> SignalSettings:
        self.stft()  # refuses a window and hop without perfect reconstruction
        return self

    def stft(self) -> STFT:
        """The STFT of these settings."""
        return STFT(self.window, self.hop)

    def features(self, spectrum: Tensor) -> Tensor:
        """What the network sees of a spectrum (..., L, F), of the same shape."""
        if self.level == "whole":
            return log_magnitude(spectrum)
        if self.level == "quantile":
            return level_log_magnitude(spectrum, first_bin(self.sample_rate, self.window))
        return running_log_magnitude(spectrum, self.hop / self.sample_rate)[0]


class NetworkSettings(Settings):
    """Which network."""

    # lstm and causal_…: forward in time only, for streams
    kind: Literal[
        "blstm", "lstm", "conv", "causal_conv", "dual_path", "causal_dual_path", "full_band"
    ] = "blstm"
    layers: int = Field(default=2, ge=1, le=20)  # LSTMs, convolutions, or blocks of two LSTMs
    width: int = Field(default=600, ge=1)  # units per direction, channels, or both
    embedding: int = Field(default=40, ge=0)  # K; 0 without an embedding head
    dropout: float = Field(default=0.0, ge=0, lt=1)
    activation: Activation = "tanh"
    unit: bool = True  # embeddings have unit length
    anchors: int = Field(default=0, ge=0)  # trainable points among the embeddings
    masks: int = Field(default=0, ge=0, le=10)  # sources of the mask head; 0 without one
    background: bool = False  # a class for bins that no talker dominates
    counts: int = Field(default=0, ge=0, le=10)  # classes 0, 1, ... of the talkers in a frame
    # full_band: values of a frame's vector, units of its LSTM and of the LSTM along each band
    frame: int = Field(default=256, ge=1)
    frame_units: int = Field(default=192, ge=1)
    band_units: int = Field(default=32, ge=1)
    unfolded: UnfoldedSettings | None = None  # masks of any number of sources; null: without

    @model_validator(mode="after")
    def _has_a_head(self) -> NetworkSettings:
        if not self.embedding and not self.masks:
            raise ValueError("embedding and masks are both 0; give one of the heads a size")
        if self.anchors and not self.embedding:
            raise ValueError("anchors lie among embeddings; give embedding a size")
        if self.unfolded and not self.embedding:
            raise ValueError("unfolded clusters embeddings; give embedding a size")
        if self.kind == "full_band" and (self.masks or self.anchors or self.unfolded):
            raise ValueError("full_band has neither masks, anchors nor unfolded; leave them out")
        if self.counts and self.kind != "full_band":
            raise ValueError("counts needs kind: full_band")
        if self.unfolded and self.masks:
            raise ValueError("unfolded gives masks of its own; set masks: 0")
        return self

    def gives_masks(self, num_sources: int) -> bool:
        """Whether the network has masks of its own of so many sources."""
        return self.unfolded is not None or num_sources == self.masks > 0

    def build(self, bins: int) -> EmbeddingNetwork:
        """The network with fresh random weights."""
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
        plain, unfolded = TRUNKS[self.kind.removeprefix("causal_")]
        if self.unfolded is None:
            return plain(*sizes, causal=causal)
        network = unfolded(*sizes, causal=causal)
        network.unfold(self.unfolded)
        return network


class MaskSettings(Settings):
    """How embeddings become masks, or whether the network's own are used."""

    # Whose masks: those of the clustered embeddings, of the mask head where it has as many as are
    # wanted, or the geometric mean of both.
    head: Literal["embedding", "masks", "both"] = "embedding"
    # Centroids: by k-means, or the attractors that the network's anchors draw.
    centroids: Literal["kmeans", "anchors"] = "kmeans"

    # Bins further under the loudest do not pull centroids. How the others do: "energy" is best for
    # sounds of any kind (0.8 dB on valid-general); for talkers it is as good as "magnitude".
    floor_db: float = Field(default=-40.0, lt=0)
    weighting: Weighting = "threshold"
    # Masks are softmax(sharpness * similarity to the centroid); null makes them binary.
    sharpness: float | None = Field(default=None, gt=0)
    # The inner product with the centroid, or with its direction alone.
    similarity: Literal["cosine", "product"] = "cosine"


class CountSettings(Settings):
    """How the sources are counted: fitted by the phase `fit: count` of a recipe."""

    # See dpcl.clustering.count.count_sources.
    hidden: tuple[tuple[float, ...], ...] = Field(min_length=1)
    output: tuple[tuple[float, ...], ...] = Field(min_length=1)  # a row for 1, 2, … sources

    @model_validator(mode="after")
    def _fits_the_signs(self) -> CountSettings:
        sizes = {len(row) for row in self.hidden}
        if sizes not in ({1 + SIGNS}, {1 + SIGNS + FRAME_SIGNS}):
            raise ValueError(
                f"want 1 + {SIGNS} numbers in each row of hidden, or {FRAME_SIGNS} more with counts"
            )
        if any(len(row) != 1 + len(self.hidden) for row in self.output):
            raise ValueError(f"want 1 + {len(self.hidden)} numbers in each row of output")
        return self


class ModelSettings(Settings):
    """All that turns weights into a separator."""

    signal: SignalSettings = SignalSettings()
    network: NetworkSettings = NetworkSettings()
    masks: MaskSettings = MaskSettings()
    count: CountSettings | None = None  # null: two, where the number is not given
    # (K, K) for embeddings of long recordings, fitted by `fit: whitening`; null: no whitening.
    # See dpcl.clustering.alone.
    whitening: tuple[tuple[float, ...], ...] | None = None

    @model_validator(mode="after")
    def _whitening_fits_the_embeddings(self) -> ModelSettings:
        size = self.network.embedding
        if self.whitening and [len(row) for row in self.whitening] != [size] * size:
            raise ValueError(f"whitening wants {size} rows of {size} numbers, as embeddings have")
        return self

    @model_validator(mode="after")
    def _network_has_what_masks_need(self) -> ModelSettings:
        masks, network = self.masks, self.network
        if masks.head != "embedding" and not (network.masks or network.unfolded):
            raise ValueError(
                f"masks.head {masks.head} needs a mask head; set network.masks or network.unfolded"
            )
        if masks.head != "masks" and not network.embedding:
            raise ValueError(f"masks.head {masks.head} needs embeddings; set network.embedding")
        if masks.centroids == "anchors" and not network.anchors:
            raise ValueError("masks.centroids anchors needs anchors; set network.anchors")
        return self


@dataclass(frozen=True)
class Model:
    """Settings, networks, and notes for people (recipe, data, scores)."""

    settings: ModelSettings
    network: EmbeddingNetwork
    notes: dict[str, Any]
    activity: TalkerActivity | None = None  # who talks when in long recordings


def build_network(settings: ModelSettings) -> EmbeddingNetwork:
    """A network with fresh weights for these settings."""
    return settings.network.build(settings.signal.stft().bins)


def save_model(model: Model, path: Path, half: bool = False) -> None:
    """Write the model atomically; `half` stores the weights in float16, half the size."""
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
    with atomic(path) as partial:
        save_file(tensors, partial, metadata)


def load_model(path: Path) -> Model:
    """Read what save_model wrote, weights as float32.

    Raises InputError when the file is missing, no safetensors file, not written by dpcl or by a
    newer one, or when a weight is not finite.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file; `dpcl models` lists what ships")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {
                # copied: the network must not hang on the file, which may be replaced
                name: file.get_tensor(name).to(torch.float32, copy=True)
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
        with torch.device("meta"):  # no time nor random numbers for weights that are replaced
            network = build_network(settings)
        activity = _activity(tensors, settings.signal.stft().bins)
        network.load_state_dict(tensors, assign=True)
        notes = json.loads(metadata.get("notes", "{}"))
    except (KeyError, ValueError, RuntimeError) as error:  # a ValidationError is a ValueError
        raise InputError(
            f"{path}: safetensors, but no dpcl model; give weights that dpcl wrote"
        ) from error
    weights = [*tensors.values(), *(activity.state_dict().values() if activity else ())]
    # Largest and smallest of each, NaN where there is one: ten times as fast as looking at all.
    ends = torch.stack([end for value in weights for end in value.aminmax()])
    if not bool(torch.isfinite(ends).all()):
        raise InputError(
            f"{path}: the weights hold NaN or infinite values; train or fetch them again"
        )
    return Model(settings, network.eval(), notes, activity)


def _activity(tensors: dict[str, Tensor], bins: int) -> TalkerActivity | None:
    """Taken out of the weights, where it is among them."""
    names = [name for name in tensors if name.startswith(ACTIVITY)]
    own = {name.removeprefix(ACTIVITY): tensors.pop(name) for name in names}
    if not own:
        return None
    with torch.device("meta"):
        activity = TalkerActivity(bins, len(own["first.weight"]))
    activity.load_state_dict(own, assign=True)
    return activity.eval()
