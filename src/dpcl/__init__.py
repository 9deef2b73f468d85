"""dpcl: one recording in which sounds overlap in, each sound on its own out.

import dpcl, soundfile
samples, rate = soundfile.read("meeting.wav")
sources = dpcl.separate(samples.T, rate).sources  # (C, T), they add up to the recording
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpcl.errors import InputError as InputError
    from dpcl.recordings.separate import load_separator as load_separator
    from dpcl.recordings.separate import separate as separate
    from dpcl.recordings.stream import StreamSeparator as StreamSeparator
    from dpcl.separators.base import Separation as Separation
    from dpcl.separators.base import Separator as Separator

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "Separation",
    "Separator",
    "StreamSeparator",
    "load_separator",
    "separate",
]

# Loaded at first use: `dpcl --help` and `import dpcl` do not wait for torch.
_HOMES = {
    "InputError": "dpcl.errors",
    "Separation": "dpcl.separators.base",
    "Separator": "dpcl.separators.base",
    "StreamSeparator": "dpcl.recordings.stream",
    "load_separator": "dpcl.recordings.separate",
    "separate": "dpcl.recordings.separate",
    "objectives": "",
    "clustering": "",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dpcl' has no attribute {name!r}")
    if not _HOMES[name]:
        return import_module(f"dpcl.{name}")
    return getattr(import_module(_HOMES[name]), name)
