"""Score a separator on a mixture list, and write results.csv and summary.json.

Speaker-dependent methods get models of the talkers, learned from their other speech, without any
sample of the mixture:

1. their recordings in splits other than the mixture's (for closed talkers, training speech);
2. without such recordings, their other recordings in the split of the mixture;
3. without these, the parts of the mixture's own recordings that the mixture does not use.

The first minute is used, in the order of the corpus. Speaker-dependent methods thus have an
advantage over methods for unknown talkers. The advantage grows from 1 to 3, as the speech then
comes from the same room and the same day.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.evaluation.metrics import MEASURES, check_measures, perceptual_score, score
from dpcl.evaluation.summary import METRICS, SourceResult, Summary, improvements, summarise
from dpcl.io import Progress, Report, atomic, no_report
from dpcl.mixtures.corpus import Utterance, read_corpus
from dpcl.mixtures.render import check_files, render_mixture
from dpcl.mixtures.rows import MixtureRow, SourceRow
from dpcl.recordings.separate import separate_recording
from dpcl.separators.base import Context, Separation
from dpcl.separators.registry import Method
from dpcl.signal.audio import read_mono

ENOUGH = 60.0  # length of speech to learn a talker from, s
LEAST = 2.0  # shortest speech to learn a talker from, s
GUARD = 0.1  # gap on either side of the parts that the mixture uses, s


def evaluate(
    rows: Sequence[MixtureRow],
    corpus_root: str | os.PathLike[str],
    method: Method,
    out_dir: str | os.PathLike[str],
    *,
    limit: int | None = None,
    report: Report = no_report,
    metrics: tuple[str, ...] = (),
) -> Summary:
    """Separate and score every mixture of a list, with the number of sources given.

    Writes out_dir/results.csv, with one row per mixture and source in dB, and out_dir/summary.json.
    Existing files are replaced at the end; an interrupted run writes neither. The same separations
    give the same files, byte by byte.

    Args:
        rows: rows of the list.
        corpus_root: folder that the paths of the rows are relative to.
        method: method of separation, from dpcl.separators.registry.
        out_dir: folder of the results.
        limit: number of mixtures to use, from the first on; None for all.
        report: called after each mixture.
        metrics: names of MEASURES, besides SI-SDR and SDR.

    Returns:
        Means overall and by condition.

    Raises:
        InputError: Before any work, the list is empty, a file is missing or a talker cannot be
            learned. Later, `render_mixture` refuses a row, or estimates cannot be scored.
    """
    out_dir = Path(out_dir)
    if limit is not None and limit < 1:
        raise InputError(
            f"a limit of {limit} selects no mixture to evaluate; give --limit 1 or more"
        )
    rows = rows[:limit]
    if not rows:
        raise InputError("the list holds no mixtures to evaluate; draw some with `dpcl mix`")
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"{out_dir}: is a file, not a folder; give another --out")
    check_files(rows, corpus_root)
    talkers = None
    if method.needs == "talkers":
        if any(row.mixture for row in rows):
            raise InputError(
                f"{method.name} learns the talkers from a corpus, but rendered mixtures do not"
                " name their recordings; evaluate a list of a corpus"
            )
        talkers = KnownTalkers(method, rows, corpus_root)
    check_measures(metrics, method.sample_rate)
    results: list[SourceResult] = []
    for done, row in enumerate(rows, 1):
        results += score_mixture(row, corpus_root, method, talkers, metrics)
        report(Progress(done, len(rows), "mixtures"))
    summary = summarise(
        results, rows[0].list, method.name, method.sample_rate, METRICS + improvements(metrics)
    )
    write_results(out_dir, results, summary)
    return summary


def separate_row(
    row: MixtureRow,
    corpus_root: str | os.PathLike[str],
    method: Method,
    talkers: KnownTalkers | None = None,
) -> tuple[Separation, Tensor, Tensor]:
    """Render one mixture of a list, and separate it into the number of its sources.

    `method.more` adds to this number.

    Args:
        row: row of the list.
        corpus_root: folder that the paths of the row are relative to.
        method: method of separation.
        talkers: models of the talkers, for a method that needs them.

    Returns:
        The separation, the references (C, T) and the mixture (T,), at the method's sample rate.

    Raises:
        InputError: `render_mixture` refuses the row, or the method refuses the mixture.
    """
    rendered = render_mixture(row, corpus_root, method.sample_rate)
    mixture, references = (torch.as_tensor(x, dtype=torch.float32) for x in rendered)
    models = talkers.models(row) if talkers else ()
    separator = method.build(Context(mixture, references, models))
    number = len(references) + method.more
    separation = separate_recording(mixture, method.sample_rate, separator, number)
    return separation, references, mixture


def score_mixture(
    row: MixtureRow,
    corpus_root: str | os.PathLike[str],
    method: Method,
    talkers: KnownTalkers | None = None,
    metrics: tuple[str, ...] = (),
) -> list[SourceResult]:
    """Separate one mixture, with the number of sources given, and score every source.

    Args:
        row: row of the list.
        corpus_root: folder that the paths of the row are relative to.
        method: method of separation.
        talkers: models of the talkers, for a method that needs them.
        metrics: names of MEASURES, besides SI-SDR and SDR.

    Returns:
        One result per source, in the order of the row.

    Raises:
        InputError: `render_mixture` refuses the row, or the estimates cannot be scored.
    """
    separation, references, mixture = separate_row(row, corpus_root, method, talkers)
    estimates = separation.sources.cpu()
    try:
        scores = score(estimates, references, mixture)
    except InputError as error:
        raise InputError(f"mixture {row.id} of list {row.list}: {error}") from error
    more: dict[str, Tensor] = {}
    for metric in metrics:
        matched = estimates[scores.estimate.clamp(min=0)] if len(estimates) else 0 * references
        rate = method.sample_rate
        compared = partial(MEASURES[metric].compared, mixture=mixture)
        separated = perceptual_score(metric, compared(matched), compared(references), rate)
        separated = torch.where(scores.estimate >= 0, separated, torch.nan)
        unprocessed = perceptual_score(
            metric, mixture.expand_as(references), compared(references), rate
        )
        more |= {metric: separated, f"{metric}i": separated - unprocessed}
        if weight := MEASURES[metric].weight:
            found = [weight(reference, rate) for reference in references.double().numpy()]
            more[f"{metric}_weight"] = torch.tensor(found, dtype=torch.float64)
    return [
        SourceResult(
            id=row.id,
            corpora=row.corpora,
            genders=row.genders,
            source=index + 1,
            speaker=source.speaker,
            silent=bool(scores.silent[index]),
            kind=row.kind,
            group=source.group,
            **{metric: getattr(scores, metric)[index].item() for metric in METRICS},
            more={metric: values[index].item() for metric, values in more.items()},
        )
        for index, source in enumerate(row.sources)
    ]


def write_results(out_dir: Path, results: Sequence[SourceResult], summary: Summary) -> None:
    """Write out_dir/results.csv and out_dir/summary.json, both or neither.

    Args:
        out_dir: folder of the results; made where it does not exist.
        results: rows of results.csv.
        summary: content of summary.json.

    Raises:
        InputError: The folder cannot be written.
    """
    document = json.dumps(summary_document(summary), indent=2, ensure_ascii=False, allow_nan=False)
    write_files(
        out_dir, {"results.csv": _csv(results, summary.metrics), "summary.json": document + "\n"}
    )


def summary_document(summary: Summary) -> dict[str, Any]:
    """Return the content of summary.json: the summary, with all metrics of a mean side by side."""
    document = asdict(summary)
    for means in (document["overall"], *document["conditions"].values()):
        more, intervals = means.pop("more"), means.pop("intervals")
        means |= {**more, "intervals": intervals}
    return document


def _csv(results: Sequence[SourceResult], metrics: Sequence[str]) -> str:
    """Return the text of results.csv, scores with four decimals."""
    text = io.StringIO()
    labels = ("id", "corpora", "genders", "source", "speaker")
    kinds = ("kind", "group") if any(result.kind for result in results) else ()
    more = [metric for metric in metrics if metric not in METRICS]
    columns = [*labels, *METRICS, "silent", *kinds, *more]
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for result in results:
        line = asdict(result) | result.more
        for metric in metrics:  # + 0.0 turns -0.0 into 0.0
            line[metric] = "" if math.isnan(line[metric]) else f"{round(line[metric], 4) + 0.0:.4f}"
        writer.writerow({**line, "silent": int(result.silent)})
    return text.getvalue()


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write text files into a folder, all or none: under temporary names first, then renamed.

    Args:
        folder: folder of the files; made where it does not exist.
        files: text of each file by its name.

    Raises:
        InputError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for name, text in files.items():
                partial = stack.enter_context(atomic(folder / name))
                partial.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); give another --out"
        ) from error


class Piece(NamedTuple):
    """Part of a recording.

    Attributes:
        path: file of the recording.
        start: start of the part, s.
        seconds: length of the part, s.
    """

    path: Path
    start: float
    seconds: float


class UnknownTalker(InputError):
    """Error for a talker of a mixture without other speech in the corpus."""


class KnownTalkers:
    """Models of talkers for a speaker-dependent method, learned at first use.

    Args:
        method: method that needs models of the talkers.
        rows: rows whose talkers are checked now; other rows may follow.
        root: folder of the corpus.

    Raises:
        UnknownTalker: The corpus has no other speech of a talker. The message names the row and
            the talker.
        InputError: The corpus cannot be read, or does not list a recording of a row.
    """

    def __init__(
        self, method: Method, rows: Sequence[MixtureRow], root: str | os.PathLike[str]
    ) -> None:
        self.method = method
        corpus = read_corpus(root)
        self._root = corpus.root
        self._utterances = {
            u.path.relative_to(corpus.root).as_posix(): u for u in corpus.utterances
        }
        self._by_talker: dict[tuple[str, str], list[Utterance]] = {}
        for u in corpus.utterances:
            self._by_talker.setdefault((u.corpus, u.speaker), []).append(u)
        self._models: dict[tuple[Piece, ...], Any] = {}
        for row in rows:
            self.speech(row)

    def models(self, row: MixtureRow) -> list[Any]:
        """Return the models of the talkers of a row, in the order of its sources.

        Raises:
            UnknownTalker: The corpus has no other speech of a talker.
        """
        return [self._model(speech) for speech in self.speech(row)]

    def speech(self, row: MixtureRow) -> list[tuple[Piece, ...]]:
        """Return the pieces of speech that each talker of a row is learned from.

        Raises:
            UnknownTalker: The corpus has no other speech of a talker.
        """
        return [self._other_speech(row, source) for source in row.sources]

    def _model(self, speech: tuple[Piece, ...]) -> Any:
        """Return the model learned from some pieces of speech, from the cache if possible."""
        if speech not in self._models:
            rate = self.method.sample_rate
            recordings = [torch.from_numpy(read_mono(p.path, rate, *p[1:])) for p in speech]
            assert self.method.learn is not None
            self._models[speech] = self.method.learn(recordings)
        return self._models[speech]

    def _other_speech(self, row: MixtureRow, source: SourceRow) -> tuple[Piece, ...]:
        """Return speech of the talker of a source, in the order of preference of this module."""
        unlisted = [path for path in source.paths if path not in self._utterances]
        if unlisted:
            raise InputError(
                f"{row.where}: the corpus does not list {unlisted[0]}; give the corpus of the list"
            )
        joined = [self._utterances[path] for path in source.paths]
        mixed = {Path(path) for talker in row.sources for path in talker.paths}
        others = [
            u
            for u in self._by_talker[joined[0].corpus, joined[0].speaker]
            if u.path.relative_to(self._root) not in mixed
        ]
        splits = {u.split for u in joined}
        chosen = [u for u in others if u.split not in splits] or others
        pieces = [Piece(u.path, 0.0, u.seconds - GUARD) for u in chosen]
        unused = _unused_parts(joined, source.start, row.seconds, source.pause)
        speech = _first(pieces or unused, ENOUGH)
        if sum(piece.seconds for piece in speech) < LEAST:
            raise UnknownTalker(
                f"{row.where}: the corpus has no {LEAST:g} s of other speech of {source.speaker},"
                " which this separator needs; remove the row or add recordings"
            )
        return speech


def _unused_parts(
    joined: Sequence[Utterance], start: float, seconds: float, pause: float
) -> list[Piece]:
    """Return the parts of joined recordings that a mixture does not use, GUARD removed.

    The mixture is cut from `start` (s) on for `seconds`. pause: silence after each recording, s.
    """
    used: dict[Utterance, list[tuple[float, float]]] = {}  # start and end of each used part, s
    begin = 0.0  # start of a recording within the joined signal, s
    for u in joined:
        first, last = max(start - begin, 0.0), min(start + seconds - begin, u.seconds)
        used.setdefault(u, []).extend([(first, last)] if first < last else [])
        begin += u.seconds + pause
    pieces = []
    for u, parts in used.items():
        end = -GUARD
        for first, last in [*sorted(parts), (u.seconds, u.seconds)]:
            pieces.append(Piece(u.path, end + GUARD, first - end - 2 * GUARD))
            end = max(end, last)
    return pieces


def _first(pieces: Sequence[Piece], seconds: float) -> tuple[Piece, ...]:
    """Return the first pieces that add up to `seconds`, without pieces shorter than GUARD."""
    total = 0.0
    first: list[Piece] = []
    for piece in pieces:
        if total >= seconds:
            break
        if piece.seconds < GUARD:
            continue
        first.append(piece)
        total += piece.seconds
    return tuple(first)
