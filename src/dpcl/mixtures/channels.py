"""Channels between talkers and a recording: bands, equalisation, gain control, clipping, codecs.

Every function maps samples (..., T) to samples of the same shape, aligned in time.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import butter, lfilter, sosfilt

from dpcl.errors import InputError, need_package
from dpcl.settings import Settings, check_shares
from dpcl.signal.audio import resample

Samples = NDArray[np.float32]

_ORDER = 4  # order of the Butterworth filters of a list: 24 dB per octave
_BLOCK = 0.01  # s between two values of a gain control
_QUIET = 1e-5  # share of the mean power below which a gain control is constant
_PEAK = 0.8  # peak at the input of a codec, as a share of full scale

_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz
_LONGEST_LAG = 0.2  # s, upper limit of the delay of a codec


@dataclass(frozen=True)
class _SndfileCodec:
    """Codec of libsndfile."""

    format: str
    subtype: str
    rates: Sequence[int] = (8000,)  # Hz
    kbits: tuple[float, float] | None = None  # kbit/s, smallest and largest; None for a fixed rate
    usual: float = 0.0  # kbit/s


@dataclass(frozen=True)
class _FFmpegCodec:
    """Codec of FFmpeg, used through PyAV."""

    encoder: str
    decoder: str
    rate: int  # Hz
    kbits: tuple[float, float] | None = None
    usual: float = 0.0  # kbit/s


_SNDFILE = {
    "ulaw": _SndfileCodec("WAV", "ULAW"),
    "alaw": _SndfileCodec("WAV", "ALAW"),
    "gsm": _SndfileCodec("WAV", "GSM610"),
    "opus": _SndfileCodec("OGG", "OPUS", _OPUS_RATES, (6.0, 256.0), 24.0),
    "mp3": _SndfileCodec("MP3", "MPEG_LAYER_III", _MP3_RATES, (8.0, 320.0), 32.0),
}
_FFMPEG = {
    "amr": _FFmpegCodec("libopencore_amrnb", "amrnb", 8000, (4.75, 12.2), 12.2),
    "g722": _FFmpegCodec("g722", "g722", 16000),
}
CODECS = (*_SNDFILE, *_FFMPEG)


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
    # shares of the codecs; their sum is 1
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


@dataclass(frozen=True)
class Channel:
    """Channel of a mixture of a list; its parts apply in this order.

    Attributes:
        agc: largest change by the gain control of each talker, dB; 0 for none.
        highpass: lower limit of the band of talkers and background, Hz; 0 for none.
        lowpass: upper limit of this band, Hz; 0 for none.
        clip: share of the samples of the mixture that are clipped, %.
        codec: codec of the mixture, NAME or NAME:KBITS.
    """

    agc: float = 0.0
    highpass: float = 0.0
    lowpass: float = 0.0
    clip: float = 0.0
    codec: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.agc <= 60:
            raise ValueError(f"agc={self.agc:g} is not a change of 0 to 60 dB")
        if not (0 <= self.highpass < np.inf and 0 <= self.lowpass < np.inf):
            raise ValueError("a band has limits above 0 Hz")
        if self.lowpass and self.lowpass <= self.highpass:
            raise ValueError(f"a band of {self.highpass:g} to {self.lowpass:g} Hz is empty")
        if not 0 <= self.clip < 100:
            raise ValueError(f"clip={self.clip:g} is not a share of 0 to 100 %")
        if self.codec:
            _codec(self.codec)

    @property
    def text(self) -> str:
        """Return the channel as in a list: `band=300-3400|codec=ulaw`; "" for none."""
        words = []
        if self.agc:
            words.append(f"agc={self.agc:g}")
        if self.highpass and self.lowpass:
            words.append(f"band={self.highpass:g}-{self.lowpass:g}")
        elif self.highpass:
            words.append(f"highpass={self.highpass:g}")
        elif self.lowpass:
            words.append(f"lowpass={self.lowpass:g}")
        if self.clip:
            words.append(f"clip={self.clip:g}")
        if self.codec:
            words.append(f"codec={self.codec}")
        return "|".join(words)

    @property
    def distorts(self) -> bool:
        """True if the mixture differs from the sum of its parts."""
        return bool(self.clip or self.codec)


def parse_channel(text: str) -> Channel:
    """Read a channel from `highpass=300`, `band=300-3400|codec=ulaw`, `agc=12|clip=4`, ….

    Raises ValueError with a sentence for any other text.
    """
    values: dict[str, Any] = {}
    for word in text.split("|") if text else ():
        name, _, value = word.partition("=")
        try:
            if name == "codec":
                found: dict[str, Any] = {"codec": value}
            elif name == "band":
                low, high = value.split("-")
                found = {"highpass": float(low), "lowpass": float(high)}
            elif name in ("agc", "highpass", "lowpass", "clip"):
                found = {name: float(value)}
            else:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{word!r} is no part of a channel; write agc=DB, highpass=HZ, lowpass=HZ,"
                " band=HZ-HZ, clip=PERCENT or codec=NAME:KBITS"
            ) from None
        if set(found) & set(values):
            raise ValueError(f"{text!r} has two values of {name}; keep one")
        values |= found
    return Channel(**values)


def band_limited(
    samples: Samples, sample_rate: int, low: float = 0.0, high: float = 0.0, order: int = _ORDER
) -> Samples:
    """Remove what lies below `low` and above `high` Hz; 0 for either leaves that side alone."""
    nyquist = sample_rate / 2.0
    if high >= nyquist:
        high = 0.0
    if low >= nyquist:
        raise ValueError(f"a high-pass filter at {low:g} Hz leaves nothing at {sample_rate} Hz")
    if not low and not high:
        return samples
    limits: Any = [low, high] if low and high else low or high
    kind = "bandpass" if low and high else "highpass" if low else "lowpass"
    sections = butter(order, np.asarray(limits) / nyquist, kind, output="sos")
    return np.asarray(sosfilt(sections, samples, axis=-1), np.float32)


def shelved(samples: Samples, sample_rate: int, corner: float, gain_db: float) -> Samples:
    """Raise or lower all above `corner` Hz by `gain_db`, with a shelf of first order."""
    if corner >= sample_rate / 2:
        return samples  # there is nothing above the corner
    warped, gain = np.tan(np.pi * corner / sample_rate), 10.0 ** (gain_db / 20.0)
    numerator = np.array([gain + warped, warped - gain]) / (1.0 + warped)
    denominator = np.array([1.0, (warped - 1.0) / (1.0 + warped)])
    return np.asarray(lfilter(numerator, denominator, samples, axis=-1), np.float32)


def gain_controlled(
    samples: Samples, sample_rate: int, depth_db: float, seconds: float = 0.5
) -> Samples:
    """Automatic gain control: raise quiet and lower loud stretches by at most `depth_db`.

    The level follows the power of (T,) with a time constant of `seconds`; the target is the mean
    power.
    """
    block = max(1, round(_BLOCK * sample_rate))
    count = -(-len(samples) // block)
    squares = np.pad(samples, (0, count * block - len(samples))).reshape(count, block)
    power = np.einsum("ij,ij->i", squares, squares) / block  # (blocks,)
    mean = float(power.mean())
    if mean == 0.0:
        return samples
    decay = np.exp(-_BLOCK / seconds)
    level, _ = lfilter([1.0 - decay], [1.0, -decay], power / mean, zi=[decay])
    gain_db = np.clip(-10.0 * np.log10(np.maximum(level, _QUIET)), -depth_db, depth_db)
    places = (np.arange(count) + 0.5) * block
    gains = 10.0 ** (np.interp(np.arange(len(samples)), places, gain_db) / 20.0)
    return np.asarray(samples * gains, np.float32)


def clipped(mixture: Samples, percent: float) -> Samples:
    """Clip a mixture (T,) at the level that `percent` % of its samples reach."""
    magnitude = np.abs(mixture)
    index = min(int(len(mixture) * (1.0 - percent / 100.0)), len(mixture) - 1)
    limit = np.partition(magnitude, index)[index]
    return np.clip(mixture, -limit, limit)


def check_codec(codec: str) -> None:
    """Raise InputError if this installation lacks a codec; the message names the remedy."""
    name, found, _ = _codec(codec)
    if isinstance(found, _SndfileCodec):
        formats = soundfile.available_formats()
        if found.format not in formats or found.subtype not in soundfile.available_subtypes(
            found.format
        ):
            raise InputError(
                f"codec {name}: the libsndfile of this installation lacks {found.subtype}; install"
                " a newer soundfile"
            )
        return
    need_package("codecs", f"codec {name} needs", "av")
    import av

    if found.encoder not in av.codecs_available:
        raise InputError(
            f"codec {name}: the FFmpeg of this installation lacks {found.encoder}; install PyAV"
            ' with `pip install "dpcl[codecs]"`, or use another codec'
        )


def coded(mixture: Samples, sample_rate: int, codec: str) -> Samples:
    """Encode and decode a mixture in memory, at the same level and aligned in time.

    Telephone codecs run at 8 kHz: they remove everything above 4 kHz.

    Args:
        mixture: (T,).
        sample_rate: in Hz.
        codec: NAME or NAME:KBITS with a name of CODECS, such as `gsm` or `opus:16`.

    Raises:
        InputError: This installation lacks the codec.
    """
    _, found, kbits = _codec(codec)
    peak = float(np.abs(mixture).max(initial=0.0))
    if peak == 0.0:
        return mixture
    if isinstance(found, _SndfileCodec):
        rate = next((r for r in found.rates if r >= sample_rate), found.rates[-1])
    else:
        rate = found.rate
    own = resample(mixture, sample_rate, rate) if rate != sample_rate else mixture
    scaled = own * np.float32(_PEAK / peak)
    if isinstance(found, _SndfileCodec):
        decoded = _through_sndfile(scaled, rate, found, kbits)
        if len(decoded) != len(scaled):  # small MP3 frames have no room to state the delay
            decoded = _aligned(decoded, scaled, rate)
    else:
        check_codec(codec)
        decoded = _aligned(_through_ffmpeg(scaled, found, kbits), scaled, rate)
    if rate != sample_rate:
        decoded = resample(decoded, rate, sample_rate)
    decoded = decoded[: len(mixture)]
    return np.pad(decoded, (0, len(mixture) - len(decoded))) * np.float32(peak / _PEAK)


def _codec(text: str) -> tuple[str, _SndfileCodec | _FFmpegCodec, float]:
    """Parse the name, the codec and the kbit/s of `NAME:KBITS`; ValueError for any other text."""
    name, colon, number = text.partition(":")
    codec: _SndfileCodec | _FFmpegCodec | None = _SNDFILE.get(name) or _FFMPEG.get(name)
    if codec is None:
        raise ValueError(f"{name!r} is no codec; use one of {', '.join(CODECS)}")
    if not colon:
        return name, codec, codec.usual
    try:
        kbits = float(number)
    except ValueError:
        kbits = np.nan
    low, high = codec.kbits or (np.inf, -np.inf)
    if codec.kbits is None:
        raise ValueError(f"codec {name} has one bit rate; write codec={name}")
    if not low <= kbits <= high:
        raise ValueError(f"codec {name} has {low:g} to {high:g} kbit/s, not {number}")
    return name, codec, kbits


def _through_sndfile(samples: Samples, rate: int, codec: _SndfileCodec, kbits: float) -> Samples:
    options: dict[str, Any] = {}
    if codec.subtype == "OPUS":
        options["compression_level"] = _level(kbits, 6.0, 256.0)
    elif codec.subtype == "MPEG_LAYER_III":
        limits = (8.0, 64.0) if rate <= 12000 else (8.0, 160.0) if rate <= 24000 else (32.0, 320.0)
        options |= {"compression_level": _level(kbits, *limits), "bitrate_mode": "CONSTANT"}
    file = io.BytesIO()
    soundfile.write(file, samples, rate, codec.subtype, format=codec.format, **options)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return np.asarray(decoded, np.float32)


def _level(kbits: float, low: float, high: float) -> float:
    """Return the compression level of libsndfile, from 0 for the largest bit rate to 1."""
    return float(np.clip((high - kbits) / (high - low), 0.0, 1.0))


def _through_ffmpeg(samples: Samples, codec: _FFmpegCodec, kbits: float) -> Samples:
    import av

    encoder: Any = av.CodecContext.create(codec.encoder, "w")
    encoder.sample_rate, encoder.layout = codec.rate, "mono"
    encoder.format = encoder.codec.audio_formats[0]
    if codec.kbits:
        encoder.bit_rate = round(kbits * 1000)
    encoder.open()
    decoder: Any = av.CodecContext.create(codec.decoder, "r")
    decoder.sample_rate, decoder.layout = codec.rate, "mono"
    size = encoder.frame_size or 320
    padded = np.pad(samples, (0, -len(samples) % size + 2 * size))
    pulses = np.rint(padded * 32767.0).astype(np.int16).reshape(1, -1)
    packets = []
    for start in range(0, pulses.shape[1], size):
        frame = av.AudioFrame.from_ndarray(pulses[:, start : start + size], "s16", "mono")
        frame.sample_rate, frame.pts = codec.rate, start
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    pieces = []
    for packet in [*packets, None]:
        for frame in decoder.decode(packet):
            piece = frame.to_ndarray().reshape(-1)
            scale = 32768.0 if np.issubdtype(piece.dtype, np.integer) else 1.0
            pieces.append(piece.astype(np.float32) / np.float32(scale))
    return np.concatenate(pieces)


def _aligned(decoded: Samples, original: Samples, rate: int) -> Samples:
    """Remove the delay of a codec: the lag of the largest cross-correlation."""
    most = round(_LONGEST_LAG * rate)
    size = next_fast_len(len(decoded) + len(original), real=True)
    product = rfft(decoded, size) * np.conj(rfft(original, size))
    lag = int(np.argmax(irfft(product, size)[: most + 1]))
    return decoded[lag:]
