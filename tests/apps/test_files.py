"""Recordings to files: at their own rate, channels and length, adding up, and all or none."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from dpcl.apps.files import Separated, separate_files
from dpcl.errors import InputError
from dpcl.recordings.recogniser import Word
from dpcl.recordings.timeline import read_timelines
from dpcl.separators.base import Analysis
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.signal.audio import read_audio

Contents = Callable[[Path], dict[str, bytes]]
MakeRecording = Callable[..., Path]
RATES = (8000, 16000, 22050, 44100, 48000)


@pytest.fixture
def separate(tiny_model: Path) -> Callable[..., list[Separated]]:
    """`separate_files` with the small network."""

    def run(
        recordings: Sequence[Path], out: Path, sources: int | None = None, force: bool = False
    ) -> list[Separated]:
        finished: list[Separated] = []
        separate_files(recordings, out, str(tiny_model), sources, force, finished.append)
        return finished

    return run


Separate = Callable[..., list[Separated]]


def written(done: Separated) -> np.ndarray:
    """(C, channels, T), after a check of the rate."""
    files = [read_audio(path) for path in done.outputs]
    assert {rate for _, rate in files} == {done.sample_rate}
    return np.stack([samples for samples, _ in files])


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("rate", RATES)
def test_rate_channels_and_length_are_those_of_the_recording(
    rate: int, channels: int, make_recording: MakeRecording, separate: Separate, folder: Path
) -> None:
    """speechbrain mixes down only where it also resamples; lengths drift elsewhere."""
    recording = make_recording("a.wav", rate, 0.2503, channels)
    (done,) = separate([recording], folder / "out")
    assert done.outputs == (folder / "out" / "a_s1.wav", folder / "out" / "a_s2.wav")
    assert done.sample_rate == rate
    assert done.seconds == pytest.approx(0.2503, abs=1e-4)
    samples, _ = read_audio(recording)
    sources = written(done)
    assert sources.shape == (2, *samples.shape)
    assert {soundfile.info(path).subtype for path in done.outputs} == {"PCM_16"}
    np.testing.assert_allclose(sources.sum(0), samples, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "subtype"),
    [
        ("a.wav", "PCM_24"),
        ("a.wav", "FLOAT"),
        ("a.flac", "PCM_16"),
        ("a.ogg", None),
        ("a.aiff", None),
    ],
)
def test_other_formats(
    name: str,
    subtype: str | None,
    make_recording: MakeRecording,
    separate: Separate,
    folder: Path,
) -> None:
    recording = make_recording(name, 16000, subtype=subtype, channels=2)
    (done,) = separate([recording], folder)  # beside the recording
    np.testing.assert_allclose(written(done).sum(0), read_audio(recording)[0], atol=1e-4)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("samples", [1, 2, 100])
def test_the_shortest_recordings(
    rate: int, samples: int, make_recording: MakeRecording, separate: Separate, folder: Path
) -> None:
    recording = make_recording("a.wav", rate, samples / rate, 2)
    (done,) = separate([recording], folder / "out")
    np.testing.assert_allclose(written(done).sum(0), read_audio(recording)[0], atol=1e-4)


@pytest.mark.parametrize("sources", [1, 3, 10])
def test_as_many_sources_as_asked_for(
    sources: int, make_recording: MakeRecording, separate: Separate, folder: Path
) -> None:
    recording = make_recording("a.wav", 44100, 0.1, 2)
    (done,) = separate([recording], folder / "out", sources)
    assert [path.name for path in done.outputs] == [f"a_s{k + 1}.wav" for k in range(sources)]
    found = written(done)
    np.testing.assert_allclose(found.sum(0), read_audio(recording)[0], atol=2e-4)
    if sources == 1:
        np.testing.assert_allclose(found[0], read_audio(recording)[0], atol=1e-4)


def test_silence(separate: Separate, folder: Path) -> None:
    soundfile.write(folder / "a.wav", np.zeros((4000, 2)), 44100)
    (done,) = separate([folder / "a.wav"], folder / "out")
    assert written(done).shape == (2, 2, 4000)
    assert not written(done).any()


def test_full_scale_is_not_clipped(
    make_recording: MakeRecording, separate: Separate, folder: Path
) -> None:
    """Where sources cancel, each is louder than the recording: 16 bits could not hold it."""
    rng = np.random.default_rng(0)
    square = np.sign(rng.standard_normal(8000)) * 32767 / 32768
    soundfile.write(folder / "a.wav", square, 16000, "PCM_16")
    (done,) = separate([folder / "a.wav"], folder / "out")
    sources = written(done)
    assert np.abs(sources).max() > 1
    assert {soundfile.info(path).subtype for path in done.outputs} == {"FLOAT"}
    np.testing.assert_allclose(sources.sum(0), read_audio(folder / "a.wav")[0], atol=1e-4)


def test_float_recordings_beyond_full_scale(
    make_recording: MakeRecording, separate: Separate, folder: Path
) -> None:
    recording = make_recording("a.wav", peak=30.0, subtype="FLOAT")
    (done,) = separate([recording], folder / "out")
    np.testing.assert_allclose(written(done).sum(0), read_audio(recording)[0], atol=3e-3)


def test_several_recordings_in_their_order(
    make_recording: MakeRecording, separate: Separate, folder: Path
) -> None:
    recordings = [
        make_recording("b.wav", 8000),
        make_recording("a.flac", 44100, channels=2),
        make_recording("c d.wav", 16000),
    ]
    finished = separate(recordings, folder / "new" / "out")
    assert [done.recording for done in finished] == recordings
    for done in finished:
        np.testing.assert_allclose(written(done).sum(0), read_audio(done.recording)[0], atol=1e-4)
    names = sorted(path.name for path in (folder / "new" / "out").iterdir())
    assert names == [f"{stem}_s{k}.wav" for stem in ("a", "b", "c d") for k in (1, 2)]


def test_force_leaves_no_output_of_the_run_before(
    make_recording: MakeRecording, separate: Separate, folder: Path
) -> None:
    recording = make_recording()
    out = folder / "out"
    separate([recording], out, 3)
    (out / "a_s3 of mine.wav").write_bytes(b"mine")
    (out / "a_s2024.wav").write_bytes(b"mine")
    separate([recording], out, 2, force=True)
    assert sorted(path.name for path in out.iterdir()) == [
        "a_s1.wav",
        "a_s2.wav",
        "a_s2024.wav",
        "a_s3 of mine.wav",
    ]


def test_force_replaces_no_recording_that_is_to_be_read(
    make_recording: MakeRecording, separate: Separate, folder: Path, contents: Contents
) -> None:
    recordings = [make_recording("take.wav"), make_recording("take_s1.wav")]
    before = contents(folder)
    with pytest.raises(InputError, match=r"take_s1\.wav: is one of the recordings"):
        separate(recordings, folder, force=True)
    assert contents(folder) == before


def test_force_replaces_no_folder(
    make_recording: MakeRecording, separate: Separate, folder: Path, contents: Contents
) -> None:
    recording = make_recording()
    (folder / "out" / "a_s2.wav").mkdir(parents=True)
    before = contents(folder)
    with pytest.raises(InputError, match=r"a_s2\.wav: is a folder"):
        separate([recording], folder / "out", force=True)
    assert contents(folder) == before


@pytest.mark.parametrize("second", ["other/a.wav", "a.flac", "a.wav"])
def test_two_recordings_of_one_stem(
    second: str,
    make_recording: MakeRecording,
    separate: Separate,
    folder: Path,
    contents: Contents,
) -> None:
    (folder / "other").mkdir()
    recordings = [make_recording("a.wav"), make_recording(second)]
    before = contents(folder)
    with pytest.raises(InputError, match=r"a\.wav and .* share output names"):
        separate(recordings, folder / "out")
    assert contents(folder) == before


@pytest.mark.parametrize("force", [False, True])
def test_a_bad_recording_among_good_ones_is_found_before_anything_is_written(
    force: bool,
    make_recording: MakeRecording,
    separate: Separate,
    folder: Path,
    contents: Contents,
) -> None:
    recordings = [make_recording("a.wav"), make_recording("b.wav"), make_recording("c.wav")]
    (folder / "b.wav").write_text("no sound at all")
    before = contents(folder)
    with pytest.raises(InputError, match=r"b\.wav cannot be read"):
        separate(recordings, folder / "out", force=force)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("rate", "channels", "what"), [(500, 1, "sample rate of 500 Hz"), (8000, 65, "65, 80")]
)
def test_a_recording_that_no_separator_takes_is_found_before_anything_is_written(
    rate: int,
    channels: int,
    what: str,
    make_recording: MakeRecording,
    separate: Separate,
    folder: Path,
    contents: Contents,
) -> None:
    recordings = [make_recording("a.wav"), make_recording("b.wav", rate, 80 / rate, channels)]
    before = contents(folder)
    with pytest.raises(InputError, match=rf"b\.wav: .*{what}"):
        separate(recordings, folder / "out")
    assert contents(folder) == before


@pytest.mark.parametrize("out", ["file", "file/out", "a.wav/deep/out"])
def test_a_folder_that_cannot_be_is_found_before_the_work(
    out: str,
    make_recording: MakeRecording,
    separate: Separate,
    folder: Path,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "file").write_text("mine")
    recording = make_recording()
    before = contents(folder)
    monkeypatch.setattr(DeepClustering, "analyse", _never)
    with pytest.raises(InputError, match="is a file, not a folder"):
        separate([recording], folder / out)
    assert contents(folder) == before


def _never(self: DeepClustering, spectra: Tensor) -> Analysis:
    raise AssertionError("there was something to be said before")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("reason", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_stopped_while_writing_it_leaves_what_was_there(
    reason: BaseException,
    force: bool,
    make_recording: MakeRecording,
    separate: Separate,
    folder: Path,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recording = make_recording()
    if force:
        separate([recording], folder / "out", 3)
    before = contents(folder)
    write = soundfile.SoundFile.write

    def stop(self: soundfile.SoundFile, frames: np.ndarray) -> None:
        write(self, frames)
        if "_s2" in str(self.name):
            raise reason

    monkeypatch.setattr(soundfile.SoundFile, "write", stop)
    expected = InputError if isinstance(reason, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        separate([recording], folder / "out", 3, force)
    monkeypatch.undo()
    assert contents(folder) == before


def test_stopped_at_the_second_it_leaves_the_first_whole(
    make_recording: MakeRecording,
    separate: Separate,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recordings = [make_recording("a.wav"), make_recording("b.wav", 16000)]
    analyse = DeepClustering.analyse
    calls: list[int] = []

    def stop(self: DeepClustering, spectra: Tensor) -> Analysis:
        calls.append(len(spectra))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return analyse(self, spectra)

    monkeypatch.setattr(DeepClustering, "analyse", stop)
    with pytest.raises(KeyboardInterrupt):
        separate(recordings, folder / "out")
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["a_s1.wav", "a_s2.wav"]
    sources = [read_audio(folder / "out" / f"a_s{k}.wav")[0] for k in (1, 2)]
    np.testing.assert_allclose(sum(sources), read_audio(recordings[0])[0], atol=1e-4)


def test_the_files_of_a_stereo_recording_keep_its_image(separate: Separate, folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    left = 0.1 * torch.randn(8000, generator=generator)
    soundfile.write(folder / "a.wav", torch.stack([left, 0 * left, left / 2], 1).numpy(), 16000)
    (done,) = separate([folder / "a.wav"], folder / "out")
    sources = written(done)  # (C, 3, T)
    assert not sources[:, 1].any()
    np.testing.assert_allclose(sources[:, 2], sources[:, 0] / 2, atol=5e-5)


def test_timelines_are_written_replaced_and_removed(
    make_recording: MakeRecording, tiny_model: Path, folder: Path
) -> None:
    recording, out, finished = make_recording("a.wav", 8000, 0.5), folder / "out", []
    names = [out / f"a_timeline{suffix}" for suffix in (".txt", ".rttm", ".json")]

    def run(timeline: bool, force: bool = False) -> None:
        separate_files(
            [recording], out, str(tiny_model), 2, force, finished.append, timeline=timeline
        )

    run(timeline=True)
    assert [path for path in finished[0].outputs if path.suffix != ".wav"] == names
    (found,) = read_timelines(names[1])
    assert found == "a"
    assert read_timelines(names[2])["a_timeline"].talkers == ("s1", "s2")
    with pytest.raises(InputError, match="exists"):
        run(timeline=True)
    run(timeline=True, force=True)
    names[2].write_text("{}")  # now somebody else's
    run(timeline=False, force=True)  # stale timelines of other sources
    assert [path.exists() for path in names] == [False, False, True]


def test_transcripts_are_written_replaced_and_removed(
    make_recording: MakeRecording,
    tiny_model: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recording, out, finished = make_recording("a.wav", 8000, 1.0), folder / "out", []
    names = [out / f"a_transcript{suffix}" for suffix in (".srt", ".vtt", ".json")]
    moved: list[float] = []

    class StandIn:
        def __init__(self, name: str, language: str | None, *_: object) -> None:
            self.name, self.language = name, language

        def __call__(self, samples: np.ndarray, language: str | None) -> tuple[object, str]:
            assert samples.dtype == np.float32
            return [[Word(0.0, 0.2, " Hello", 1.0)]], language or "en"

    monkeypatch.setattr("dpcl.recordings.recogniser.Whisper", StandIn)

    def run(transcribe: str | None, force: bool = False) -> None:
        separate_files(
            [recording],
            out,
            str(tiny_model),
            2,
            force,
            finished.append,
            report=lambda progress: moved.append(progress.done / progress.total),
            transcribe=transcribe,
        )

    run("base")
    assert [path for path in finished[0].outputs if path.suffix != ".wav"] == names
    assert len(finished[0].sources) == 2
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in finished[0].outputs
    )
    document = json.loads(names[2].read_text())
    assert (document["model"], document["talkers"]) == ("base", ["s1", "s2"])
    assert {x["talker"] for x in document["utterances"]} <= {"s1", "s2"} != set()
    assert names[0].read_text().count("Hello") == len(document["utterances"]) > 0
    assert moved == sorted(moved)
    assert moved[-1] == 1
    with pytest.raises(InputError, match="exists"):
        run("base")
    run("base", force=True)
    run(None, force=True)  # stale transcripts of other sources
    assert not any(path.exists() for path in names)


@pytest.mark.parametrize("timeline", [False, True])
def test_without_a_talker_one_file_and_one_sentence(
    timeline: bool, nobody_model: Path, make_recording: MakeRecording, folder: Path
) -> None:
    recording, out = make_recording("wind.wav", channels=2), folder / "out"
    finished: list[Separated] = []
    separate_files([recording], out, str(nobody_model), done=finished.append, timeline=timeline)
    (done,) = finished
    sounds = [path.name for path in done.outputs if path.suffix == ".wav"]
    assert sounds == ["wind_background.wav"] and done.sources == () and done.names == ()
    (sentence,) = (x for x in done.warnings if "talker" in x)
    assert sentence.endswith("no talker was found; all sound is in wind_background.wav")
    np.testing.assert_allclose(
        read_audio(out / "wind_background.wav")[0], read_audio(recording)[0], atol=1e-5
    )
    if timeline:
        document = json.loads((out / "wind_timeline.json").read_text(encoding="utf-8"))
        assert document["talkers"] == document["segments"] == []


def test_without_a_talker_and_without_a_background(
    nobody_model: Path, make_recording: MakeRecording, folder: Path
) -> None:
    finished: list[Separated] = []
    separate_files(
        [make_recording("wind.wav")],
        folder / "out",
        str(nobody_model),
        done=finished.append,
        background=False,
    )
    assert [path.name for path in finished[0].outputs] == ["wind_s1.wav"]
