"""Validation during training: SI-SDRi of a model on a list, with every mixture rendered once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from pydantic import Field

from dpcl.catalogue import find_file
from dpcl.errors import InputError
from dpcl.evaluation.metrics import best_permutation, si_sdr
from dpcl.mixtures.corpus import has_index, read_corpus
from dpcl.mixtures.drawing import draw_list
from dpcl.mixtures.lists import read_list
from dpcl.mixtures.render import render_mixture, row_files
from dpcl.mixtures.rows import MixtureRow
from dpcl.model import Model
from dpcl.recordings.separate import separate_recording
from dpcl.separators.registry import separator_of
from dpcl.settings import Settings


class ValidationSettings(Settings):
    """SI-SDRi on a list of mixtures; the weights with the best score are kept."""

    # CSV beside the recipe, in a corpus, or in lists/. If no corpus has its recordings, mixtures
    # are drawn from the split `valid` of the corpus instead.
    list: str
    root: str | None = None  # folder of the list's paths; null: the corpus that has them
    every: int = Field(default=500, ge=1)  # steps
    limit: int | None = Field(default=None, ge=1)  # number of mixtures, from the first on


class Validation:
    """Rendered mixtures of the validation list, and the scores of models on them.

    Args:
        settings: the list.
        sample_rate: of the mixtures, Hz.
        corpora: corpora of the training, where the list and its recordings may lie.
        num_sources: sources of a mixture that is drawn in place of the list's.
        folder: of the recipe, where the list may lie.

    Raises:
        InputError: The list or its recordings are missing, and no corpus has a split `valid`.
    """

    def __init__(
        self,
        settings: ValidationSettings,
        sample_rate: int,
        corpora: Sequence[str],
        num_sources: int,
        folder: Path | None = None,
    ) -> None:
        self.settings = settings
        rows, root = self._rows([Path(path) for path in corpora], num_sources, folder)
        self.mixtures = [render_mixture(row, root, sample_rate) for row in rows]

    def _rows(
        self, corpora: Sequence[Path], num_sources: int, folder: Path | None
    ) -> tuple[list[MixtureRow], Path]:
        """Return the rows, and the folder that their paths are relative to."""
        settings = self.settings
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
                return draw_list(drawn, path.stem, 0, len(rows), num_sources), root
        raise InputError(
            f"validation.list: no corpus has the recordings of {settings.list} or a split `valid`;"
            " give another --corpus, or add --set validation=null"
        )

    def si_sdri(self, model: Model) -> float:
        """Return the mean over mixtures of the mean over their sources, dB.

        Silent references do not count. The network keeps its mode, and no random number is drawn.
        """
        training = model.network.training
        model.network.eval()
        separator = separator_of(model)
        scores = []
        for rendered in self.mixtures:
            mixture, references = (torch.as_tensor(x, dtype=torch.float32) for x in rendered)
            found = separate_recording(mixture, separator.sample_rate, separator, len(references))
            estimates = found.sources
            order = best_permutation(estimates, references)
            improvement = si_sdr(estimates[order], references) - si_sdr(mixture, references)
            scores.append(improvement.nanmean())  # NaN: a silent reference
        model.network.train(training)
        return float(torch.stack(scores).nanmean())


def _has_files(rows: list[MixtureRow], root: Path) -> bool:
    try:
        return all(path.is_file() for row in rows for path in row_files(row, root))
    except ValueError:  # a part of a recording that is not there
        return False
