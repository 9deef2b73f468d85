"""All settings of one training, validated before anything starts.

`dpcl.training.phases` reads the files of recipes, which may hold several trainings.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from dpcl.evaluation.validation import ValidationSettings
from dpcl.mixtures.conditions import ConditionSettings
from dpcl.mixtures.drawing import Kinds
from dpcl.model import ModelSettings
from dpcl.objectives import OBJECTIVES
from dpcl.settings import Settings
from dpcl.signal.features import Weighting

NonNegative = Annotated[float, Field(ge=0)]

# Objectives on the embeddings; none: objective.masks alone.
KINDS = (*OBJECTIVES, "attractor", "anchored_attractor", "none")

# Settings of earlier versions that are constants today, with their values: a run that was started
# with them can be resumed.
CONSTANTS: dict[str, Any] = {
    "objective.background": 0.3,
    "objective.counts": 0.1,
    "objective.waveform": 0.1,
    "optimiser.matrix_rate": 4e-3,
    "data.conditions.levels.relative_db": 5.0,
    "data.conditions.gain_control.depth_db": [4.0, 12.0],
    "data.conditions.gain_control.seconds": [0.3, 2.0],
    "data.conditions.background.own_room": 0.45,
    "data.conditions.background.slope": [0.0, 2.2],
    "data.conditions.background.hiss_snr_db": [15.0, 50.0],
    "data.conditions.band.highpass_hz": [80.0, 400.0],
    "data.conditions.band.lowpass_hz": [2000.0, 3800.0],
    "data.conditions.shelf.gain_db": [-9.0, 9.0],
    "data.conditions.shelf.corner_hz": [300.0, 2500.0],
    "data.conditions.clipping.percent": [0.5, 7.0],
    "data.conditions.codec.kbits": {"opus": [7.0, 48.0], "mp3": [12.0, 64.0]},
}

# Settings of the machine: they do not change the weights, so a resumed run may have others.
MACHINE: dict[str, Any] = {
    "accelerator": True,
    "devices": True,
    "workers": True,
    "checkpoint_minutes": True,
    "data": {"cache", "corpora"},
}


class DataSettings(Settings):
    """Recordings, and the mixtures that are drawn from them."""

    # Given as --corpus: CSV indices, folders with index.csv or a folder per speaker, manifests.
    corpora: tuple[str, ...] = ()
    split: str | None = None  # split of every index; null: all
    # Names in the column corpus. A corpus that has none of them is used whole; null: all
    only: tuple[str, ...] | None = None
    speakers: tuple[str, ...] | None = None  # null: all
    cache: str = "runs/cache"  # folder of decoded audio
    num_sources: int = Field(default=2, ge=1, le=10)
    same_speaker: bool = False  # all sources of a mixture are one speaker
    # dB between talkers, uniform in +- this
    relative_level_db: float = Field(default=5.0, ge=0, allow_inf_nan=False)
    within: float = Field(default=0.5, ge=0, le=1)  # share of mixtures of talkers of one corpus
    speed: float = Field(default=0.0, ge=0, lt=0.5)  # talkers' speed, uniform in 1 +- this
    # probabilities of 1, 2, ..., num_sources active talkers in a segment; null: all, always
    active: tuple[NonNegative, ...] | None = None
    # probability that a talker is active in a part of the segment only
    turns: float = Field(default=0.0, ge=0, le=1)
    # kinds of mixtures, in place of `within`; null: any talkers
    kinds: Kinds | None = None
    # rooms, backgrounds, channels and numbers of talkers, in place of all of the above from
    # `num_sources` on; null: clean mixtures
    conditions: ConditionSettings | None = None

    @model_validator(mode="after")
    def _kinds_say_what_meets(self) -> DataSettings:
        if self.kinds and self.same_speaker:
            raise ValueError("kinds have `same` of their own; omit same_speaker")
        if self.kinds and self.kinds.numbers != [self.num_sources]:
            raise ValueError(
                f"kinds are of {' and '.join(map(str, self.kinds.numbers))} sources, not all of"
                f" num_sources = {self.num_sources}"
            )
        return self

    @model_validator(mode="after")
    def _active_says_one_to_all(self) -> DataSettings:
        shares = self.active
        if shares and (len(shares) != self.num_sources or abs(sum(shares) - 1) > 1e-6):
            raise ValueError(
                f"active has {len(shares)} shares that add up to {sum(shares):g}; give"
                f" num_sources = {self.num_sources} of them that add up to 1"
            )
        return self


class MaskObjective(Settings):
    """Targets of the masks and their distance."""

    targets: Literal["phase_sensitive", "waveform"] = "phase_sensitive"
    # si_sdr compares waveforms alone.
    distance: Literal["l1", "l2", "si_sdr"] = "l1"
    # Order of the sources: the one with the least distance, the strongest source first, or as
    # data.kinds names their groups, so that each mask is of one class.
    order: Literal["best", "strongest", "given"] = "best"
    # Cluster all windows of a mixture together and compare them in one order, which penalises
    # embeddings that drift from window to window. Needs model.network.unfolded.
    across_windows: bool = False

    @model_validator(mode="after")
    def _spectra_have_no_waveform(self) -> MaskObjective:
        if self.targets != "waveform" and self.distance == "si_sdr":
            raise ValueError("si_sdr compares waveforms; set targets: waveform")
        if self.targets == "waveform" and self.order != "best":
            raise ValueError("waveforms are compared in the best order; set order: best")
        return self


class ObjectiveSettings(Settings):
    """Training objective: on the embeddings, on the masks, or on both."""

    kind: str = "affinity"  # one of KINDS
    weighting: Weighting = "threshold"
    floor_db: float = Field(default=-40.0, lt=0)
    masks: MaskObjective | None = None
    share: float = Field(default=0.5, gt=0, lt=1)  # weight of the embeddings' part beside masks

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"must be one of {', '.join(KINDS)}")
        return kind

    @model_validator(mode="after")
    def _something_is_minimised(self) -> ObjectiveSettings:
        if self.kind == "none" and self.masks is None:
            raise ValueError("kind none leaves nothing to minimise; set masks")
        return self


class Stage(Settings):
    """One part of the curriculum: a number of steps with segments of one length."""

    frames: int = Field(ge=2)  # of the STFT
    batch: int = Field(ge=1)  # mixtures per step, over all devices
    steps: int = Field(ge=1)
    # Segments of one mixture. The network encodes them one by one; the objective compares the bins
    # of all, which keeps the embeddings of a talker alike over a long recording.
    windows: int = Field(default=1, ge=1)


class OptimiserSettings(Settings):
    """Optimiser; warm-up, a constant rate, then a cosine down to `final`, over all stages."""

    # muon: orthogonal updates for matrices (Jordan et al. 2024), AdamW for the other weights
    kind: Literal["adam", "muon"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    # Decay of a running average of the weights, which is scored and kept; 0: no average
    average: float = Field(default=0.0, ge=0, lt=1)
    warm_up: int = Field(default=0, ge=0)  # steps
    hold: float = Field(default=0.0, ge=0, le=1)  # share of all steps before the rate falls
    final: float = Field(default=0.0, ge=0, le=1)  # last learning rate as a share of the highest
    clip: float | None = Field(default=None, gt=0)  # largest norm of the gradient


class Recipe(Settings):
    """One training. The same recipe, corpus and machine give the same weights."""

    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    input_noise: float = Field(default=0.0, ge=0, allow_inf_nan=False)  # variance, on the features
    # Initial weights: an earlier phase, a shipped model, another recipe's result, or a file. Heads
    # that they lack have fresh weights.
    init: str | None = None
    init_heads: bool = True  # false: fresh weights for all heads
    # Parts of the network that are not trained, by the beginnings of their names: lstm, project
    frozen: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = Field(min_length=1)
    optimiser: OptimiserSettings = OptimiserSettings()
    validation: ValidationSettings | None = None
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(default=1, ge=1)
    workers: int = Field(default=0, ge=0)  # number of processes that draw mixtures
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _shares_batches_evenly(self) -> Recipe:
        for number, stage in enumerate(self.stages):
            if stage.batch % self.devices:
                raise ValueError(
                    f"stages.{number}.batch {stage.batch} is no multiple of devices {self.devices}"
                )
        return self

    @model_validator(mode="after")
    def _network_has_what_is_minimised(self) -> Recipe:
        network, objective = self.model.network, self.objective
        if objective.kind != "none" and not network.embedding:
            raise ValueError(f"objective.kind {objective.kind} needs model.network.embedding")
        if objective.kind == "anchored_attractor" and network.anchors < self.data.num_sources:
            raise ValueError(
                f"anchored_attractor needs model.network.anchors of {self.data.num_sources} or more"
            )
        if objective.masks and not network.gives_masks(self.data.num_sources):
            raise ValueError(
                f"objective.masks needs model.network.masks of {self.data.num_sources}, one for"
                " each source of data.num_sources, or model.network.unfolded"
            )
        if objective.masks and objective.masks.order == "given" and not self.data.kinds:
            raise ValueError("objective.masks.order given needs data.kinds, whose groups it names")
        if objective.masks and objective.masks.across_windows and not network.unfolded:
            raise ValueError("objective.masks.across_windows needs model.network.unfolded")
        return self

    @model_validator(mode="after")
    def _conditions_have_their_heads(self) -> Recipe:
        network, objective = self.model.network, self.objective
        if self.data.conditions is None:
            return self
        if objective.kind != "affinity" or objective.masks:
            raise ValueError("data.conditions needs objective.kind affinity, without masks")
        if not (network.background and network.counts):
            raise ValueError("data.conditions needs model.network.background and .counts")
        if self.model.signal.level != "quantile":
            raise ValueError("data.conditions needs model.signal.level quantile")
        if any(stage.windows > 1 for stage in self.stages):
            raise ValueError("data.conditions needs stages.windows 1")
        return self

    @property
    def steps(self) -> int:
        """Return the number of steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def place_of(self, step: int) -> str:
        """Describe the mixtures of a step, from 0, for messages.

        Example:
            >>> short = Stage(frames=100, batch=8, steps=10)
            >>> Recipe(stages=(short, Stage(frames=200, batch=4, steps=5))).place_of(11)
            'mixtures 4 to 7 of stage 2'
        """
        for number, stage in enumerate(self.stages, 1):
            if step < stage.steps:
                first = step * stage.batch
                return f"mixtures {first} to {first + stage.batch - 1} of stage {number}"
            step -= stage.steps
        raise ValueError(f"step {step}: is after the last")

    def difference(self, written: str) -> str | None:
        """Return the dotted key that differs in another recipe (JSON); None if none does.

        Settings of the machine may differ.
        """
        try:
            other = Recipe.model_validate(_without_constants(json.loads(written)))
        except ValidationError:
            return "version"
        return first_difference(self.model_dump(exclude=MACHINE), other.model_dump(exclude=MACHINE))


def _without_constants(document: dict[str, Any]) -> dict[str, Any]:
    """Remove the settings of CONSTANTS that have their value of today from a document."""
    for key, value in CONSTANTS.items():
        *path, last = key.split(".")
        parent: Any = document
        for part in path:
            parent = (parent or {}).get(part)
        if parent and parent.get(last) == value:
            del parent[last]
    return document


def first_difference(ours: Any, theirs: Any, key: str = "") -> str | None:
    """Return the dotted key of the first value that differs in nested dictionaries."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            found = first_difference(ours.get(name), theirs.get(name), f"{key}.{name}".lstrip("."))
            if found is not None:
                return found
        return None
    return None if ours == theirs else key
