"""What several floors' tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

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


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network that was never trained: quick, and as strict as a good one."""
    import torch

    from dpcl.model import Model, ModelSettings, NetworkSettings, build_network, save_model

    settings = ModelSettings(network=NetworkSettings(layers=1, width=8, embedding=6))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(settings).eval()
    network.mean.fill_(-4)
    network.std.fill_(2)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(Model(settings, network, {}), path)
    return path


@pytest.fixture(scope="session")
def background_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small network with a head for the background."""
    import torch

    from dpcl.model import Model, ModelSettings, NetworkSettings, build_network, save_model

    settings = ModelSettings(
        network=NetworkSettings(layers=1, width=8, embedding=6, background=True)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(settings).eval()
    path = tmp_path_factory.mktemp("model") / "background.safetensors"
    save_model(Model(settings, network, {}), path)
    return path


@pytest.fixture(scope="session")
def causal_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small network that hears forward in time only, as streams need it."""
    import torch

    from dpcl.model import (
        MaskSettings,
        Model,
        ModelSettings,
        NetworkSettings,
        SignalSettings,
        build_network,
        save_model,
    )

    settings = ModelSettings(
        signal=SignalSettings(window=320, hop=160, level="running"),
        network=NetworkSettings(kind="lstm", layers=2, width=12, embedding=3, activation="none"),
        masks=MaskSettings(weighting="magnitude", sharpness=5.0),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(settings).eval()
    network.mean.fill_(-4)
    network.std.fill_(2)
    path = tmp_path_factory.mktemp("model") / "causal.safetensors"
    save_model(Model(settings, network, {}), path)
    return path


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
