"""The network that ships with dpcl inside asteroid's deep clustering.

It gets the same features and weights; STFT, clustering (scikit-learn's k-means), masks and inverse
are asteroid's. No module of dpcl is used: its weights file says how the network is built.
"""

from __future__ import annotations

from pathlib import Path

import torch
from asteroid.dsp.vad import ebased_vad
from asteroid.masknn.recurrent import SingleRNN
from asteroid.utils.torch_utils import pad_x_to_y
from asteroid_filterbanks import make_enc_dec
from asteroid_filterbanks.transforms import apply_mag_mask, mag
from peers_weights import Features, part, read_weights
from sklearn.cluster import KMeans
from torch import Tensor, nn


class AsteroidDeepClustering(nn.Module):
    """As Model of asteroid's recipe egs/wsj0-mix/DeepClustering, from asteroid's own parts.

    One long sequence; k-means on all bins above -40 dB; binary masks, one in *every* mask where a
    bin is silent. `asteroid.separate` takes it as it takes its own models.
    """

    in_channels = 1

    def __init__(self, path: Path, sources: int) -> None:
        super().__init__()
        settings, weights = read_weights(path)
        signal, network = settings["signal"], settings["network"]
        self.sample_rate, self.sources = signal["sample_rate"], sources
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
        self.features = Features(weights)
        self.rnn = SingleRNN(
            "lstm", bins, network["width"], n_layers=network["layers"], bidirectional=True
        )
        self.rnn.rnn.load_state_dict(part(weights, "lstm"))
        self.embedding_layer = nn.Linear(2 * network["width"], bins * self.embedding)
        self.embedding_layer.load_state_dict(part(weights, "project"))

    def embed(self, magnitudes: Tensor) -> Tensor:
        """magnitudes (1, F, L) -> embeddings (1, F*L, K), in the recipe's order."""
        out = self.rnn(self.features(magnitudes.transpose(1, 2)))
        embeddings = self.activation(self.embedding_layer(out))
        embeddings = embeddings.view(*out.shape[:2], -1, self.embedding).transpose(1, 2)
        embeddings = embeddings.reshape(1, -1, self.embedding)
        return embeddings / (embeddings.norm(p=2, dim=-1, keepdim=True) + 1e-8)

    def forward_wav(self, mixture: Tensor) -> Tensor:
        """mixture (1, 1, T) -> sources (1, C, T)."""
        spectrum = self.encoder(mixture)  # (1, 2F, L)
        magnitudes = mag(spectrum)  # (1, F, L)
        active = ebased_vad(magnitudes)
        embeddings = self.embed(magnitudes)[active.view(1, -1)]
        labels = torch.from_numpy(KMeans(n_clusters=self.sources).fit_predict(embeddings.numpy()))
        masks = []
        for source in range(self.sources):
            mask = ~active
            mask[active] = labels == source
            masks.append(mask.float())
        masked = apply_mag_mask(spectrum.unsqueeze(1), torch.stack(masks, dim=1))
        return pad_x_to_y(self.decoder(masked), mixture)
