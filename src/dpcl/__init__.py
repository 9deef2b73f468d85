"""Separates recordings of overlapping talkers or other sounds into sources.

Example:
    >>> import dpcl, soundfile
    >>> samples, sample_rate = soundfile.read("examples/two_talkers.flac")  # (T,)
    >>> separation = dpcl.separate(samples, sample_rate, sources=2)
    >>> tuple(separation.sources.shape) == (2, len(samples))  # the sources sum to the recording
    True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpcl.apps.files import separate_file as separate_file
    from dpcl.errors import InputError as InputError
    from dpcl.evaluation.improvement import SISDRImprovement as SISDRImprovement
    from dpcl.mixtures.index import write_corpus as write_corpus
    from dpcl.recordings.separate import load_separator as load_separator
    from dpcl.recordings.separate import separate as separate
    from dpcl.recordings.stream import StreamSeparator as StreamSeparator
    from dpcl.recordings.transcript import transcribe as transcribe
    from dpcl.separators.base import Separation as Separation
    from dpcl.separators.base import Separator as Separator

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "SISDRImprovement",
    "Separation",
    "Separator",
    "StreamSeparator",
    "load_separator",
    "separate",
    "separate_file",
    "transcribe",
    "write_corpus",
]

# Modules of the public names, imported at first use: `import dpcl` does not wait for torch.
_HOMES = {
    "InputError": "dpcl.errors",
    "SISDRImprovement": "dpcl.evaluation.improvement",
    "Separation": "dpcl.separators.base",
    "Separator": "dpcl.separators.base",
    "StreamSeparator": "dpcl.recordings.stream",
    "load_separator": "dpcl.recordings.separate",
    "separate": "dpcl.recordings.separate",
    "separate_file": "dpcl.apps.files",
    "transcribe": "dpcl.recordings.transcript",
    "write_corpus": "dpcl.mixtures.index",
    "objectives": "",
    "clustering": "",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dpcl' has no attribute {name!r}")
    if not _HOMES[name]:
        return import_module(f"dpcl.{name}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*_HOMES, "__version__"])
