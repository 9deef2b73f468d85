from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dpcl.errors import InputError
from dpcl.io import Progress
from dpcl.mixtures.corpus import pack_corpus
from dpcl.signal.level import active_level_db

SPEAKERS = [
    ("x", "ann", "f", [("one", 0.5), ("two", 1.0)]),
    ("y", "bob", "m", [("three", 0.25)]),
]


def test_every_recording_is_there_at_the_rate_asked_for(make_corpus: Any, tmp_path: Path) -> None:
    packed = pack_corpus(make_corpus(SPEAKERS), 4000, tmp_path / "cache")
    assert packed.offsets.tolist() == [0, 2000, 6000, 7000]
    assert packed.samples.shape == (7000,) and packed.samples.dtype == np.int16
    assert packed.seconds == 1.75 and len(packed) == 3
    assert packed.speakers == ("ann", "ann", "bob") and packed.corpora == ("x", "x", "y")
    assert packed.genders == ("f", "f", "m") and packed.texts == ("one", "two", "three")
    for i in range(3):
        stored = packed.samples[packed.offsets[i] : packed.offsets[i + 1]] / 32768
        assert np.abs(stored).max() == pytest.approx(0.9, abs=1e-4)
        assert packed.levels_db[i] == pytest.approx(active_level_db(stored, 4000), abs=1e-9)


def test_the_cache_is_used_again_until_something_changes(make_corpus: Any, tmp_path: Path) -> None:
    decoded: list[tuple[float, float]] = []

    def pack(corpus: Any, rate: int = 8000) -> int:
        decoded.clear()

        def report(moved: Progress) -> None:
            decoded.append((moved.done, moved.total))

        pack_corpus(corpus, rate, tmp_path / "cache", report)
        return len(decoded)

    corpus = make_corpus(SPEAKERS)
    assert pack(corpus) == 3 and decoded == [(1, 3), (2, 3), (3, 3)]
    assert pack(corpus) == 0
    assert pack(corpus, 4000) == 3
    soundfile.write(corpus.utterances[0].path, np.ones(100) * 0.1, 8000)
    assert pack(corpus) == 3  # another size
    renamed = make_corpus([("x", "eve", *SPEAKERS[0][2:]), SPEAKERS[1]])
    assert pack(renamed) == 3  # another speaker


@pytest.mark.parametrize("damage", [b"", b"half", None])
@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_a_damaged_cache_is_written_again(
    make_corpus: Any, tmp_path: Path, suffix: str, damage: bytes | None
) -> None:
    corpus, cache = make_corpus(SPEAKERS), tmp_path / "cache"
    expected = pack_corpus(corpus, 8000, cache).samples.copy()
    (path,) = cache.glob(f"*{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)  # a power failure
    np.testing.assert_array_equal(pack_corpus(corpus, 8000, cache).samples, expected)
    assert path.read_bytes() == whole


def test_a_broken_recording_leaves_no_half_a_cache(make_corpus: Any, tmp_path: Path) -> None:
    corpus = make_corpus(SPEAKERS)
    corpus.utterances[2].path.write_text("not audio")
    with pytest.raises(InputError, match=r"bob.0\.wav cannot be read"):
        pack_corpus(corpus, 8000, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_silent_or_vanished_recording_is_named(make_corpus: Any, tmp_path: Path) -> None:
    corpus = make_corpus(SPEAKERS)
    soundfile.write(corpus.utterances[1].path, np.zeros(100), 8000)
    with pytest.raises(InputError, match=r"ann.1\.wav is silent"):
        pack_corpus(corpus, 8000, tmp_path / "cache")
    corpus.utterances[0].path.unlink()
    with pytest.raises(InputError, match=r"ann.0\.wav no longer exists"):
        pack_corpus(corpus, 8000, tmp_path / "cache")


def test_workers_map_the_file_instead_of_receiving_the_audio(
    make_corpus: Any, tmp_path: Path
) -> None:
    corpus = make_corpus([("x", "ann", "f", [("one", 20.0)])])
    packed = pack_corpus(corpus, 8000, tmp_path / "cache")
    assert packed.samples.shape == (160_000,)
    sent = pickle.dumps(packed)
    assert len(sent) < 5000
    np.testing.assert_array_equal(pickle.loads(sent).samples, packed.samples)
