"""What several floors' tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Contents = Callable[[Path], dict[str, bytes]]


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

    from dpcl.networks.model import Model, ModelSettings, NetworkSettings, build_network, save_model

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
def causal_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small network that hears forward in time only, as streams need it."""
    import torch

    from dpcl.networks.model import (
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
