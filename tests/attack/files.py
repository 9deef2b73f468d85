"""Mutated files: recordings of every container, weights, recipes, lists, indexes and manifests."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests.attack.harness import Tally, isolated, refused

ROOT = Path(__file__).resolve().parents[2]
EXTREMES = (0, 1, 0x7F, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
LEFT_OUT = ("RAW", "SD2")  # no container, and one of two files
CODINGS = {"WAV": ("PCM_16", "ULAW", "IMA_ADPCM", "GSM610", "FLOAT"), "OGG": ("VORBIS", "OPUS")}
FFMPEG = {  # coding and sample rate by suffix
    "m4a": ("aac", 16000),
    "mp4": ("aac", 16000),
    "mov": ("pcm_s16le", 8000),
    "mkv": ("libopus", 48000),
    "webm": ("libopus", 48000),
    "wma": ("wmav2", 16000),
    "3gp": ("aac", 16000),
    "avi": ("pcm_s16le", 8000),
}
WORDS = """
1e308 -1 0 nan inf 1e20 null true [] {} ~ * &a *a .. / \\ 2026-02-30 1e400 -0 0x7fffffff
99999999999999999999 é ' : | > % @ ` ! , ;
"""
ODD = ("\ud800", "\0", '"', "\t", "", " ")
LONG = ("[" * 3000, "9" * 5000, "{a: " * 2000, "x" * 200_000)


def recordings(seconds: float = 0.25) -> dict[str, bytes]:
    """Return a short recording in every container that can be written here, by its name."""
    samples, rate = soundfile.read(ROOT / "examples" / "two_talkers.flac", dtype="float32")
    samples = samples[rate : rate + round(seconds * rate)]
    found = {}
    for container in soundfile.available_formats():
        for coding in CODINGS.get(container, (soundfile.default_subtype(container),)):
            if container in LEFT_OUT or coding is None:
                continue
            data, at = io.BytesIO(), 48000 if coding == "OPUS" else 8000
            try:
                soundfile.write(data, samples, at, format=container, subtype=coding)
            except (soundfile.SoundFileError, ValueError, TypeError):
                continue
            found[f"{coding.lower()}.{container.lower()}"] = data.getvalue()
    return {**found, **_of_ffmpeg(samples), "sphere.sph": _sphere(samples)}


def _of_ffmpeg(samples: np.ndarray) -> dict[str, bytes]:
    """Encode samples in the containers of FFmpeg, where PyAV is installed."""
    try:
        import av
    except ImportError:
        return {}
    found = {}
    for suffix, (coding, rate) in FFMPEG.items():
        data = io.BytesIO()
        container = {"mkv": "matroska", "wma": "asf", "m4a": "ipod"}.get(suffix, suffix)
        try:
            with av.open(data, "w", format=container) as file:
                stream = file.add_stream(coding, rate=rate, layout="mono")
                whole = (samples[None] * 32767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
                frame.rate = rate
                for part in [*av.AudioResampler(stream.format, "mono", rate).resample(frame), None]:
                    for packet in stream.encode(part):
                        file.mux(packet)
        except (av.FFmpegError, ValueError):
            continue
        found[f"{coding}.{suffix}"] = data.getvalue()
    return found


def _sphere(samples: np.ndarray) -> bytes:
    """Return a SPHERE file by hand."""
    fields = [
        f"sample_count -i {len(samples)}",
        "sample_rate -i 8000",
        "channel_count -i 1",
        "sample_n_bytes -i 2",
        "sample_byte_format -s2 01",
        "sample_coding -s3 pcm",
        "end_head",
    ]
    header = "\n".join(["NIST_1A", "   1024", *fields, ""]).encode().ljust(1024)
    return header + (samples * 32767).astype("<i2").tobytes()


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return a file with one to three changes, most of them near its beginning."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        size = len(data)
        near = min(size, draw.choice((16, 64, 256, size)))
        at = draw.randrange(near) if near else 0
        length = draw.choice((1, 2, 4, 8, 64, 4096))
        kind = draw.randrange(8)
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data = data[:at] + data[at + length :]
        elif kind == 2:
            data = data[:at] + draw.randbytes(length) + data[at:]
        elif kind == 3:
            data = data[:at] + draw.randbytes(length) + data[at + length :]
        elif kind == 4:
            number = draw.choice(EXTREMES).to_bytes(4, draw.choice(("little", "big")))
            data = data[:at] + number + data[at + 4 :]
        elif kind == 5:
            data = data[:at] + bytes(length) + data[at + length :]
        elif kind == 6:
            data = data + data[at : at + draw.choice((length, size))]
        else:
            flipped = bytearray(data)
            for _ in range(draw.choice((1, 8, 64))):
                if flipped:
                    flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
            data = bytes(flipped)
    return data


def mutated_text(text: str, draw: random.Random) -> str:
    """Return a text in which words, lines or characters are changed."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        kind = draw.randrange(5)
        if kind == 0:
            return mutated(text.encode("utf-8", "surrogatepass"), draw).decode("latin-1")
        lines = text.split("\n")
        at = draw.randrange(len(lines))
        words = [*WORDS.split(), *ODD]
        word = draw.choice(words if draw.random() < 0.95 else LONG)
        if kind == 1:
            lines[at] = lines[draw.randrange(len(lines))]
        elif kind == 2:
            lines.insert(at, word)
        else:
            words = lines[at].split(draw.choice((",", " ", ":", '"')))
            words[draw.randrange(len(words))] = word
            lines[at] = draw.choice((",", " ", ": ", '"')).join(words)
        text = "\n".join(lines)
    return text


def attack_recordings(folder: Path, number: int, seed: int) -> Iterator[Tally]:
    """Read mutated recordings to the end."""
    for name, data in recordings().items():
        tally = Tally(f"recording {name}")
        path = folder / f"attacked.{name.rpartition('.')[2]}"
        draws = [random.Random(f"{seed} {name} {k}") for k in range(number)]
        isolated(tally, draws, partial(_read, path, data))
        yield tally


def _read(path: Path, data: bytes, draw: random.Random) -> tuple[str, str | None]:
    from dpcl.signal.reader import AudioReader

    changed = mutated(data, draw)
    path.write_bytes(changed)

    def read() -> None:
        total = 0
        with AudioReader(path) as reader:
            for block in reader.blocks(1 << 16):
                total += block.shape[1]
                if block.dtype != np.float32 or not np.isfinite(block).all():
                    raise AssertionError("samples that are not finite float32")
                if total > 1 << 24:
                    raise AssertionError(f"{total} samples of {len(changed)} bytes")

    outcome, text = refused(read)
    return outcome, None if text is None else f"{text}: {_kept(path, changed)}"


def _kept(path: Path, data: bytes) -> str:
    """Keep a file that caused a complaint, for its reproduction."""
    import hashlib

    kept = path.parent / "findings" / f"{hashlib.sha1(data).hexdigest()[:10]}{path.suffix}"
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(data)
    return str(kept)


def attack_documents(folder: Path, number: int, seed: int) -> Iterator[Tally]:
    """Read mutated recipes, lists, indexes, manifests, journals and weights."""
    for name, (suffix, content, read) in _documents(folder).items():
        tally = Tally(f"document {name}")
        path = folder / f"attacked{suffix}"
        draws = [random.Random(f"{seed} {name} {k}") for k in range(number)]
        isolated(tally, draws, partial(_document, path, content, read))
        yield tally


def _document(
    path: Path, content: str | bytes, read: Callable[[Path], Any], draw: random.Random
) -> tuple[str, str | None]:
    if isinstance(content, bytes):
        changed = mutated(content, draw)
    else:
        changed = mutated_text(content, draw).encode("utf-8", "surrogatepass")
    path.write_bytes(changed)
    outcome, text = refused(lambda: read(path))
    return outcome, None if text is None else f"{text}: {_kept(path, changed)}"


def _documents(folder: Path) -> dict[str, tuple[str, str | bytes, Callable[[Path], Any]]]:
    """Return suffix, content and reader of each kind of document."""
    from dpcl.apps.bulk import COLUMNS, _done
    from dpcl.evaluation.descriptions import read_conditions
    from dpcl.mixtures.corpus import read_corpus
    from dpcl.mixtures.lists import read_list
    from dpcl.mixtures.render import render_mixture
    from dpcl.mixtures.utterances import read_manifest
    from dpcl.model import load_model
    from dpcl.training.phases import read_plan

    quick = ROOT / "examples" / "quick"
    lists, recipes = ROOT / "lists", ROOT / "recipes"

    def rendered(path: Path) -> None:
        for row in read_list(path)[:2]:
            if row.seconds < 100:
                render_mixture(row, quick, 8000)

    def indexed(path: Path) -> None:
        read_corpus(path)

    def planned(path: Path) -> None:
        (path.parent / "base.yaml").write_bytes((recipes / "base.yaml").read_bytes())
        read_plan(str(path), (), [quick])

    manifest = json.dumps(
        {
            "id": "a",
            "type": "MonoCut",
            "start": 0.0,
            "duration": 1.0,
            "channel": 0,
            "supervisions": [{"id": "b", "start": 0.0, "duration": 1.0, "speaker": "s"}],
            "recording": {
                "id": "r",
                "duration": 2.0,
                "sources": [
                    {
                        "type": "file",
                        "channels": [0],
                        "source": str(ROOT / "examples" / "two_talkers.flac"),
                    }
                ],
            },
        }
    )
    for corpus in ("librispeech", "speechocean762"):
        if not (folder / corpus).exists():
            (folder / corpus).symlink_to(quick / corpus)
    index = (quick / "index.csv").read_text().splitlines()[:6]
    journal = f"{','.join(COLUMNS)}\na.wav,order,2,1.00,1.00,\nb.wav,order,0,0.00,0.00,why\n"
    short = "\n".join((quick / "valid.csv").read_text().splitlines()[:3]) + "\n"
    model = folder / "tiny.safetensors"
    return {
        "recipe": (".yaml", (recipes / "quick.yaml").read_text(), planned),
        "recipe with phases": (".yaml", (recipes / "causal.yaml").read_text(), planned),
        "conditions": (".yaml", (lists / "conditions.yaml").read_text(), read_conditions),
        "mixture list": (".csv", short, rendered),
        "index": (".csv", "\n".join(index) + "\n", indexed),
        "manifest": (".jsonl", manifest + "\n", read_manifest),
        "packed manifest": (".jsonl.gz", gzip.compress(manifest.encode(), mtime=0), read_manifest),
        "journal": (".csv", journal, lambda path: _done(path, "order")),
        "weights": (".safetensors", model.read_bytes(), load_model),
        "weights as ONNX": (".onnx", _onnx(model.read_bytes()), load_model),
    }


def _onnx(weights: bytes) -> bytes:
    """Return the beginning of an ONNX file followed by weights: a wrong file of a known kind."""
    return b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:" + weights[:4000]
