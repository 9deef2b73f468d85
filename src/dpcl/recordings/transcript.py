"""Transcripts: words of each talker from the separated sources, as SRT, WebVTT and JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray
from torch import Tensor

from dpcl.errors import InputError
from dpcl.io import Progress, Report, as_report, no_report
from dpcl.recordings.recogniser import RATE, Recogniser, Whisper, Word
from dpcl.recordings.timeline import MARK
from dpcl.separators.base import Segment, Separation, Timeline
from dpcl.signal.audio import resample

PAD = 0.2  # s that are recognised before and after a segment of the timeline
LONGEST_GAP = 2.0  # s, longer pauses of a talker begin a new chunk
CHUNK = 30.0  # s, limit of chunks of several segments: the window of Whisper
LONGEST = 600.0  # s, limit of any chunk, for the memory
PAUSE = 1.0  # s, longer pauses between words begin a new utterance


@dataclass(frozen=True, order=True)
class Utterance:
    """Words of one talker without a long pause, from `start` to `end` in s."""

    start: float
    end: float
    talker: str
    text: str
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """Words of all talkers of a recording.

    Attributes:
        utterances: in order of their start; utterances of different talkers may overlap.
        talkers: names of the talkers, as in the timeline.
        languages: language of each talker who says something, such as `en`.
        seconds: length of the recording in s; None if unknown.
        model: name of the recogniser.

    Example:
        >>> utterances = (Utterance(0.5, 1.2, "s1", "Good morning."),)
        >>> print(Transcript(utterances, ("s1", "s2")))
        s1: Good morning.
    """

    utterances: tuple[Utterance, ...]
    talkers: tuple[str, ...]
    languages: dict[str, str] | None = None
    seconds: float | None = None
    model: str = ""

    def __str__(self) -> str:
        return "\n".join(f"{x.talker}: {x.text}" for x in self.utterances)


def srt_text(transcript: Transcript) -> str:
    """Return a transcript as SubRip subtitles; each begins with the name of its talker.

    Example:
        >>> utterances = (Utterance(0.5, 61.2, "s1", "Good morning."),)
        >>> print(srt_text(Transcript(utterances, ("s1",))).rstrip())
        1
        00:00:00,500 --> 00:01:01,200
        s1: Good morning.
    """
    cues = [
        f"{number}\n{_clock(x.start, ',')} --> {_clock(x.end, ',')}\n{x.talker}: {x.text}\n"
        for number, x in enumerate(transcript.utterances, 1)
    ]
    return "\n".join(cues)


def vtt_text(transcript: Transcript) -> str:
    """Return a transcript as WebVTT subtitles, with talkers as voices.

    Example:
        >>> utterances = (Utterance(0.5, 1.2, "s1", "Q & A"),)
        >>> print(vtt_text(Transcript(utterances, ("s1",))).splitlines()[-1])
        <v s1>Q &amp; A</v>

    Source: W3C, "WebVTT: The Web Video Text Tracks Format", section 4.
    """
    cues = [
        f"\n{_clock(x.start, '.')} --> {_clock(x.end, '.')}\n"
        f"<v {html.escape(x.talker, quote=False)}>{html.escape(x.text, quote=False)}</v>\n"
        for x in transcript.utterances
    ]
    return f"WEBVTT\n\nNOTE {MARK}\n" + "".join(cues)


def transcript_json(name: str, transcript: Transcript) -> str:
    """Return a transcript as JSON: length, model, talkers, utterances and words."""
    document = {
        "software": MARK,
        "recording": name,
        "seconds": transcript.seconds,
        "model": transcript.model,
        "talkers": list(transcript.talkers),
        "languages": transcript.languages or {},
        "utterances": [asdict(utterance) for utterance in transcript.utterances],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def transcript_texts(name: str, transcript: Transcript) -> tuple[str, str, str]:
    """Return the files of the transcript of one recording: SRT, WebVTT and JSON."""
    return srt_text(transcript), vtt_text(transcript), transcript_json(name, transcript)


class SpeechTracks:
    """Sources of a recording at the rate of a recogniser, mono, in temporary files.

    Args:
        folder: folder of the files; its owner removes it.
        count: number of sources C.
        sample_rate: of the recording in Hz.
        channels: channels that are averaged; None for all.
    """

    def __init__(
        self, folder: Path, count: int, sample_rate: int, channels: Sequence[int] | None = None
    ) -> None:
        self._paths = [folder / f"speech{number}.pcm" for number in range(count)]
        self._streams = [
            soxr.ResampleStream(sample_rate, RATE, 1, "float32", "HQ") for _ in range(count)
        ]
        self._channels = None if channels is None else list(channels)

    def write(self, sources: Tensor) -> None:
        """Append the next samples (C, channels, n)."""
        chosen = sources if self._channels is None else sources[:, self._channels]
        for number, samples in enumerate(chosen.mean(1)):
            self._append(number, samples.numpy())

    def arrays(self) -> list[NDArray[np.float32]]:
        """Return the samples (T,) of all sources, mapped from disk; after the last `write`."""
        for number in range(len(self._paths)):
            self._append(number, np.zeros(0, np.float32), last=True)
        return [
            np.memmap(path, np.float32, "r") if path.stat().st_size else np.zeros(0, np.float32)
            for path in self._paths
        ]

    def _append(self, number: int, samples: NDArray[np.float32], last: bool = False) -> None:
        """Convert samples of source `number`, and append them to its file."""
        with self._paths[number].open("ab") as file:
            self._streams[number].resample_chunk(samples, last).tofile(file)


def transcribe_tracks(
    tracks: Sequence[NDArray[np.float32]],
    timeline: Timeline,
    recogniser: Recogniser,
    report: Report = no_report,
) -> Transcript:
    """Recognise the words of every talker where the timeline says that they are active.

    The language of a talker is the language of their longest chunk with words.

    Args:
        tracks: samples (T,) at RATE of each talker of the timeline.
        timeline: who speaks when.
        recogniser: function from samples to words.
        report: called with the seconds of speech done and in all.

    Returns:
        The transcript; its times are within the recording.
    """
    chunks = {
        talker: sorted(
            _chunks([x for x in timeline.segments if x.talker == talker]),
            key=lambda chunk: chunk[0].start - chunk[-1].end,  # longest first
        )
        for talker in timeline.talkers
    }
    total = sum(chunk[-1].end - chunk[0].start for own in chunks.values() for chunk in own)
    done, utterances, languages = 0.0, [], {}
    for talker, samples in zip(timeline.talkers, tracks, strict=True):
        found = recogniser.language
        for chunk in chunks[talker]:
            start, piece = _cut(samples, chunk)
            phrases, detected = recogniser(piece, found)
            if any(phrases):
                found = languages[talker] = detected
            end = start + len(piece) / RATE
            for words in phrases:
                utterances += _utterances(words, talker, start, end)
            done += chunk[-1].end - chunk[0].start
            report(Progress(done, total, "s of speech"))
    return Transcript(
        tuple(sorted(utterances)), timeline.talkers, languages, timeline.seconds, recogniser.name
    )


def transcribe(
    separation: Separation, model: str, language: str | None = None, progress: Any = None
) -> Transcript:
    """Recognise the words of each talker of a separated recording with Whisper.

    Args:
        separation: result of `dpcl.separate`.
        model: folder of a model for faster-whisper, or a name in its cache, such as `base`.
            Nothing is downloaded.
        language: code such as `en`; detected for each talker if omitted.
        progress: function of the seconds of speech done and in all, or a bar of tqdm or rich.

    Returns:
        The transcript: `utterances` with start, end, talker, text and words; `print` shows it.

    Raises:
        InputError: faster-whisper is not installed, the model is not on this computer, or the
            separation is a batch.
    """
    if separation.timeline is None or separation.sample_rate is None:
        raise InputError("separation: is a batch; transcribe the result of dpcl.separate")
    tracks = []
    for source in separation.sources.numpy():
        channels = np.atleast_2d(source)
        loudest = channels[np.square(channels, dtype=np.float64).sum(1).argmax()]
        tracks.append(resample(loudest, separation.sample_rate, RATE))
    recogniser = Whisper(model, language)
    return transcribe_tracks(tracks, separation.timeline, recogniser, as_report(progress))


def _chunks(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Join the segments of one talker into chunks, each for one call of the recogniser.

    Example:
        >>> segments = [Segment(0, 2, "s1"), Segment(3, 5, "s1"), Segment(20, 21, "s1")]
        >>> [len(chunk) for chunk in _chunks(segments)]
        [2, 1]
    """
    chunks: list[list[Segment]] = []
    for segment in _limited(segments):
        last = chunks[-1] if chunks else None
        if (
            last is None
            or segment.start - last[-1].end > LONGEST_GAP
            or segment.end - last[0].start > CHUNK - 2 * PAD
        ):
            chunks.append([segment])
        else:
            last.append(segment)
    return chunks


def _limited(segments: Sequence[Segment]) -> Iterator[Segment]:
    """Cut segments that are longer than LONGEST."""
    for segment in segments:
        while segment.end - segment.start > LONGEST:
            yield replace(segment, end=segment.start + LONGEST)
            segment = replace(segment, start=segment.start + LONGEST)
        yield segment


def _cut(
    samples: NDArray[np.float32], chunk: Sequence[Segment]
) -> tuple[float, NDArray[np.float32]]:
    """Return the start of a chunk in s, and its samples, which are zero between the segments."""
    first = max(0, round((chunk[0].start - PAD) * RATE))
    piece = np.zeros(
        max(1, min(len(samples), round((chunk[-1].end + PAD) * RATE)) - first), np.float32
    )
    for segment in chunk:
        start = max(first, round((segment.start - PAD) * RATE))
        own = samples[start : max(start, round((segment.end + PAD) * RATE))]
        piece[start - first : start - first + len(own)] = own
    return first / RATE, piece


def _utterances(words: Sequence[Word], talker: str, start: float, end: float) -> list[Utterance]:
    """Return the utterances of one phrase: it is divided at long pauses.

    Args:
        words: with times in s from `start`.
        talker: name of the talker.
        start: of the chunk in s.
        end: of the chunk in s; Whisper may place a word after it.
    """
    groups: list[list[Word]] = []
    for word in words:
        begin = round(min(start + word.start, end), 3)
        placed = replace(word, start=begin, end=round(max(begin, min(start + word.end, end)), 3))
        if groups and placed.start - groups[-1][-1].end <= PAUSE:
            groups[-1].append(placed)
        else:
            groups.append([placed])
    found = []
    for group in groups:
        text = " ".join("".join(word.text for word in group).split())
        if text:
            bare = tuple(replace(word, text=word.text.strip()) for word in group)
            last = max(group[-1].end, group[0].start + 0.001)  # subtitles have a length
            found.append(Utterance(group[0].start, last, talker, text, bare))
    return found


def _clock(seconds: float, mark: str) -> str:
    """Return a time such as 01:02:03.450.

    Example:
        >>> _clock(3723.45, ".")
        '01:02:03.450'
    """
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{mark}{rest % 1000:03d}"
