"""Presentation of a separation: files, one line of text, and players for notebooks."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.io import folder_aside, locked, move_new, refuse_existing

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLAYED = 120.0  # longest sound in a notebook, s: the notebook's file holds all of them
COLUMNS = 600  # columns of waveforms and spectrograms
RANGE_DB = 80.0  # range of a spectrogram below its loudest bin
FRAME = 0.032  # length of the frames of a spectrogram, s

PAGE = """
<div class="dpcl" style="display: grid; gap: .4rem; max-width: 60rem">
{%- for row in rows %}
<div style="display: grid; grid-template-columns: 7rem 1fr; gap: .2rem .6rem; align-items: center">
<b>{{ row.name }}</b>
<audio controls preload="none" src="{{ row.sound }}" aria-label="{{ row.name }}"
 style="width: 100%; height: 2rem"></audio>
<span></span>
<svg viewBox="0 -1 {{ columns }} 2" preserveAspectRatio="none" role="img"
 aria-label="Waveform: {{ row.name }}" style="width: 100%; height: 3rem">
<path d="{{ row.wave }}" fill="currentColor" fill-opacity=".6"/></svg>
{%- if row.picture %}
<span></span>
<img src="{{ row.picture }}" alt="Spectrogram: {{ row.name }}"
 style="width: 100%; height: 5rem; image-rendering: pixelated" />
{%- endif %}
</div>
{%- endfor %}
<small>{{ text }}{% if note %}; {{ note }}{% endif %}</small>
</div>
"""


class Presentation:
    """Base of `Separation`: everything that people see and save."""

    sources: Tensor
    background: Tensor | None
    sample_rate: int | None
    names: tuple[str, ...]

    def __repr__(self) -> str:
        """Return one line: number of sources, duration, rate and channels."""
        if self.sample_rate is None:
            return f"Separation(sources of shape {tuple(self.sources.shape)})"
        count, seconds = len(self.sources), self.sources.shape[-1] / self.sample_rate
        parts = [f"{count} source{'' if count == 1 else 's'}"]
        parts.append(f"{seconds:.2f} s at {self.sample_rate} Hz")
        if self.sources.ndim == 3:
            parts.append(f"{self.sources.shape[1]} channels")
        if self.background is not None:
            parts.append("background")
        return f"Separation({', '.join(parts)})"

    def _repr_html_(self) -> str | None:
        """Return players, waveforms and spectrograms for notebooks; None for a batch."""
        if self.sample_rate is None:
            return None
        from jinja2 import Environment

        named = self._named()
        mixture = np.sum(list(named.values()), axis=0)
        loudest = float(np.abs(mixture).max(initial=0)) or 1.0
        most = round(PLAYED * self.sample_rate)
        rows = [
            {
                "name": _title(name),
                "sound": _sound(samples[:, :most], self.sample_rate),
                "wave": _wave(samples / loudest),
                "picture": _picture(samples, mixture, self.sample_rate),
            }
            for name, samples in {"mixture": mixture, **named}.items()
        ]
        note = f"players hold the first {PLAYED:.0f} s" if mixture.shape[1] > most else ""
        page = Environment(autoescape=True).from_string(PAGE)
        return page.render(rows=rows, columns=COLUMNS, text=repr(self), note=note)

    def to_files(
        self,
        out: str | os.PathLike[str],
        stem: str = "recording",
        file_format: str = "wav",
        force: bool = False,
    ) -> list[Path]:
        """Write out/STEM_s1.wav, … and out/STEM_background.wav.

        Args:
            out: folder of the outputs; made where it does not exist.
            stem: beginning of the names.
            file_format: suffix of a format, such as wav (32-bit float) or flac (24 bits).
            force: replace files of these names.

        Returns:
            The files, sources first.

        Raises:
            InputError: A file exists and `force` is False, the folder cannot be written, or the
                separation is a batch.

        Example:
            >>> import dpcl, tempfile
            >>> separation = dpcl.separate(torch.randn(800), 8000, sources=2)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     print(*(path.name for path in separation.to_files(folder, "noise")))
            noise_s1.wav noise_s2.wav noise_background.wav
        """
        from dpcl.signal.formats import output_subtype
        from dpcl.signal.writer import AudioWriter

        if self.sample_rate is None:
            raise InputError("to_files: a batch has no files; write its items one by one")
        subtype = output_subtype(file_format, "FLOAT")
        folder = Path(out)
        paths = {name: folder / f"{stem}_{name}.{file_format}" for name in self._named()}
        for path in paths.values():
            refuse_existing(path, force)
        with folder_aside(folder) as aside:
            for name, samples in self._named().items():
                path, channels = aside / paths[name].name, len(samples)
                with AudioWriter(path, self.sample_rate, channels, subtype) as writer:
                    writer.write(samples)
            with locked(folder):
                for path in paths.values():
                    if force:
                        path.unlink(missing_ok=True)
                    move_new(aside / path.name, path)
        return list(paths.values())

    def _named(self) -> dict[str, NDArray[np.float32]]:
        """Return the signals (channels, T) by the ends of their file names."""
        names = self.names or [f"s{k + 1}" for k in range(len(self.sources))]
        signals = dict(zip(names, self.sources, strict=True))
        if self.background is not None:
            signals["background"] = self.background
        return {name: np.atleast_2d(signal.numpy()) for name, signal in signals.items()}


def _title(name: str) -> str:
    """Return the title of a signal: Source 1 for s1, Mixture; names of voices unchanged."""
    if re.fullmatch("s[0-9]+", name):
        return f"Source {name[1:]}"
    return name.capitalize() if name in ("mixture", "background") else name


def _data(data: bytes, kind: str) -> str:
    """Return a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _sound(samples: NDArray[np.float32], sample_rate: int) -> str:
    """Return samples (channels, n) as a data URL of a FLAC file, clipped at full scale."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples.T.clip(-1, 1), sample_rate, "PCM_16", format="FLAC")
    return _data(file.getvalue(), "audio/flac")


def _wave(samples: NDArray[np.float32]) -> str:
    """Return the path of a waveform: smallest and largest sample of each column, in [-1, 1]."""
    length = samples.shape[1]
    edges = np.linspace(0, length, min(COLUMNS, length), endpoint=False).astype(int)
    high = np.maximum.reduceat(samples.max(0), edges)
    low = np.minimum.reduceat(samples.min(0), edges)
    across = np.linspace(0, COLUMNS, len(edges))
    upper = [f"{x:.1f} {-y:.3f}" for x, y in zip(across, high, strict=True)]
    lower = [f"{x:.1f} {-y:.3f}" for x, y in zip(across[::-1], low[::-1], strict=True)]
    return f"M{'L'.join(upper + lower)}Z"


def _picture(samples: NDArray[np.float32], mixture: NDArray[np.float32], sample_rate: int) -> str:
    """Return the spectrogram as a data URL, in dB of the mixture; empty without matplotlib."""
    try:
        return _data(draw_spectrogram(samples, sample_rate, mixture), "image/png")
    except ImportError:
        return ""


def draw_spectrogram(
    samples: NDArray[np.float32],
    sample_rate: int,
    mixture: NDArray[np.float32] | None = None,
) -> bytes:
    """Draw a spectrogram without axes, at most 600 columns wide.

    Args:
        samples: (channels, T).
        sample_rate: in Hz.
        mixture: samples whose loudest bin is 0 dB; None for `samples` themselves.

    Returns:
        A PNG file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.image import imsave

    size = 2 ** round(np.log2(FRAME * sample_rate))
    hop = max(size // 4, samples.shape[1] // COLUMNS)

    def magnitude(signal: NDArray[np.float32]) -> Tensor:  # (F, L)
        mono = torch.from_numpy(signal.mean(0))
        window = torch.hann_window(size)
        padded = torch.nn.functional.pad(mono, (0, size))  # for short signals
        return torch.stft(padded, size, hop, window=window, center=False, return_complex=True).abs()

    own = magnitude(samples)
    loudest = (own if mixture is None else magnitude(mixture)).max().clamp_min(1e-12)
    decibels = 20 * (own / loudest).clamp_min(1e-10).log10()
    file = io.BytesIO()
    imsave(file, decibels.numpy(), cmap="magma", origin="lower", vmin=-RANGE_DB, vmax=0)
    return file.getvalue()
