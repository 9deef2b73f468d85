"""`dpcl live`: raw samples in, their sources out, while they are heard."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dpcl.apps.console import screen
from dpcl.apps.process import heavy_imports
from dpcl.errors import InputError, missing_package
from dpcl.separators.limits import check_recording, check_sources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Format = Literal["s16le", "f32le"]
TYPES = {"s16le": "<i2", "f32le": "<f4"}  # as numpy names them
MOST = 1 << 16  # bytes read at once; less is taken as soon as it is there
MICROPHONE_BLOCK = 0.02  # s


def live(
    sources: Annotated[int, typer.Option(help="How many sounds, 1 to 10.")] = 2,
    model: Annotated[
        str, typer.Option(help="A shipped model, or a .safetensors file; it must be causal.")
    ] = "causal",
    rate: Annotated[
        int | None, typer.Option(help="Hz, in and out; the network's own if left out.")
    ] = None,
    sample_format: Annotated[
        Format, typer.Option("--format", help="Of samples, in and out.")
    ] = "s16le",
    microphone: Annotated[
        bool, typer.Option("--microphone", help="Hear the microphone, not standard input.")
    ] = False,
) -> None:
    """Raw samples of one channel in, its sources as interleaved channels out, 40 ms later.

    Example: **arecord -t raw -f S16_LE -r 16000 | dpcl live --rate 16000 > sources.raw**
    """
    separate_live(model, sources, rate, sample_format, microphone)


def separate_live(
    model: str, sources: int, rate: int | None, sample_format: Format, microphone: bool
) -> None:
    """Separate the microphone or standard input, into interleaved channels on standard output.

    rate: Hz in and out, None for the network's own. It ends, the rest written, with the input or
    at Ctrl-C; and without a word when nobody reads any more.
    Raises InputError for a wrong argument, a terminal where there should be a pipe, samples that
    are not finite, and a microphone that cannot be used.
    """
    check_sources(sources)
    if rate is not None:
        check_recording((1,), rate)
    if not microphone and sys.stdin.isatty():
        raise InputError(
            "standard input is a terminal; pipe raw samples into `dpcl live`, or use --microphone"
        )
    if sys.stdout.isatty():
        raise InputError(
            "standard output is a terminal, which shows no sound; pipe it into a player or a file"
        )
    with heavy_imports():
        from dpcl.recordings.stream import StreamSeparator

    stream = StreamSeparator(model, sources, rate)
    if screen.is_interactive:
        delay = 1000 * stream.latency / stream.sample_rate
        screen.print(
            f"{stream.sample_rate} Hz in, {sources} interleaved channels of {sample_format} out,"
            f" {delay:.0f} ms later; Ctrl-C ends it"
        )
    blocks = _microphone(stream.sample_rate) if microphone else _standard_input(sample_format)
    try:
        for block in _until_interrupted(blocks):
            _write(stream.push(block), sample_format)
        _write(stream.flush(), sample_format)
    except KeyboardInterrupt:
        pass  # amid a block: what is written is whole
    except BrokenPipeError:
        # The reader has left, as `head` does. What is still buffered must go somewhere at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _standard_input(sample_format: Format) -> Iterator[NDArray[np.float32]]:
    """Blocks of samples, full scale 1, as soon as there are any."""
    import numpy as np

    kind = np.dtype(TYPES[sample_format])
    waiting = b""
    while chunk := os.read(sys.stdin.fileno(), MOST):
        waiting += chunk
        whole = len(waiting) // kind.itemsize * kind.itemsize
        samples: NDArray[np.float32] = np.frombuffer(waiting[:whole], kind).astype(np.float32)
        yield samples if sample_format == "f32le" else np.ldexp(samples, -15)
        waiting = waiting[whole:]
    if waiting:
        screen.print(
            f"dpcl: the input ends {len(waiting)} bytes into a sample of {sample_format}; they were"
            " left out",
            style="yellow",
        )


def _microphone(rate: int) -> Iterator[NDArray[np.float32]]:
    """Blocks of samples, without end."""
    import numpy as np

    try:
        import sounddevice
    except ImportError as error:
        raise missing_package("live", "the microphone needs", "sounddevice") from error
    except OSError as error:  # the package is there, what it calls is not
        raise InputError(
            "the microphone needs the PortAudio library (libportaudio2); install it first"
        ) from error
    size = max(1, round(MICROPHONE_BLOCK * rate))
    try:
        with sounddevice.RawInputStream(
            samplerate=rate, blocksize=size, channels=1, dtype="float32"
        ) as device:
            told = False
            while True:
                data, lost = device.read(size)
                if lost and not told:
                    told = True
                    screen.print(
                        "dpcl: too slow for the microphone; some samples were lost", style="yellow"
                    )
                yield np.frombuffer(data, np.float32)
    except sounddevice.PortAudioError as error:
        raise InputError(
            f"the microphone cannot be used at {rate} Hz: {error}; try another --rate"
        ) from error


def _until_interrupted(blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """The blocks up to a Ctrl-C that comes while waiting for one: the rest can still be written."""
    try:
        yield from blocks
    except KeyboardInterrupt:
        return


def _write(sources: Tensor, sample_format: Format) -> None:
    """sources (C, n) as interleaved channels; s16le stops at full scale."""
    frames = sources.T.contiguous()  # (n, C)
    if sample_format == "s16le":
        frames = (frames * 32768).round().clamp(-32768, 32767)
    sys.stdout.buffer.write(frames.numpy().astype(TYPES[sample_format]).tobytes())
    sys.stdout.buffer.flush()
