"""`dpcl live`: separate a stream of raw samples, block by block."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dpcl.apps.console import screen
from dpcl.apps.process import closed_streams, heavy_imports
from dpcl.errors import InputError, check_recording, check_sources, missing_package

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Format = Literal["s16le", "f32le"]
TYPES = {"s16le": "<i2", "f32le": "<f4"}  # numpy's name of each format
MOST = 1 << 16  # number of bytes read at once, at most; fewer are processed as they arrive
MICROPHONE_BLOCK = 0.02  # length of a block of the microphone, s


def live(
    sources: Annotated[
        int, typer.Option("--sources", "-n", help="Number of sources, 1 to 10.")
    ] = 2,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="Shipped model, or a .safetensors file; it must be causal."
        ),
    ] = "causal",
    rate: Annotated[
        int | None,
        typer.Option(help="Sample rate of input and output in Hz; the model's if omitted."),
    ] = None,
    sample_format: Annotated[
        Format, typer.Option("--format", help="Format of the samples of input and output.")
    ] = "s16le",
    microphone: Annotated[
        bool,
        typer.Option("--microphone", help="Read the microphone instead of standard input."),
    ] = False,
) -> None:
    """Separate raw samples of one channel into interleaved channels, one per source, 40 ms later.

    Example: **arecord -t raw -f S16_LE -r 16000 | dpcl live --rate 16000 > sources.raw**
    """
    separate_live(model, sources, rate, sample_format, microphone)


def separate_live(
    model: str, sources: int, rate: int | None, sample_format: Format, microphone: bool
) -> None:
    """Separate the microphone or standard input into interleaved channels on standard output.

    The stream ends with the input or at Ctrl-C, and pending samples are written. It ends without a
    message when the reader of standard output closes the pipe.

    Args:
        model: name of a causal model, or a weights file.
        sources: number of sources.
        rate: sample rate of input and output, Hz; None for the model's own.
        sample_format: format of the samples of input and output.
        microphone: read the microphone instead of standard input.

    Raises:
        InputError: An argument is wrong, standard input or output is a terminal, samples are not
            finite, or the microphone cannot be used.
    """
    check_sources(sources)
    if rate is not None:
        check_recording((1,), rate)
    if sys.stdin is None and not microphone:  # closed by the shell with <&-
        raise InputError("standard input: is closed; pipe raw samples into `dpcl live`")
    if not microphone and sys.stdin.isatty():
        raise InputError(
            "standard input is a terminal; pipe raw samples into `dpcl live`, or use --microphone"
        )
    if "stdout" in closed_streams:
        raise InputError("standard output: is closed; pipe the samples into a player or a file")
    if sys.stdout.isatty():
        raise InputError("standard output is a terminal; pipe the samples into a player or a file")
    with heavy_imports():
        from dpcl.recordings.stream import StreamSeparator

    stream = StreamSeparator(model, sources, rate)
    if screen.is_interactive:
        delay = 1000 * stream.latency / stream.sample_rate
        screen.print(
            f"{stream.sample_rate} Hz in, {sources} interleaved channels of {sample_format} out,"
            f" {delay:.0f} ms later; press Ctrl-C to stop"
        )
    blocks = _microphone(stream.sample_rate) if microphone else _standard_input(sample_format)
    try:
        for block in _until_interrupted(blocks):
            _write(stream.push(block), sample_format)
        _write(stream.flush(), sample_format)
    except KeyboardInterrupt:
        pass  # the interrupt came within a block: everything written is complete
    except BrokenPipeError:
        # The reader closed the pipe, like `head`. The buffer of stdout is flushed at exit, so it
        # needs a file that accepts it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _standard_input(sample_format: Format) -> Iterator[NDArray[np.float32]]:
    """Yield blocks of samples (n,), full scale 1, as they arrive."""
    import numpy as np

    kind = np.dtype(TYPES[sample_format])
    pending = b""
    while chunk := os.read(sys.stdin.fileno(), MOST):
        pending += chunk
        complete = len(pending) // kind.itemsize * kind.itemsize
        samples: NDArray[np.float32] = np.frombuffer(pending[:complete], kind).astype(np.float32)
        yield samples if sample_format == "f32le" else np.ldexp(samples, -15)
        pending = pending[complete:]
    if pending:
        screen.print(
            f"dpcl: the input ends {len(pending)} bytes into a sample of {sample_format}; these"
            " bytes were ignored",
            style="yellow",
        )


def _microphone(rate: int) -> Iterator[NDArray[np.float32]]:
    """Yield blocks of samples (n,) of the microphone, without end."""
    import numpy as np

    try:
        import sounddevice
    except ImportError as error:
        raise missing_package("live", "the microphone needs", "sounddevice") from error
    except OSError as error:  # the package is installed, but its library is not
        raise InputError(
            "the microphone needs the PortAudio library (libportaudio2); install it first"
        ) from error
    size = max(1, round(MICROPHONE_BLOCK * rate))
    try:
        with sounddevice.RawInputStream(
            samplerate=rate, blocksize=size, channels=1, dtype="float32"
        ) as device:
            warned = False
            while True:
                data, lost = device.read(size)
                if lost and not warned:
                    warned = True
                    screen.print(
                        "dpcl: too slow for the microphone; some samples were lost", style="yellow"
                    )
                yield np.frombuffer(data, np.float32)
    except sounddevice.PortAudioError as error:
        raise InputError(
            f"the microphone cannot be used at {rate} Hz: {error}; try another --rate"
        ) from error


def _until_interrupted(blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Yield blocks until Ctrl-C while waiting for one; pending output can then be written."""
    try:
        yield from blocks
    except KeyboardInterrupt:
        return


def _write(sources: Tensor, sample_format: Format) -> None:
    """Write sources (C, n) as interleaved channels; s16le is clipped at full scale."""
    frames = sources.T.contiguous()  # (n, C)
    if sample_format == "s16le":
        frames = (frames * 32768).round().clamp(-32768, 32767)
    sys.stdout.buffer.write(frames.numpy().astype(TYPES[sample_format]).tobytes())
    sys.stdout.buffer.flush()
