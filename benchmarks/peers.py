"""Run one peer on one recording; separation_speed.py calls it for every peer.

    peers/bin/python benchmarks/peers.py asteroid-dc recording.wav out --weights default.safetensors

It runs in the peers' own environment (peers.txt), without dpcl. The two deep clustering systems
load the network of --weights; the others have their published size and random weights: the same
work, no use. Each uses its own inference code, from the file to two files. Prints one line of JSON:
seconds from the start of this program until the model is ready, and until all files are written.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402  - the clock above includes all other imports
import json  # noqa: E402
import sys  # noqa: E402
import types  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from importlib.abc import Loader, MetaPathFinder  # noqa: E402
from importlib.machinery import ModuleSpec  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

SOURCES = 2
SAMPLE_RATE = 8000  # Hz, of wsj0-2mix, on which all peers were published
FLOOR = 1e-4  # of the features, relative to the loudest bin: as dpcl.signal.features
# Packages that nussl imports at its start and that deep clustering does not call.
UNUSED = [
    *("ffmpeg", "gpytorch", "ignite", "jams", "musdb", "museval", "norbert", "numcodecs"),
    *("pyloudnorm", "sox", "soxbindings", "termtables", "torch.utils.tensorboard", "zarr"),
]

Separate = Callable[[Path, Path], None]  # recording, existing folder


def asteroid_deep_clustering(weights: Path, window: float | None) -> Separate:
    """dpcl's network inside asteroid, as in its recipe egs/wsj0-mix/DeepClustering.

    STFT, clustering (scikit-learn's k-means), masks and inverse are asteroid's.
    """
    from asteroid.dsp.vad import ebased_vad
    from asteroid.masknn.recurrent import SingleRNN
    from asteroid.separate import file_separate
    from asteroid.utils.torch_utils import pad_x_to_y
    from asteroid_filterbanks import make_enc_dec
    from asteroid_filterbanks.transforms import apply_mag_mask, mag
    from sklearn.cluster import KMeans

    class AsteroidDeepClustering(nn.Module):
        """Model of asteroid's recipe: k-means on all bins above -40 dB, binary masks."""

        in_channels = 1

        def __init__(self) -> None:
            super().__init__()
            settings, values = read_weights(weights)
            signal, network = settings["signal"], settings["network"]
            self.sample_rate, self.sources = signal["sample_rate"], SOURCES
            self.embedding = network["embedding"]
            self.activation = {"tanh": nn.Tanh(), "logistic": nn.Sigmoid(), "none": nn.Identity()}[
                network["activation"]
            ]
            self.encoder, self.decoder = make_enc_dec(
                "stft",
                n_filters=signal["window"],
                kernel_size=signal["window"],
                stride=signal["hop"],
                sample_rate=self.sample_rate,
            )
            bins = signal["window"] // 2 + 1
            self.features = Features(values)
            self.rnn = SingleRNN(
                "lstm", bins, network["width"], n_layers=network["layers"], bidirectional=True
            )
            self.rnn.rnn.load_state_dict(part(values, "lstm"))
            self.embedding_layer = nn.Linear(2 * network["width"], bins * self.embedding)
            self.embedding_layer.load_state_dict(part(values, "project"))

        def embed(self, magnitudes: Tensor) -> Tensor:
            """Map magnitudes (1, F, L) to embeddings (1, F*L, K)."""
            out = self.rnn(self.features(magnitudes.transpose(1, 2)))
            embeddings = self.activation(self.embedding_layer(out))
            embeddings = embeddings.view(*out.shape[:2], -1, self.embedding).transpose(1, 2)
            embeddings = embeddings.reshape(1, -1, self.embedding)
            unit: Tensor = embeddings / (embeddings.norm(p=2, dim=-1, keepdim=True) + 1e-8)
            return unit

        def forward_wav(self, mixture: Tensor) -> Tensor:
            """Separate a mixture (1, 1, T) into sources (1, C, T)."""
            spectrum = self.encoder(mixture)  # (1, 2F, L)
            magnitudes = mag(spectrum)  # (1, F, L)
            active = ebased_vad(magnitudes)
            embeddings = self.embed(magnitudes)[active.view(1, -1)]
            labels = torch.from_numpy(
                KMeans(n_clusters=self.sources).fit_predict(embeddings.numpy())
            )
            masks = []
            for source in range(self.sources):
                mask = ~active
                mask[active] = labels == source
                masks.append(mask.float())
            masked = apply_mag_mask(spectrum.unsqueeze(1), torch.stack(masks, dim=1))
            sources: Tensor = pad_x_to_y(self.decoder(masked), mixture)
            return sources

    model = AsteroidDeepClustering().eval()
    return lambda recording, out: file_separate(model, str(recording), str(out), resample=True)


def nussl_deep_clustering(weights: Path, window: float | None) -> Separate:
    """dpcl's network inside nussl's DeepClustering, with its defaults (soft masks, loudest tenth).

    STFT, clustering (scikit-learn's k-means), masks and inverse are nussl's.
    """
    import scipy.signal
    import soundfile

    leave_out(UNUSED)
    for shape in ("hamming", "hann", "blackman"):  # removed in scipy 1.13
        setattr(scipy.signal, shape, getattr(scipy.signal.windows, shape))
    import nussl
    from nussl.datasets import transforms
    from nussl.ml.networks.modules import Embedding, RecurrentStack

    settings, values = read_weights(weights)
    signal, network = settings["signal"], settings["network"]
    bins, width = signal["window"] // 2 + 1, network["width"]

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = Features(values)
            self.stack = RecurrentStack(
                bins, width, network["layers"], bidirectional=True, dropout=network["dropout"]
            )
            self.stack.rnn.load_state_dict(part(values, "lstm"))
            name = {"logistic": "sigmoid"}.get(network["activation"], network["activation"])
            activation = [name, "unit_norm"]  # an unknown name such as "none" is ignored
            self.embed = Embedding(bins, 2 * width, network["embedding"], activation)
            self.embed.linear.load_state_dict(part(values, "project"))

        def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
            magnitudes = data["mix_magnitude"]  # (1, L, F, 1)
            features = self.features(magnitudes[..., 0])
            return {"embedding": self.embed(self.stack(features))}  # (1, L, F, 1, K)

    model = Network().eval()
    transform = transforms.Compose(
        [transforms.PhaseSensitiveSpectrumApproximation(), transforms.ToSeparationModel()]
    )
    stft_params = nussl.STFTParams(signal["window"], signal["hop"], "sqrt_hann")

    def separate(recording: Path, out: Path) -> None:
        samples, rate = soundfile.read(recording, dtype="float32")
        samples = resample(samples, rate, signal["sample_rate"])
        mixture = nussl.AudioSignal(
            audio_data_array=samples, sample_rate=signal["sample_rate"], stft_params=stft_params
        )
        separator = nussl.separation.deep.DeepClustering(mixture, SOURCES)
        # As load_model does with a file of nussl.
        separator.model, separator.transform, separator.device = model, transform, "cpu"
        separator.metadata.update(
            sample_rate=signal["sample_rate"], stft_params=stft_params, num_channels=1
        )
        for number, estimate in enumerate(separator(), 1):
            upsampled = resample(
                estimate.audio_data[0].astype(np.float32), signal["sample_rate"], rate
            )
            soundfile.write(out / f"{recording.stem}_est{number}.wav", upsampled, rate)

    return separate


def conv_tasnet(weights: Path, window: float | None) -> Separate:
    """Luo and Mesgarani 2019, table II, best: N 512, L 16, B 128, H 512, Sc 128, P 3, X 8, R 3."""
    from asteroid.models import ConvTasNet

    return _in_the_time_domain(ConvTasNet(n_src=SOURCES, sample_rate=SAMPLE_RATE), window)


def dprnn_16(weights: Path, window: float | None) -> Separate:
    """Luo, Chen, Yoshioka 2020, with windows of 16 samples: asteroid's default (16.0 dB)."""
    from asteroid.models import DPRNNTasNet

    return _in_the_time_domain(DPRNNTasNet(n_src=SOURCES), window)


def _in_the_time_domain(model: Any, window: float | None) -> Separate:
    from asteroid.dsp import LambdaOverlapAdd
    from asteroid.separate import file_separate

    model.eval()
    if window is not None:
        model = LambdaOverlapAdd(model, SOURCES, window_size=round(window * SAMPLE_RATE))
    return lambda recording, out: file_separate(model, str(recording), str(out), resample=True)


def resample(samples: Any, old: int, new: int) -> Any:
    """Resample (T,) with julius, as asteroid does for files."""
    import julius

    if old == new:
        return samples
    return julius.ResampleFrac(old, new)(torch.from_numpy(np.asarray(samples))).numpy()


def read_weights(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return settings and float32 weights of a file that dpcl wrote."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        settings = json.loads(file.metadata()["settings"])
        return settings, {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118


class Features(nn.Module):
    """Features of the network from magnitudes (B, L, F)."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.mean, self.std = weights["mean"], weights["std"]

    def forward(self, magnitudes: Tensor) -> Tensor:
        """Return log magnitudes relative to the loudest bin, normalised."""
        relative = magnitudes / magnitudes.amax(dim=(-2, -1), keepdim=True)
        features: Tensor = (relative.clamp_min(FLOOR).log() - self.mean) / self.std
        return features


def part(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the weights of one layer, without its name as prefix."""
    return {key[len(name) + 1 :]: w for key, w in weights.items() if key.startswith(f"{name}.")}


def leave_out(packages: Sequence[str]) -> None:
    """Make these packages importable, with empty contents."""
    sys.meta_path.insert(0, _Unused(packages))


class _Unused(MetaPathFinder, Loader):
    """Modules with empty classes under any name, for packages that a peer imports needlessly."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        known = any(name == unused or name.startswith(f"{unused}.") for unused in self.names)
        return ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Empty(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


SYSTEMS: dict[str, Callable[[Path, float | None], Separate]] = {
    "asteroid-dc": asteroid_deep_clustering,
    "nussl-dc": nussl_deep_clustering,
    "conv-tasnet": conv_tasnet,
    "dprnn-16": dprnn_16,
}


def main() -> None:
    """Run one system and print its times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("recording", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--window", type=float, help="seconds; the whole recording if omitted")
    arguments = parser.parse_args()
    separate = SYSTEMS[arguments.system](arguments.weights, arguments.window)
    ready = time.perf_counter() - STARTED
    arguments.out.mkdir(parents=True, exist_ok=True)
    separate(arguments.recording, arguments.out)
    print(json.dumps({"ready": ready, "finished": time.perf_counter() - STARTED}))


if __name__ == "__main__":
    main()
