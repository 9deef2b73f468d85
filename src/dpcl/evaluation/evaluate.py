"""Score a separator on a mixture list: results.csv and summary.json."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.evaluation.metrics import score
from dpcl.evaluation.summary import METRICS, SourceResult, Summary, summarise
from dpcl.evaluation.talkers import KnownTalkers
from dpcl.mixtures.lists import MixtureRow, check_files, render_mixture
from dpcl.separators.oracle import ORACLE_SAMPLE_RATE
from dpcl.separators.separation import OracleSeparator, Separator
from dpcl.separators.speaker_dependent import SpeakerDependent


def evaluate(
    rows: Sequence[MixtureRow],
    corpus_root: str | os.PathLike[str],
    separator: Separator | OracleSeparator | SpeakerDependent,
    out_dir: str | os.PathLike[str],
    *,
    name: str,
    limit: int | None = None,
    oracle: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Separate and score every mixture of a list (the first `limit`), told how many sources it has.

    name: of the separator, for the summary. oracle: the separator is shown the references. One that
    is speaker-dependent is told who speaks, and learns from his other speech in the corpus.
    progress: called with (mixtures done, mixtures in all). Writes out_dir/results.csv, a row per
    mixture and source in dB, and out_dir/summary.json, over older ones, and only when all is done:
    a run that was killed leaves neither. The same separations give the same files, byte by byte.
    Raises InputError for an empty list, before any work for files that are missing and talkers
    that cannot be learned, for what render_mixture finds wrong, and, naming the mixture, for
    estimates that cannot be scored.
    """
    out_dir = Path(out_dir)
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} leaves no mixture to evaluate; give 1 or more")
    rows = rows[:limit]
    if not rows:
        raise InputError("the list holds no mixtures to evaluate; draw some with `dpcl mix`")
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"{out_dir} is a file; give a folder for results.csv and summary.json")
    check_files(rows, corpus_root)
    talkers = None
    if isinstance(separator, SpeakerDependent):
        talkers = KnownTalkers(separator, rows, corpus_root)
    sample_rate = ORACLE_SAMPLE_RATE if oracle else cast(Separator, separator).sample_rate
    results: list[SourceResult] = []
    for done, row in enumerate(rows, 1):
        mixture, references = map(torch.from_numpy, render_mixture(row, corpus_root, sample_rate))
        with torch.inference_mode():
            if oracle:
                separation = cast(OracleSeparator, separator)(mixture, references)
            else:
                known = talkers.separator(row) if talkers else cast(Separator, separator)
                separation = known(mixture, len(references))
        results += _score_row(row, separation.sources.cpu(), references, mixture)
        if progress is not None:
            progress(done, len(rows))
    summary = summarise(results, rows[0].list, name, sample_rate)
    _write(out_dir, {"results.csv": _csv(results), "summary.json": _json(summary)})
    return summary


def _score_row(
    row: MixtureRow, estimates: Tensor, references: Tensor, mixture: Tensor
) -> Iterable[SourceResult]:
    try:
        scores = score(estimates, references, mixture)
    except InputError as error:
        raise InputError(f"mixture {row.id} of list {row.list}: {error}") from error
    for index, source in enumerate(row.sources):
        yield SourceResult(
            id=row.id,
            corpora=row.corpora,
            genders=row.genders,
            source=index + 1,
            speaker=source.speaker,
            si_sdr=scores.si_sdr[index].item(),
            si_sdri=scores.si_sdri[index].item(),
            sdr=scores.sdr[index].item(),
            sdri=scores.sdri[index].item(),
            silent=bool(scores.silent[index]),
            kind=row.kind,
            group=source.group,
        )


def _csv(results: Sequence[SourceResult]) -> str:
    text = io.StringIO()
    names = [field.name for field in fields(SourceResult)]
    if not any(result.kind for result in results):
        names = [name for name in names if name not in ("kind", "group")]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for result in results:
        line = asdict(result)
        for metric in METRICS:  # + 0.0: no negative zeros
            line[metric] = "" if math.isnan(line[metric]) else f"{round(line[metric], 4) + 0.0:.4f}"
        writer.writerow({**line, "silent": int(result.silent)})
    return text.getvalue()


def _json(summary: Summary) -> str:
    return json.dumps(asdict(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write(folder: Path, files: dict[str, str]) -> None:
    """Write all files under passing names first, then give them their own all at once."""
    partial = {folder / name: folder / f".{name}.{os.getpid()}" for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for path, passing in partial.items():
                passing.write_text(files[path.name], encoding="utf-8", newline="")
            for path, passing in partial.items():
                os.replace(passing, path)
        finally:
            for passing in partial.values():
                passing.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}); choose another"
        ) from error
