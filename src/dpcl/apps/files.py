"""Separate recordings from disk to disk: all outputs of a recording, or none."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import soundfile

import dpcl
from dpcl.apps.console import expand_wildcards
from dpcl.apps.process import heavy_imports
from dpcl.errors import (
    FLOOR_DB,
    MOST_SOURCES,
    InputError,
    as_path,
    check_floor,
    check_recording,
    check_sources,
    check_voices,
)
from dpcl.io import (
    Progress,
    Report,
    as_report,
    folder_aside,
    locked,
    move_new,
    no_report,
    refuse_existing,
)
from dpcl.signal.formats import check_output, mpg123_silenced, output_subtype
from dpcl.signal.reader import AudioReader
from dpcl.signal.writer import AudioWriter

if TYPE_CHECKING:
    from dpcl.recordings.recogniser import Recogniser
    from dpcl.recordings.separate import RecordingSeparation
    from dpcl.recordings.transcript import SpeechTracks

STANDARD = Path("-")  # name of standard input
POOR_DB = 2.0  # estimated SI-SDR of a source, dB, below which a sentence says so
LEAST_SPEECH = 0.01  # energy of the talkers, relative to the background's, with any speech
SOFTWARE = "dpcl"  # beginning of the metadata `software` of all outputs
# Suffixes of the timeline (labels of Audacity, RTTM, JSON) and of the transcript. Files without a
# mark come first, because `is_ours` finds it in the file of the same name with another suffix.
TIMELINES = (".txt", ".rttm", ".json")
TRANSCRIPTS = (".srt", ".vtt", ".json")
MARKED = {".txt": ".rttm", ".srt": ".json"}  # suffixes of files that hold the mark for others
MARKS = (b";; dpcl ", b'{\n "software": "dpcl ', b"WEBVTT\n\nNOTE dpcl ")
SEPARATING = 0.2  # share of the time before a transcript


@dataclass(frozen=True)
class Separated:
    """Result of one recording.

    Attributes:
        recording: file of the recording.
        outputs: files of the sources, of the background, of the timeline and of the transcript.
        background: file of the background, one of `outputs`; None without one.
        sample_rate: of all files, in Hz.
        seconds: duration of the recording, s.
        took: time of the separation, s.
        warnings: sentences about problems, such as a recording that is cut off.
        confidence: estimated SI-SDR of each source, dB; None if the model does not estimate it.
        names: names of the sources: of known voices, or s1, s2, ….
    """

    recording: Path
    outputs: tuple[Path, ...]
    background: Path | None
    sample_rate: int
    seconds: float
    took: float
    warnings: tuple[str, ...]
    confidence: tuple[float, ...] | None = None
    names: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[Path, ...]:
        """Return the files of the sources only."""
        return tuple(
            path
            for path in self.outputs
            if path != self.background and path.suffix not in TIMELINES + TRANSCRIPTS
        )


def separate_files(
    recordings: Sequence[Path],
    out: Path,
    model: str = "default",
    sources: int | None = None,
    force: bool = False,
    done: Callable[[Separated], None] = lambda separated: None,
    file_format: str = "wav",
    report: Report = no_report,
    most: int = MOST_SOURCES,
    background: bool = True,
    resume: bool = False,
    device: str = "cpu",
    timeline: bool = False,
    transcribe: str | None = None,
    language: str | None = None,
    spatial: bool = True,
    floor: float = FLOOR_DB,
    voices: Mapping[str, Path] | None = None,
    only: str | None = None,
) -> None:
    """Write out/STEM_s1.wav, … and out/STEM_background.wav of every recording.

    Recordings stream from disk to disk. Arguments and outputs are checked before anything is
    written. An interrupted run leaves the outputs of finished recordings, and nothing of the
    others. A recording that is cut off is separated up to that point, with a warning.

    Args:
        recordings: files; "-" reads standard input.
        out: folder of the outputs.
        model: separator, as `dpcl.separate` takes it.
        sources: number of sources; None to estimate it.
        force: replace files that have the names of outputs. Other files are never removed, except
            outputs of earlier runs that carry dpcl's mark in their metadata.
        done: called after each recording.
        file_format: suffix of a format of `AudioWriter`, or "input" for no change of format.
        report: called with the seconds of audio done and in all.
        most: upper limit for the estimated number of sources.
        background: write the background if the model estimates one; False shares it among the
            sources.
        resume: replace outputs of earlier runs that carry dpcl's mark, and no other file.
        device: device that runs the network: `cpu`, `cuda`, `mps` or `auto`.
        timeline: also write who speaks when: out/STEM_timeline.txt (labels of Audacity), .rttm
            and .json.
        transcribe: Whisper model that writes who says what: out/STEM_transcript.srt, .vtt and
            .json; a folder, or a name in its cache.
        language: of the speech, such as `en`; None to detect it for each talker.
        spatial: refine the masks by differences of level and phase between channels.
        floor: level in dB to which inactive talkers are attenuated in recordings longer than 10 s.
        voices: recording of a talker alone by name. Sources with these voices get the names:
            out/STEM_NAME.wav, for a model such as `default`.
        only: name of the only source to write, one of `voices`.

    Raises:
        InputError: A recording cannot be read, two share a name, an output exists, the folder
            cannot be written, or `dpcl.separate` refuses an argument.
    """
    check_sources(sources)
    check_sources(most)
    check_floor(floor)
    voices = voices or {}
    check_known(voices, only)
    recordings = expand_wildcards(recordings)
    with ExitStack() as stack:
        kept: dict[Path, AudioReader] = {}  # what can be read only once

        def opened(recording: Path) -> AbstractContextManager[AudioReader]:
            """Open a recording for one pass, so that a thousand recordings need one open file."""
            if recording not in kept and _is_pipe(recording):
                kept[recording] = stack.enter_context(_pipe_reader(recording))
            if recording in kept:
                return nullcontext(kept[recording])
            return AudioReader(recording)

        targets, words = [], transcribe is not None
        for recording in recordings:
            with opened(recording) as reader:
                targets.append(
                    _target(recording, reader, out, file_format, timeline, words, (*voices,))
                )
        _check_outputs(recordings, targets, force, resume)
        with heavy_imports():  # after the checks: a mistyped name is reported at once
            from dpcl.networks.precision import single_thread
            from dpcl.recordings.recording import scan
            from dpcl.recordings.separate import RecordingSeparation, enrol
            from dpcl.separators.registry import build

        threads = stack.enter_context(single_thread())  # busy cores then do not delay it
        recogniser = _recogniser(transcribe, language, device, threads)
        separator = build(model, device=device)
        if voices:
            separator = enrol(separator, voices)
        scans, lengths = [], []
        for recording in recordings:
            with opened(recording) as reader:
                scans.append(scan(reader))
                lengths.append(scans[-1].samples / reader.sample_rate)
        for number, (recording, target) in enumerate(zip(recordings, targets, strict=True)):
            start = time.monotonic()

            def report_one(share: Progress, number: int = number) -> None:
                """Report the progress of one recording as progress over all recordings."""
                seconds = sum(lengths[:number]) + share.done / share.total * lengths[number]
                report(Progress(seconds, sum(lengths), "s of audio"))

            with (
                opened(recording) as reader,
                RecordingSeparation(
                    reader,
                    separator,
                    sources,
                    most,
                    _part(report_one, 0, SEPARATING) if recogniser else report_one,
                    scans[number],
                    threads,
                    background,
                    timeline or words,
                    spatial,
                    floor,
                ) as separation,
            ):
                report_words = _part(report_one, SEPARATING, 1)
                outputs, notes = _write(
                    target, reader, separation, force, resume, recogniser, report_words, only
                )
                background_file = target.background if target.background in outputs else None
                names, chosen = _chosen(reader.name, separation, only)
                confidence = separation.link().confidence
                if confidence is not None:
                    confidence = tuple(confidence[number] for number in chosen)
                warnings = (*_warnings(reader), *notes, *_poor(outputs, confidence))
                took = time.monotonic() - start
                done(
                    Separated(
                        recording,
                        outputs,
                        background_file,
                        reader.sample_rate,
                        lengths[number],
                        took,
                        warnings,
                        confidence,
                        names,
                    )
                )


def separate_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] = "separated",
    sources: int | None = None,
    model: str = "default",
    progress: Any = None,
    force: bool = False,
    transcribe: str | None = None,
    spatial: bool = True,
    floor: float = FLOOR_DB,
    voices: Mapping[str, str | os.PathLike[str]] | None = None,
    only: str | None = None,
) -> Separated:
    """Separate a recording from disk to disk, like `dpcl separate`.

    Args:
        path: audio file.
        out: folder of the outputs: STEM_s1.wav, STEM_s2.wav, …
        sources: number of sources, 1 to 10; estimated if omitted.
        model: name of a shipped model or of a method, hf://ORG/NAME, or path of a weights file.
        progress: function of the seconds of audio done and in all, or a bar of tqdm or rich.
        force: replace outputs that exist.
        transcribe: Whisper model that writes who says what (extra `asr`): folder, or name in its
            cache.
        spatial: refine the masks by differences of level and phase between channels.
        floor: level in dB to which inactive talkers are attenuated in recordings longer than 10 s.
        voices: recording of a talker alone by name; sources with these voices get the names.
        only: name of the only source to write, one of `voices`.

    Returns:
        The files (`outputs`), `sample_rate`, `seconds` and `warnings`.

    Raises:
        InputError: The recording cannot be read, an output exists, the folder cannot be written, or
            an argument is out of range.

    Example:
        >>> import dpcl, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = dpcl.separate_file("examples/two_talkers.flac", folder, sources=2)
        ...     print(*(path.name for path in done.outputs))
        two_talkers_s1.wav two_talkers_s2.wav two_talkers_background.wav
    """
    finished: list[Separated] = []
    report = as_report(progress)
    check_voices(voices or {})
    if transcribe is not None:
        transcribe = str(as_path(transcribe, "transcribe"))
    separate_files(
        [as_path(path, "path")],
        as_path(out, "out"),
        model,
        sources,
        force,
        finished.append,
        report=report,
        transcribe=transcribe,
        spatial=spatial,
        floor=floor,
        voices={name: as_path(file, f"voices: {name}") for name, file in (voices or {}).items()},
        only=only,
    )
    return finished[0]


def check_known(voices: Mapping[str, str | os.PathLike[str]], only: str | None) -> None:
    """Check the known voices of an order before any work.

    Args:
        voices: recording of each voice by name.
        only: name of the only source to write.

    Raises:
        InputError: A name or a recording is wrong, or the only source is no voice.
    """
    check_voices(voices)
    if only is not None and only not in voices:
        raise InputError(f"--only {only}: has no recording; add --voice {only}=FILE")
    for path in voices.values():
        AudioReader(Path(path)).close()  # raises for a missing file


def read_voices(options: Sequence[str]) -> dict[str, Path]:
    """Read the option `--voice NAME=FILE`.

    Raises:
        InputError: An option has no name or no file, or a name occurs twice.
    """
    found: dict[str, Path] = {}
    for option in options:
        name, equals, file = option.partition("=")
        if not (name and equals and file):
            raise InputError(f"--voice {option}: has no name and file; give NAME=FILE")
        if name in found:
            raise InputError(
                f"--voice {name}: the name occurs twice; give every voice its own name"
            )
        found[name] = Path(file)
    return found


def _recogniser(
    model: str | None, language: str | None, device: str, threads: int
) -> Recogniser | None:
    """Load the model of a transcript; None without one."""
    if model is None:
        if language is not None:
            raise InputError("--language: is the language of a transcript; add --transcribe MODEL")
        return None
    from dpcl.recordings.recogniser import Whisper

    return Whisper(model, language, device, threads)


def _part(report: Report, first: float, last: float) -> Report:
    """Return a report of a part of the work, from the share `first` to the share `last`."""
    return lambda moved: report(Progress(first + (last - first) * moved.done / moved.total, 1))


def _is_pipe(recording: Path) -> bool:
    """Return true for standard input, named pipes and the like, which end after one pass."""
    return recording == STANDARD or (recording.exists() and not recording.is_file())


def _pipe_reader(recording: Path) -> AudioReader:
    """Copy a pipe to a temporary file, and open it."""
    if recording != STANDARD:
        return AudioReader(recording)
    if sys.stdin is None:  # closed by the shell with <&-
        raise InputError("standard input: is closed; give a file, or pipe a recording to dpcl")
    return AudioReader(sys.stdin.buffer)


def check_reader(reader: AudioReader) -> None:
    """Check that separators take the channels, length and sample rate of a recording.

    Raises:
        InputError: They do not; the message names the recording.
    """
    try:
        check_recording((reader.channels, reader.frames or 1), reader.sample_rate)
    except InputError as error:
        raise InputError(f"{reader.name}: {error}") from error


@dataclass(frozen=True)
class _Target:
    """Names and coding of the outputs of one recording."""

    folder: Path
    stem: str
    suffix: str
    subtype: str
    input_subtype: str
    timeline: bool
    transcript: bool
    voices: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        """Return the file of a source."""
        return self.folder / f"{self.stem}_{name}{self.suffix}"

    @property
    def background(self) -> Path:
        """Return the file of the background."""
        return self.folder / f"{self.stem}_background{self.suffix}"

    @property
    def timelines(self) -> tuple[Path, ...]:
        """Return the files of the timeline."""
        return tuple(self.folder / f"{self.stem}_timeline{suffix}" for suffix in TIMELINES)

    @property
    def transcripts(self) -> tuple[Path, ...]:
        """Return the files of the transcript."""
        return tuple(self.folder / f"{self.stem}_transcript{suffix}" for suffix in TRANSCRIPTS)

    def existing(self) -> list[Path]:
        """Return the outputs of earlier runs, also with more sources; of known voices, these.

        Texts count if they are wanted now, or if dpcl wrote them for the sources.
        """
        timelines = [path for path in self.timelines if self.timeline or is_ours(path)]
        transcripts = [path for path in self.transcripts if self.transcript or is_ours(path)]
        names = (*(f"s{k + 1}" for k in range(MOST_SOURCES)), *self.voices)
        sources = (self.path(name) for name in names)
        paths = (*sources, self.background, *timelines, *transcripts)
        return [path for path in paths if os.path.lexists(path)]


def _target(
    recording: Path,
    reader: AudioReader,
    out: Path,
    file_format: str,
    timeline: bool,
    transcript: bool,
    voices: tuple[str, ...],
) -> _Target:
    """Return the outputs of a recording; check that their format can hold the sources."""
    check_reader(reader)
    piped = _is_pipe(recording)
    if file_format != "input":
        suffix = f".{file_format}"
    else:
        suffix = f".{reader.format.lower()}" if piped else recording.suffix
    stem = "stdin" if recording == STANDARD else recording.stem
    subtype = output_subtype(suffix[1:], reader.subtype)
    target = _Target(out, stem, suffix, subtype, reader.subtype, timeline, transcript, voices)
    try:
        check_output(target.path("s1"), reader.sample_rate, reader.channels, target.subtype)
    except InputError as error:
        if file_format != "input":
            raise
        raise InputError(
            f"{reader.name}: outputs in its format cannot be written; give another --format"
        ) from error
    return target


def is_ours(path: Path) -> bool:
    """Return true if dpcl wrote an output, by the mark in its metadata or its first lines.

    Labels of Audacity and SubRip have no place for a mark; another text of the same name has it.
    """
    try:
        if path.suffix in TIMELINES + TRANSCRIPTS:
            marked = path.with_suffix(MARKED.get(path.suffix, path.suffix))
            with marked.open("rb") as file:
                return file.read(100).startswith(MARKS)
        with mpg123_silenced(), soundfile.SoundFile(os.fsencode(path)) as file:
            return str(file.software).startswith(f"{SOFTWARE} ")
    except (soundfile.SoundFileError, OSError, TypeError):
        return False


def _check_name(path: Path, nearest: Path) -> None:
    """Raise InputError if the name is longer than the file system allows."""
    longest = 255
    with contextlib.suppress(OSError, ValueError, AttributeError):
        longest = os.pathconf(nearest, "PC_NAME_MAX")
    size = len(os.fsencode(path.name))
    if size > longest:
        raise InputError(
            f"{path.name}: the name of this output has {size} bytes, and {longest} is the limit;"
            " rename the recording"
        )


def _check_outputs(
    recordings: Sequence[Path], targets: Sequence[_Target], force: bool, resume: bool
) -> None:
    """Raise InputError if outputs exist, share names, or would replace a recording."""
    own = {recording.resolve() for recording in recordings}
    stems: dict[str, Path] = {}
    for recording, target in zip(recordings, targets, strict=True):
        out = target.folder
        nearest = next((folder for folder in (out, *out.parents) if folder.exists()), out)
        if nearest.exists() and not nearest.is_dir():
            raise InputError(f"{nearest}: is a file, not a folder; give another --out")
        longest = target.transcripts[-1] if target.transcript else target.background
        for path in (longest, *map(target.path, target.voices)):
            _check_name(path, nearest)
        other = stems.setdefault(target.stem, recording)
        if other is not recording:
            raise InputError(f"{other} and {recording} would share output names; rename one")
        for existing in target.existing():
            refuse_existing(existing, force or (resume and is_ours(existing)))
            if existing.is_dir() or existing.resolve() in own:
                kind = "a folder" if existing.is_dir() else "one of the recordings"
                raise InputError(
                    f"{existing}: is {kind} and cannot be replaced; give another --out"
                )


def _chosen(
    name: str, separation: RecordingSeparation, only: str | None
) -> tuple[tuple[str, ...], list[int]]:
    """Return the names and the numbers of the sources to write.

    Raises:
        InputError: The only source to write is not in the recording of this name.
    """
    names = separation.link().names
    if only is None:
        return names, [*range(len(names))]
    if only not in names:
        raise InputError(
            f"{name}: --only {only}: this voice was not found; omit --only to write all sources"
        )
    return (only,), [names.index(only)]


def _write(
    target: _Target,
    reader: AudioReader,
    separation: RecordingSeparation,
    force: bool,
    resume: bool,
    recogniser: Recogniser | None,
    report_words: Report,
    only: str | None,
) -> tuple[tuple[Path, ...], list[str]]:
    """Write all outputs under temporary names, then rename them.

    Args:
        only: known voice of the only source to write; None for all sources and the background.

    Returns:
        The outputs, and sentences about them.

    Raises:
        InputError: The only source to write is not in the recording.
    """
    link = separation.link()
    names, chosen = _chosen(reader.name, separation, only)
    paths = tuple(target.path(name) for name in names)
    if link.background and separation.background and only is None:
        paths = (*paths, target.background)
    sounds = paths
    if target.timeline:
        paths = (*paths, *target.timelines)
    if recogniser:
        paths = (*paths, *target.transcripts)
    length = separation.scan.samples
    tags = {**reader.tags, "software": f"{SOFTWARE} {dpcl.__version__}"}
    with folder_aside(target.folder) as folder:
        with ExitStack() as stack:
            writers = [
                AudioWriter(
                    folder / path.name,
                    reader.sample_rate,
                    reader.channels,
                    target.subtype,
                    length,
                    tags,
                )
                for path in sounds
            ]
            for writer in writers:
                stack.enter_context(writer)
            tracks = _tracks(folder, separation, len(names)) if recogniser else None
            spoken = rest = 0.0  # energy of the talkers and of the background
            for piece in separation.pieces():
                sources = piece.sources[chosen]
                signals = [*sources]
                if piece.background is not None and only is None:
                    signals.append(piece.background)
                    spoken += float(sources.square().sum())
                    rest += float(piece.background.square().sum())
                peak = max(float(signal.abs().max()) if signal.numel() else 0 for signal in signals)
                for writer, signal in zip(writers, signals, strict=True):
                    writer.write(signal.numpy(), peak)
                if tracks:
                    tracks.write(sources)
        if target.timeline:
            from dpcl.recordings.timeline import timeline_texts

            texts = timeline_texts(target.stem, separation.timeline().of(names))
            for path, text in zip(target.timelines, texts, strict=True):
                (folder / path.name).write_text(text, encoding="utf-8", newline="\n")
        if recogniser and tracks:
            from dpcl.recordings.transcript import transcribe_tracks, transcript_texts

            speech = tracks.arrays()
            timeline = separation.timeline().of(names)
            transcript = transcribe_tracks(speech, timeline, recogniser, report_words)
            written = transcript_texts(target.stem, transcript)
            for path, text in zip(target.transcripts, written, strict=True):
                (folder / path.name).write_text(text, encoding="utf-8", newline="\n")
        notes = _place(folder, paths, target, force, resume)
    notes += [
        f"{reader.name}: the voice {name} was not found"
        for name in target.voices
        if name not in link.names and only is None
    ]
    if target.background in paths and spoken <= LEAST_SPEECH * rest:
        share = "almost all" if names else "all"
        notes.append(
            f"{reader.name}: no talker was found; {share} sound is in {target.background.name}"
        )
    clipped = sum(writer.clipped for writer in writers)
    if clipped:
        notes.append(
            f"{clipped} samples of the sources of {reader.name} exceeded full scale and were"
            " clipped; use --format wav"
        )
    subtype = writers[0].subtype
    if subtype != target.input_subtype:
        why = ", since they exceed full scale" if subtype != target.subtype else ""
        notes.append(
            f"the sources of {reader.name} are stored as {subtype}, the recording is"
            f" {target.input_subtype}{why}"
        )
    return paths, notes


def _tracks(folder: Path, separation: RecordingSeparation, count: int) -> SpeechTracks:
    """Return the tracks for a transcript, of the channels with speech that do not cancel."""
    from dpcl.recordings.transcript import SpeechTracks

    channels = separation.scan.channels
    chosen = None
    if channels is not None:
        chosen = channels.speech[:1] if channels.cancels else channels.speech
    return SpeechTracks(folder, count, separation.recording.sample_rate, chosen)


def _place(
    folder: Path, paths: Sequence[Path], target: _Target, force: bool, resume: bool
) -> list[str]:
    """Move finished outputs from `folder` to their names: all of them or none.

    Earlier outputs are moved away first, and the first source gets its name last. A set that a
    power failure interrupts thus lacks its first source; it never mixes two runs.

    Returns:
        Sentences about files that stay.
    """
    notes = []
    before: list[tuple[Path, Path]] = []  # outputs of an earlier run, and where they are
    placed: list[Path] = []
    with locked(target.folder):
        try:
            for number, old in enumerate(target.existing()):
                if force and old not in paths and not is_ours(old):
                    notes.append(f"{old} was not written by dpcl and stays")
                    continue
                refuse_existing(old, force or (resume and is_ours(old)))
                moved = folder / f"{number}.old"
                old.replace(moved)
                before.append((moved, old))
            for path in reversed(paths):
                move_new(folder / path.name, path)
                placed.append(path)
        except BaseException:
            for path in placed:
                path.unlink()
            for moved, old in before:
                moved.replace(old)
            raise
    return notes


def _poor(outputs: Sequence[Path], confidence: Sequence[float] | None) -> list[str]:
    """Return a sentence about each source whose estimated SI-SDR is low."""
    return [
        f"{path.name} may be poor: about {value:.0f} dB SI-SDR, estimated from its embeddings"
        for path, value in zip(outputs, confidence or (), strict=False)
        if value < POOR_DB
    ]


def _warnings(reader: AudioReader) -> tuple[str, ...]:
    """Return sentences about missing parts of a recording."""
    if not reader.cut_off:
        return reader.notes
    seconds = reader.read / reader.sample_rate
    cut_off = f"{reader.name} is cut off after {seconds:.2f} s; only this part is separated"
    return (cut_off, *reader.notes)
