"""Settings of the conditions of training mixtures: each has its probability.

Ranges that no recipe changes are constants of `dpcl.mixtures.conditions`.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from dpcl.mixtures.channels import CODECS, check_codec
from dpcl.mixtures.noise import BackgroundSettings, check_shares
from dpcl.mixtures.room_bank import RoomSettings
from dpcl.settings import Settings


class Chance(Settings):
    """A condition that applies to a share of the mixtures."""

    probability: float = Field(ge=0, le=1)


class TurnSettings(Settings):
    """Talkers who are silent for a part of the mixture: turns, late beginnings, pauses."""

    probability: float = Field(default=0.4, ge=0, le=1)  # of a mixture
    talker: float = Field(default=0.5, ge=0, le=1)  # probability of each talker in it


class BandSettings(Settings):
    """Limits of the band; at most one of the three applies to a mixture."""

    telephone: float = Field(default=0.1, ge=0, le=1)  # probability of 300 to about 3,400 Hz
    highpass: float = Field(default=0.16, ge=0, le=1)  # probability
    lowpass: float = Field(default=0.08, ge=0, le=1)  # probability

    @model_validator(mode="after")
    def _together_at_most_one(self) -> BandSettings:
        total = self.telephone + self.highpass + self.lowpass
        if total > 1.0 + 1e-9:
            raise ValueError(
                f"telephone, highpass and lowpass add up to {total:g}; give at most 1 together"
            )
        return self


class CodecSettings(Settings):
    """Codecs of the mixture."""

    probability: float = Field(default=0.12, ge=0, le=1)
    # together 1
    shares: dict[str, float] = Field(
        default={"ulaw": 0.25, "alaw": 0.1, "gsm": 0.35, "opus": 0.15, "mp3": 0.15}
    )

    @model_validator(mode="after")
    def _shares_add_up(self) -> CodecSettings:
        check_shares("shares", self.shares, CODECS)
        return self

    def check(self) -> None:
        """Raise InputError for a codec with a share that this installation lacks."""
        for name, share in self.shares.items():
            if share and self.probability:
                check_codec(name)


class LevelSettings(Settings):
    """Levels of the talkers, and how far off the level of a recording is estimated."""

    wide: float = Field(default=0.3, ge=0, le=1)  # probability of talkers further apart
    wide_db: float = Field(default=15.0, ge=0, allow_inf_nan=False)
    misjudged: float = Field(default=0.3, ge=0, le=1)  # probability of a level factor other than 1
    misjudged_db: float = Field(default=8.0, ge=0, allow_inf_nan=False)  # uniform in +- this


class ConditionSettings(Settings):
    """Every condition of the training mixtures."""

    talkers: tuple[float, ...] = (0.12, 0.5, 0.26, 0.08, 0.04)  # shares of 1, 2, … talkers
    within: float = Field(default=0.6, ge=0, le=1)  # share of mixtures of talkers of one corpus
    speed: float = Field(default=0.14, ge=0, lt=0.5)  # talkers' speed, uniform in 1 +- this
    levels: LevelSettings = LevelSettings()
    turns: TurnSettings = TurnSettings()
    gain_control: Chance = Chance(probability=0.08)  # an automatic one for each talker
    rooms: RoomSettings = RoomSettings()
    background: BackgroundSettings = BackgroundSettings()
    band: BandSettings = BandSettings()
    shelf: Chance = Chance(probability=0.35)  # equalisation above a random frequency
    clipping: Chance = Chance(probability=0.06)  # limited peaks of the mixture
    codec: CodecSettings = CodecSettings()

    @model_validator(mode="after")
    def _talkers_add_up(self) -> ConditionSettings:
        shares = self.talkers
        if not 1 <= len(shares) <= 10:
            raise ValueError(f"talkers has {len(shares)} shares; give 1 to 10 of them")
        if any(share < 0 for share in shares) or abs(sum(shares) - 1.0) > 1e-6:
            raise ValueError(
                f"talkers add up to {sum(shares):g}; give shares of 0 or more that add up to 1"
            )
        return self

    @property
    def most_talkers(self) -> int:
        """The largest number of talkers that is drawn."""
        return max(number for number, share in enumerate(self.talkers, 1) if share)

    @property
    def needs_rooms(self) -> bool:
        """Whether responses of rooms are needed."""
        return self.rooms.probability > 0
