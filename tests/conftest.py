"""What several floors' tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Contents = Callable[[Path], dict[str, bytes]]
WriteSphere = Callable[..., Path]

SPH2PIPE = f"""#!{sys.executable}
import sys, wave
if sys.argv[1:3] != ["-f", "wav"]:
    sys.exit("wrong options")
data = open(sys.argv[3], "rb").read()
if b"embedded-shorten" not in data[:1024]:
    sys.exit(f"{{sys.argv[3]}} is not shortened")
with wave.open(sys.stdout.buffer, "wb") as file:
    file.setparams((1, 2, 16000, (len(data) - 1024) // 2, "NONE", ""))
    pairs = zip(data[1025::2], data[1024::2])
    file.writeframesraw(bytes(byte for pair in pairs for byte in pair))
"""


@pytest.fixture(scope="session")
def shared_audio() -> Path:
    """The speech that lies beside the repository, where it does."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "audio"
    if not (folder / "index.csv").is_file():
        pytest.skip("no shared/audio beside the repository")
    return folder


TINY = {"network": {"layers": 1, "width": 8, "embedding": 6}}
CAUSAL = {
    "signal": {"window": 320, "hop": 160, "level": "running"},
    "network": {"kind": "lstm", "layers": 2, "width": 12, "embedding": 3, "activation": "none"},
    "masks": {"weighting": "magnitude", "sharpness": 5.0},
}


def write_model(path: Path, settings: dict[str, Any], mean: float = -4, std: float = 2) -> Path:
    """Write a network that was never trained: quick, and as strict as a good one."""
    import torch

    from dpcl.model import Model, ModelSettings, build_network, save_model

    chosen = ModelSettings.model_validate(settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(chosen).eval()
    network.mean.fill_(mean)
    network.std.fill_(std)
    save_model(Model(chosen, network, {}), path)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network."""
    return write_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", TINY)


@pytest.fixture(scope="session")
def background_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network with a head for the background."""
    settings = {"network": {**TINY["network"], "background": True}}
    path = tmp_path_factory.mktemp("model") / "background.safetensors"
    return write_model(path, settings, mean=0, std=1)


@pytest.fixture(scope="session")
def nobody_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network that takes every sound for background."""
    from dpcl.model import load_model, save_model

    network = {"kind": "full_band", "layers": 1, "width": 8, "embedding": 6, "background": True}
    network |= {"counts": 4, "frame": 6, "frame_units": 5, "band_units": 3}
    settings = {"signal": {"window": 64, "hop": 32, "level": "quantile"}, "network": network}
    path = write_model(tmp_path_factory.mktemp("model") / "nobody.safetensors", settings)
    model = load_model(path)
    model.network.background_head.bias.data.fill_(50)
    save_model(model, path)
    return path


@pytest.fixture(scope="session")
def causal_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network that looks back in time only, as streams need it."""
    return write_model(tmp_path_factory.mktemp("model") / "causal.safetensors", CAUSAL)


@pytest.fixture(scope="session")
def contents() -> Contents:
    """All that lies below a folder, hidden files and empty folders too."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
            for path in sorted(folder.rglob("*"))
        }

    return read


@pytest.fixture(scope="session")
def write_sphere() -> WriteSphere:
    """SPHERE by hand: NIST_1A, 1024 bytes of header, big-endian samples of 16 bits."""

    def write(path: Path, samples: object, rate: int = 16000, coding: str = "pcm") -> Path:
        data = np.asarray(samples).astype(">i2")
        fields = [
            f"sample_count -i {len(data)}",
            f"sample_rate -i {rate}",
            "channel_count -i 1",
            "sample_n_bytes -i 2",
            "sample_byte_format -s2 10",
            "sample_sig_bits -i 16",
            f"sample_coding -s{len(coding)} {coding}",
            "end_head",
        ]
        header = "\n".join(["NIST_1A", "   1024", *fields, ""]).encode().ljust(1024)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(header + data.tobytes())
        return path

    return write


@pytest.fixture
def sph2pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name that unpacks what write_sphere wrote as "pcm,embedded-shorten"."""
    program = tmp_path / "bin" / "sph2pipe"
    program.parent.mkdir()
    program.write_text(SPH2PIPE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
