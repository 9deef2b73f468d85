"""A network together with the settings that its input needs, as one safetensors file."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dpcl.clustering.count import SIGNS
from dpcl.errors import InputError
from dpcl.mixtures.ideal import Weighting
from dpcl.networks.blstm import Activation, BLSTMEmbedding
from dpcl.signal.features import log_magnitude, running_log_magnitude
from dpcl.signal.stft import STFT


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SignalSettings(Settings):
    """At which rate the network hears, and through which STFT."""

    sample_rate: int = Field(default=8000, ge=1000, le=192000)  # Hz
    window: int = Field(default=256, ge=16)  # samples
    hop: int = Field(default=64, ge=1)  # samples
    # Features are relative to the loudest bin of the whole mixture, or of what was heard so far.
    level: Literal["whole", "running"] = "whole"

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
        return running_log_magnitude(spectrum, self.hop / self.sample_rate)[0]


class NetworkSettings(Settings):
    """Which network."""

    kind: Literal["blstm", "lstm"] = "blstm"  # lstm: forward in time only, for streams
    layers: int = Field(default=2, ge=1, le=20)
    width: int = Field(default=600, ge=1)  # units per direction
    embedding: int = Field(default=40, ge=1)  # K
    dropout: float = Field(default=0.0, ge=0, lt=1)
    activation: Activation = "tanh"

    def build(self, bins: int) -> BLSTMEmbedding:
        """The network with fresh random weights."""
        return BLSTMEmbedding(
            bins,
            self.layers,
            self.width,
            self.embedding,
            self.dropout,
            self.activation,
            bidirectional=self.kind == "blstm",
        )


class MaskSettings(Settings):
    """How embeddings become masks."""

    # Bins further under the loudest do not pull centroids.
    floor_db: float = Field(default=-40.0, lt=0)
    weighting: Weighting = "threshold"
    # Masks are softmax(sharpness * cosine(embedding, centroid)); null makes them binary.
    sharpness: float | None = Field(default=None, gt=0)


class CountSettings(Settings):
    """How the sources are counted: fitted on validation mixtures by benchmarks/count.py."""

    # A row for 1, 2, … sources: see dpcl.clustering.count.count_sources.
    coefficients: tuple[tuple[float, ...], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_the_signs(self) -> CountSettings:
        if any(len(row) != 1 + SIGNS for row in self.coefficients):
            raise ValueError(f"want 1 + {SIGNS} coefficients in each row")
        return self


class ModelSettings(Settings):
    """All that turns weights into a separator."""

    signal: SignalSettings = SignalSettings()
    network: NetworkSettings = NetworkSettings()
    masks: MaskSettings = MaskSettings()
    count: CountSettings | None = None  # null: two, where nobody says how many


@dataclass(frozen=True)
class Model:
    """Settings, network, and notes for people (recipe, data, scores)."""

    settings: ModelSettings
    network: BLSTMEmbedding
    notes: dict[str, Any]


def build_network(settings: ModelSettings) -> BLSTMEmbedding:
    """A network with fresh weights for these settings."""
    return settings.network.build(settings.signal.stft().bins)


def save_model(model: Model, path: Path, half: bool = False) -> None:
    """Write the model atomically; `half` stores the weights in float16, half the size."""
    tensors = {
        name: (value.half() if half else value).detach().cpu().contiguous()
        for name, value in model.network.state_dict().items()
    }
    metadata = {"settings": model.settings.model_dump_json(), "notes": json.dumps(model.notes)}
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        save_file(tensors, partial, metadata)
        Path(partial).chmod(0o644)  # mkstemp's files are the owner's alone
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)


def load_model(path: Path) -> Model:
    """Read what save_model wrote, weights as float32.

    Raises InputError when the file is missing, no safetensors file, not written by dpcl, or when
    a weight is not finite.
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
    try:
        settings = ModelSettings.model_validate_json(metadata["settings"])
        with torch.device("meta"):  # no time nor random numbers for weights that are replaced
            network = build_network(settings)
        network.load_state_dict(tensors, assign=True)
        notes = json.loads(metadata.get("notes", "{}"))
    except (KeyError, ValueError, RuntimeError) as error:  # a ValidationError is a ValueError
        raise InputError(
            f"{path}: safetensors, but no dpcl model; give weights that dpcl wrote"
        ) from error
    # Largest and smallest of each, NaN where there is one: ten times as fast as looking at all.
    ends = torch.stack([end for value in tensors.values() for end in value.aminmax()])
    if not bool(torch.isfinite(ends).all()):
        raise InputError(
            f"{path}: the weights hold NaN or infinite values; train or fetch them again"
        )
    return Model(settings, network.eval(), notes)
