"""A recipe: every setting of a training, read from YAML and checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from dpcl.mixtures.kinds import Kinds
from dpcl.model import ModelSettings
from dpcl.settings import Settings, read_settings
from dpcl.signal.bins import Weighting

NonNegative = Annotated[float, Field(ge=0)]

# What says where and how fast to train, not what: it may change when a run is resumed.
MACHINE: dict[str, Any] = {
    "accelerator": True,
    "devices": True,
    "workers": True,
    "checkpoint_minutes": True,
    "data": {"cache"},
}


class CorpusSettings(Settings):
    """One corpus: a CSV index, a folder with index.csv or one per speaker, a Lhotse manifest."""

    path: str  # relative to the working folder
    split: str | None = None  # rows of the index to use; null for all
    only: tuple[str, ...] | None = None  # names in its column corpus; null for all
    speakers: tuple[str, ...] | None = None  # null for all


class DataSettings(Settings):
    """Which recordings, and how they are mixed."""

    corpora: tuple[CorpusSettings, ...] = Field(min_length=1)
    cache: str = "runs/cache"  # decoded audio is kept here
    num_sources: int = Field(default=2, ge=1, le=10)
    same_speaker: bool = False  # each speaker is mixed with himself
    # between talkers, uniform in +- this
    relative_level_db: float = Field(default=5.0, ge=0, allow_inf_nan=False)
    within: float = Field(default=0.5, ge=0, le=1)  # share of mixtures of talkers of one corpus
    speed: float = Field(default=0.0, ge=0, lt=0.5)  # talkers' speed, uniform in 1 +- this
    # how often 1, 2, ..., num_sources of them speak in a segment; null: all, always
    active: tuple[NonNegative, ...] | None = None
    # chance that one of them speaks in a part of the segment only
    turns: float = Field(default=0.0, ge=0, le=1)
    # which sounds meet, by their kind, in place of `within`; null: any talkers
    kinds: Kinds | None = None

    @model_validator(mode="after")
    def _kinds_say_what_meets(self) -> DataSettings:
        if self.kinds and self.same_speaker:
            raise ValueError("kinds have `same` of their own; leave out same_speaker")
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
    """What the masks are compared with."""

    targets: Literal["phase_sensitive", "waveform"] = "phase_sensitive"
    # si_sdr compares waveforms alone.
    distance: Literal["l1", "l2", "si_sdr"] = "l1"
    # Sources in whichever order costs least, or from the strongest to the weakest.
    order: Literal["best", "strongest"] = "best"
    # The windows of a mixture clustered as one and compared in one order: a talker who drifts from
    # window to window then costs something. For masks through the clustering.
    across_windows: bool = False

    @model_validator(mode="after")
    def _spectra_have_no_waveform(self) -> MaskObjective:
        if self.targets != "waveform" and self.distance == "si_sdr":
            raise ValueError("si_sdr compares waveforms; set targets: waveform")
        if self.targets == "waveform" and self.order == "strongest":
            raise ValueError("waveforms are compared in the best order; set order: best")
        return self


class ObjectiveSettings(Settings):
    """What is minimised: an objective on the embeddings, on the masks, or both."""

    kind: Literal[
        "affinity",
        "normalised_affinity",
        "whitened_kmeans",
        "deep_lda",
        "graph_laplacian",
        "spectral",
        "attractor",
        "anchored_attractor",
        "none",
    ] = "affinity"
    weighting: Weighting = "threshold"
    floor_db: float = Field(default=-40.0, lt=0)
    masks: MaskObjective | None = None
    share: float = Field(default=0.5, gt=0, lt=1)  # of the embeddings' part, where there are both

    @model_validator(mode="after")
    def _something_is_minimised(self) -> ObjectiveSettings:
        if self.kind == "none" and self.masks is None:
            raise ValueError("kind none leaves nothing to minimise; set masks")
        return self


class Stage(Settings):
    """One part of the curriculum: segments of so many frames for so many steps."""

    frames: int = Field(ge=2)  # of the STFT
    batch: int = Field(ge=1)  # mixtures a step, over all devices
    steps: int = Field(ge=1)
    # Segments of one mixture that the network hears one by one while the objective compares the
    # bins of all of them: a talker's embeddings then stay where they are over a long recording.
    windows: int = Field(default=1, ge=1)


class OptimiserSettings(Settings):
    """Adam; warm-up, then a cosine down to `final`, over all stages."""

    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    warm_up: int = Field(default=0, ge=0)  # steps
    final: float = Field(default=0.0, ge=0, le=1)  # last learning rate as a share of the highest
    clip: float | None = Field(default=None, gt=0)  # largest norm of the gradient


class ValidationSettings(Settings):
    """How the training is watched: SI-SDRi on a list, and the best weights kept."""

    list: str  # CSV that `dpcl mix` draws
    root: str  # folder that its paths are relative to
    every: int = Field(default=500, ge=1)  # steps
    limit: int | None = Field(default=None, ge=1)  # first rows only


class Recipe(Settings):
    """A whole training. The same recipe on the same machine gives the same weights."""

    model: ModelSettings = ModelSettings()
    data: DataSettings
    objective: ObjectiveSettings = ObjectiveSettings()
    input_noise: float = Field(default=0.0, ge=0, allow_inf_nan=False)  # variance, on the features
    # weights to start from, a file or a model that ships; heads that they lack, or all, are fresh
    init: str | None = None
    init_heads: bool = True  # false: without their heads, which all begin fresh
    # parts of the network that keep their weights, as their names begin: lstm, project, …
    frozen: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = Field(min_length=1)
    optimiser: OptimiserSettings = OptimiserSettings()
    validation: ValidationSettings | None = None
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(default=1, ge=1)
    workers: int = Field(default=0, ge=0)  # processes that draw mixtures
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
        if objective.masks and objective.masks.across_windows and not network.unfolded:
            raise ValueError("objective.masks.across_windows needs model.network.unfolded")
        return self

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def difference(self, written: str) -> str | None:
        """A key whose value in another recipe (JSON) makes another training; None if none does."""
        try:
            other = Recipe.model_validate_json(written)
        except ValidationError:
            return "version"
        ours, theirs = (recipe.model_dump(exclude=MACHINE) for recipe in (self, other))
        return next((key for key in ours if ours[key] != theirs[key]), None)


def read_recipe(path: Path, changes: tuple[str, ...] = ()) -> Recipe:
    """Read a YAML recipe; `changes` and errors as of read_settings."""
    return read_settings(Recipe, path, changes)
