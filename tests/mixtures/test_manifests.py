"""Lhotse's manifests, as its recipes write them: LibriSpeech, a call of two channels, a meeting."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dpcl.errors import InputError
from dpcl.mixtures.corpus import pack_corpus, read_corpus
from dpcl.mixtures.drawing import draw_list
from dpcl.mixtures.lists import read_list, write_list
from dpcl.mixtures.render import check_files, render_mixture

Dump = Callable[..., Path]
RATE = 8000


@pytest.fixture
def dump(tmp_path: Path) -> Dump:
    def write(name: str, *lines: dict[str, Any]) -> Path:
        path = tmp_path / "manifests" / name
        path.parent.mkdir(exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        return path

    return write


def recording(path: Path, channels: int = 1, seconds: float = 10.0, **more: Any) -> dict[str, Any]:
    """A ramp, one second higher in each channel, so that a sample says when and where it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * RATE)) / RATE
    ramps = np.stack([(time + channel + 1) / 32 for channel in range(channels)], axis=1)
    soundfile.write(path, ramps, RATE, "FLOAT")
    return {
        "id": path.stem,
        "sources": [{"type": "file", "channels": list(range(channels)), "source": str(path)}],
        "sampling_rate": RATE,
        "num_samples": len(time),
        "duration": seconds,
        "channel_ids": list(range(channels)),
        **more,
    }


def supervision(name: str, of: str, start: float, seconds: float, **more: Any) -> dict[str, Any]:
    line = {"id": name, "recording_id": of, "start": start, "duration": seconds, "channel": 0}
    return line | {"text": f"TEXT OF {name}", "language": "English", "speaker": name[:3]} | more


@pytest.fixture
def librispeech(tmp_path: Path, dump: Dump) -> Path:
    """Two whole utterances of either of two speakers."""
    names = ("103-1", "103-2", "201-1", "201-2")
    paths = [tmp_path / "LibriSpeech" / name[:3] / f"{name}.flac.wav" for name in names]
    dump("librispeech_recordings_dev.jsonl.gz", *(recording(path, seconds=2) for path in paths))
    return dump(
        "librispeech_supervisions_dev.jsonl.gz",
        *(supervision(path.stem[:5], path.stem, 0.0, 2.0, gender="Female") for path in paths),
    )


def test_recordings_and_supervisions_are_a_corpus(librispeech: Path, tmp_path: Path) -> None:
    corpus = read_corpus(librispeech)
    assert corpus.root == tmp_path / "LibriSpeech"
    assert [(u.speaker, u.text, u.seconds, u.start) for u in corpus.utterances][1:3] == [
        ("103", "TEXT OF 103-2", 2.0, None),
        ("201", "TEXT OF 201-1", 2.0, None),
    ]
    assert {(u.corpus, u.gender, u.split) for u in corpus.utterances} == {("librispeech", "f", "")}
    other = librispeech.with_name(librispeech.name.replace("supervisions", "recordings"))
    assert read_corpus(other) == corpus
    with pytest.raises(InputError, match="choose it by its name"):
        read_corpus(librispeech, split="dev")


@pytest.fixture
def cuts(tmp_path: Path, dump: Dump) -> Path:
    """A meeting of three, in cuts of 4 s; one supervision goes on beyond its cut."""
    meeting = recording(tmp_path / "meeting.wav")
    spoken = {
        2.0: [("ann", 0.5, 1.0), ("bob", 3.0, 9.0)],
        6.0: [("cid", -0.5, 2.5), ("ann", 2.0, 1.25)],
    }
    return dump(
        "meeting_cuts.jsonl",
        *(
            {
                "id": f"cut-{start}",
                "start": start,
                "duration": 4.0,
                "channel": 0,
                "supervisions": [
                    supervision(f"{name}-{start}", "meeting", first, seconds)
                    for name, first, seconds in talkers
                ],
                "recording": meeting,
                "type": "MonoCut",
            }
            for start, talkers in spoken.items()
        ),
    )


def test_cuts_are_parts_of_their_recording(cuts: Path, tmp_path: Path) -> None:
    corpus = read_corpus(cuts)
    assert [(u.speaker, u.start, u.seconds) for u in corpus.utterances] == [
        ("ann", 2.5, 1.0),
        ("bob", 5.0, 1.0),
        ("cid", 6.0, 2.0),
        ("ann", 8.0, 1.25),
    ]
    packed = pack_corpus(corpus, RATE, tmp_path / "cache")
    for number, u in enumerate(corpus.utterances):
        stored = packed.samples[packed.offsets[number] : packed.offsets[number + 1]]
        assert len(stored) == u.seconds * RATE
        begins = stored[0] / stored[-1]  # of a ramp from (start + 1) to (end + 1)
        assert begins == pytest.approx((1 + u.start) / (1 + u.start + u.seconds), abs=1e-3)


def test_a_list_of_parts_comes_back_and_is_rendered(cuts: Path, tmp_path: Path) -> None:
    corpus = read_corpus(cuts)
    rows = draw_list(corpus, "meeting", 0, 6, 2, (0.5, 0.9))
    write_list(rows, tmp_path / "meeting.csv")
    assert read_list(tmp_path / "meeting.csv") == rows
    check_files(rows, corpus.root)
    known = {u.part.name(corpus.root): u for u in corpus.utterances}
    for row in rows:
        _, sources = render_mixture(row, corpus.root, RATE)
        for source, said in zip(sources, row.sources, strict=True):
            if len(said.paths) == 1:
                begin = known[said.paths[0]].start + said.start
                ratio = (1 + begin) / (1 + begin + row.seconds)
                assert source[0] / source[-1] == pytest.approx(ratio, abs=1e-3)
    text = (tmp_path / "meeting.csv").read_text()
    (tmp_path / "meeting.csv").write_text(text.replace("#t=2.5,3.5", "#t=2.5,2.5"))
    with pytest.raises(InputError, match=r"column paths_.: .* end after they begin"):
        read_list(tmp_path / "meeting.csv")


def test_a_talker_of_a_call_is_one_channel(tmp_path: Path, dump: Dump) -> None:
    call = recording(tmp_path / "call.wav", channels=2)
    files = recording(tmp_path / "b.wav") | {"id": "files"}
    files["sources"][0]["channels"] = [1]
    files["sources"].insert(0, recording(tmp_path / "a.wav")["sources"][0])
    dump("call_recordings.jsonl", call, files)
    path = dump(
        "call_supervisions.jsonl",
        supervision("ann", "call", 0.0, 10.0, channel=0),
        supervision("bob", "call", 1.0, 2.0, channel=1, gender="M"),
        supervision("cid", "files", 0.0, 10.0, channel=1),
        supervision("all", "call", 0.0, 10.0, channel=[0, 1]),
    )
    corpus = read_corpus(path)
    found = [(u.path.name, u.start, u.channel, u.gender) for u in corpus.utterances]
    assert found == [
        ("call.wav", 0.0, 0, ""),
        ("call.wav", 1.0, 1, "m"),
        ("b.wav", None, None, ""),
        ("call.wav", None, None, ""),
    ]


def test_a_silent_stretch_is_named(tmp_path: Path, dump: Dump) -> None:
    line = recording(tmp_path / "call.wav")
    soundfile.write(tmp_path / "call.wav", np.repeat([0.5, 0.0], [2 * RATE, 8 * RATE]), RATE)
    dump("x_recordings.jsonl", line)
    segments = (supervision("ann", "call", 0.0, 3.0), supervision("bob", "call", 2.5, 1.5))
    corpus = read_corpus(dump("x_supervisions.jsonl", *segments))
    with pytest.raises(InputError, match=r"call\.wav#t=2\.5,4 is silent"):
        pack_corpus(corpus, RATE, tmp_path / "cache")


def test_paths_count_from_the_working_folder_or_the_manifest(
    tmp_path: Path, dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = recording(tmp_path / "manifests" / "audio" / "a.wav")
    line["sources"][0]["source"] = "audio/../audio/a.wav"
    dump("x_recordings.jsonl", line)
    path = dump("x_supervisions.jsonl", supervision("ann", "a", 0.0, 10.0))
    monkeypatch.chdir(tmp_path)
    (found,) = read_corpus(path).utterances
    assert found.path == tmp_path / "manifests" / "audio" / "a.wav"
    elsewhere = recording(tmp_path / "audio" / "a.wav")["sources"][0]["source"]
    (found,) = read_corpus(path).utterances
    assert str(found.path) == elsewhere


def bad(**changes: Any) -> dict[str, Any]:
    return supervision("ann", "a", 0.0, 1.0) | changes


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (bad(speaker=None), "line 2 has no speaker"),
        (bad(recording_id="b"), "line 2: there is no recording b"),
        (bad(duration=0), "line 2: duration is 0"),
        (bad(start="soon"), "line 2: start is 'soon'"),
        (bad(start=-1.0), "line 2: start is -1.0"),
        (bad(start=11.0), "line 2 lies outside"),
        (bad(channel=3), "line 2: its recording has no channel 3"),
        ([1], "cannot be read after line 2 .no JSON object"),
    ],
)
def test_a_wrong_line_is_named(line: Any, what: str, dump: Dump, tmp_path: Path) -> None:
    dump("x_recordings.jsonl", recording(tmp_path / "a.wav"))
    path = dump("x_supervisions.jsonl", bad(), line)
    with pytest.raises(InputError, match=what):
        read_corpus(path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"transforms": [{"name": "Speed"}]}, "x_recordings.jsonl line 1 has transforms"),
        ({"sources": []}, "has no channel 0"),
        ({"sources": [{"type": "url", "channels": [0], "source": "https://x"}]}, "of type url"),
        (
            {"sources": [{"type": "file", "channels": [0], "source": "gone.wav"}]},
            "gone.wav exists neither",
        ),
        ({"duration": None}, "line 1: duration is None"),
        ({"sources": "a.wav"}, r"x_supervisions\.jsonl is not as Lhotse writes it"),
        ({"sources": [{"type": "file", "channels": 1, "source": "a.wav"}]}, "not as Lhotse writes"),
    ],
)
def test_recordings_that_we_cannot_read_are_named(
    change: dict[str, Any], what: str, dump: Dump, tmp_path: Path
) -> None:
    dump("x_recordings.jsonl", recording(tmp_path / "a.wav") | change)
    with pytest.raises(InputError, match=what):
        read_corpus(dump("x_supervisions.jsonl", bad()))


def test_what_is_no_manifest_is_told(dump: Dump, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Lhotse recording, supervision or cut"):
        read_corpus(dump("x.jsonl", {"text": "hello"}))
    with pytest.raises(InputError, match=r"x\.jsonl is empty"):
        read_corpus(dump("x.jsonl"))
    with pytest.raises(InputError, match="needs its recordings beside it"):
        read_corpus(dump("x_supervisions.jsonl", bad()))
    with pytest.raises(InputError, match="line 1 is a MixedCut"):
        read_corpus(dump("cuts.jsonl", {"type": "MixedCut", "tracks": []}))
    with pytest.raises(InputError, match="line 1 has no recording"):
        read_corpus(dump("cuts.jsonl", {"type": "MonoCut", "start": 0, "duration": 1}))
    cut = {"type": "MonoCut", "start": 0, "duration": 1, "recording": {}}
    with pytest.raises(InputError, match="holds no supervisions"):
        read_corpus(dump("cuts.jsonl", cut))
    path = dump("x.jsonl.gz", bad())
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"x\.jsonl\.gz cannot be read after line 0"):
        read_corpus(path)
    path.write_text("not compressed")
    with pytest.raises(InputError, match=r"x\.jsonl\.gz cannot be read after line 0"):
        read_corpus(path)
