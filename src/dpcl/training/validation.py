"""SI-SDRi of a network in training, on a frozen list rendered once."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from dpcl.evaluation.metrics import best_permutation, si_sdr
from dpcl.mixtures.lists import read_list, render_mixture
from dpcl.networks.embedding_network import EmbeddingNetwork
from dpcl.networks.model import Model, ModelSettings
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.training.recipe import ValidationSettings


class Validation:
    """Holds the rendered mixtures; scores a network as `dpcl separate` would run it."""

    def __init__(self, settings: ValidationSettings, model: ModelSettings) -> None:
        self.settings, self.model = settings, model
        rows = read_list(Path(settings.list))[: settings.limit]
        root, rate = Path(settings.root), model.signal.sample_rate
        self.mixtures = [render_mixture(row, root, rate) for row in rows]

    def si_sdri(self, network: EmbeddingNetwork) -> float:
        """Mean over mixtures of the mean over their sources, dB; silent references do not count.

        The network is left in the mode that it was in, and no random number is drawn.
        """
        training = network.training
        separator = DeepClustering(Model(self.model, network.eval(), {}))
        scores = []
        for rendered in self.mixtures:
            mixture, references = (torch.as_tensor(x, dtype=torch.float32) for x in rendered)
            estimates = separator(mixture.to(_device(network)), len(references)).sources.cpu()
            order = best_permutation(estimates, references)
            improvement = si_sdr(estimates[order], references) - si_sdr(mixture, references)
            scores.append(improvement.nanmean())  # NaN: a silent reference
        network.train(training)
        return float(torch.stack(scores).nanmean())


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
