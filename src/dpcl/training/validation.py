"""Validation during training: mixtures rendered once, scored as `dpcl separate` would run."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from dpcl.errors import InputError
from dpcl.evaluation.metrics import best_permutation, si_sdr
from dpcl.mixtures.corpus import read_corpus
from dpcl.mixtures.drawing import draw_list
from dpcl.mixtures.lists import read_list
from dpcl.mixtures.render import render_mixture, row_files
from dpcl.mixtures.rows import MixtureRow
from dpcl.model import Model
from dpcl.networks.base import EmbeddingNetwork
from dpcl.recordings.separate import separate_recording
from dpcl.separators.registry import separator_of
from dpcl.shipped import find_file
from dpcl.training.batches import has_index
from dpcl.training.recipe import Recipe


class Validation:
    """Rendered mixtures of the validation list, and the score of a network on them.

    Raises:
        InputError: The list or its recordings are missing, and no corpus has a split `valid`.
    """

    def __init__(self, recipe: Recipe, folder: Path | None = None) -> None:
        assert recipe.validation is not None
        self.settings, self.model = recipe.validation, recipe.model
        rows, root = self._rows(recipe, folder)
        rate = recipe.model.signal.sample_rate
        self.mixtures = [render_mixture(row, root, rate) for row in rows]

    def _rows(self, recipe: Recipe, folder: Path | None) -> tuple[list[MixtureRow], Path]:
        """Return the rows, and the folder that their paths are relative to."""
        settings, corpora = self.settings, [Path(path) for path in recipe.data.corpora]
        folders = [path if path.is_dir() else path.parent for path in corpora]
        beside = folders if folder is None else [folder, *folders]
        here = [Path(settings.list), *(place / settings.list for place in beside)]
        path = next((path for path in here if path.exists()), None)
        path = path or find_file("lists", settings.list)
        if path is None:
            raise InputError(
                f"validation.list: there is no list {settings.list}; correct it, or add --set"
                " validation=null"
            )
        rows = read_list(path)[: settings.limit]
        roots = [*folders, path.parent] if settings.root is None else [Path(settings.root)]
        for root in roots:
            if settings.root is not None or _has_files(rows[:1], root):
                return rows, root
        for corpus, root in zip(corpora, folders, strict=True):
            drawn = None
            with suppress(InputError):  # it has no such split
                drawn = read_corpus(corpus, "valid") if has_index(corpus) else None
            if drawn is not None:
                return draw_list(drawn, path.stem, 0, len(rows), recipe.data.num_sources), root
        raise InputError(
            f"validation.list: no corpus has the recordings of {settings.list} or a split `valid`;"
            " give another --corpus, or add --set validation=null"
        )

    def si_sdri(self, network: EmbeddingNetwork) -> float:
        """Return the mean over mixtures of the mean over their sources, dB.

        Silent references do not count. The network keeps its mode, and no random number is drawn.
        """
        training = network.training
        separator = separator_of(Model(self.model, network.eval(), {}))
        scores = []
        for rendered in self.mixtures:
            mixture, references = (torch.as_tensor(x, dtype=torch.float32) for x in rendered)
            found = separate_recording(mixture, separator.sample_rate, separator, len(references))
            estimates = found.sources
            order = best_permutation(estimates, references)
            improvement = si_sdr(estimates[order], references) - si_sdr(mixture, references)
            scores.append(improvement.nanmean())  # NaN: a silent reference
        network.train(training)
        return float(torch.stack(scores).nanmean())


def _has_files(rows: list[MixtureRow], root: Path) -> bool:
    try:
        return all(path.is_file() for row in rows for path in row_files(row, root))
    except ValueError:  # a part of a recording that is not there
        return False
