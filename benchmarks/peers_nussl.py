"""The network that ships with dpcl inside nussl's deep clustering.

It gets the same features and weights; STFT, clustering (scikit-learn's k-means), masks and inverse
are nussl's. No module of dpcl is used: its weights file says how the network is built.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
from peers_unused import leave_out
from peers_weights import Features, part, read_weights, resample
from torch import Tensor, nn

# What nussl imports on start and deep clustering never calls.
UNUSED = [
    *("ffmpeg", "gpytorch", "ignite", "jams", "musdb", "museval", "norbert", "numcodecs"),
    *("pyloudnorm", "sox", "soxbindings", "termtables", "torch.utils.tensorboard", "zarr"),
]


def nussl_separate(path: Path, sources: int) -> Callable[[Path, Path], None]:
    """nussl.separation.deep.DeepClustering with our network made of nussl's modules."""
    leave_out(UNUSED)
    for window in ("hamming", "hann", "blackman"):  # gone from there since scipy 1.13
        setattr(scipy.signal, window, getattr(scipy.signal.windows, window))
    import nussl
    from nussl.datasets import transforms
    from nussl.ml.networks.modules import Embedding, RecurrentStack

    settings, weights = read_weights(path)
    signal, network = settings["signal"], settings["network"]
    bins, width = signal["window"] // 2 + 1, network["width"]

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = Features(weights)
            self.stack = RecurrentStack(
                bins, width, network["layers"], bidirectional=True, dropout=network["dropout"]
            )
            self.stack.rnn.load_state_dict(part(weights, "lstm"))
            name = {"logistic": "sigmoid"}.get(network["activation"], network["activation"])
            activation = [name, "unit_norm"]  # one that it does not know, like "none", is none
            self.embed = Embedding(bins, 2 * width, network["embedding"], activation)
            self.embed.linear.load_state_dict(part(weights, "project"))

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
        heard = resample(samples, rate, signal["sample_rate"])
        mixture = nussl.AudioSignal(
            audio_data_array=heard, sample_rate=signal["sample_rate"], stft_params=stft_params
        )
        separator = nussl.separation.deep.DeepClustering(mixture, sources)
        # What load_model would do with a file of nussl's own.
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
