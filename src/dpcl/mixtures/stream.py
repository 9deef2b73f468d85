"""Training mixtures drawn on the fly: item i of epoch e is the same in every worker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dpcl.errors import InputError
from dpcl.mixtures.corpus import PackedCorpus
from dpcl.mixtures.drawing import Kinds
from dpcl.signal.audio import resample
from dpcl.signal.level import draw_gains_db, scale_to_peak

SPEAKER_SECONDS = 60.0  # s; a speaker with more audio is not drawn more often
ATTEMPTS = 100  # number of attempts to draw talkers with different texts
SPEED_STEPS = 1000  # steps of the speed factor, 1/1000: finer steps take soxr twice the time

SHORTEST = 0.25  # share of a window, least activity of a talker that starts late or stops early
FADE = 0.02  # share of a window; without fades the clicks of cuts would identify the talker


class TrainingMixtures(Dataset[Tensor]):
    """Dataset of training mixtures: [item] gives float32 sources (num_sources, samples).

    Everything is drawn from SeedSequence((seed, epoch, item)), so neither the order nor the number
    of workers matters. The talkers of an item are different speakers with different texts. They
    are from one corpus with probability `within`, otherwise from at least two, as far as the
    corpus allows. Utterances of one speaker are joined if a segment is longer than one. Each source
    has active level 0 dB, is resampled to its speed, and gets its gain (see `draw_gains_db`). All
    sources get one common scale (see `scale_to_peak`).

    Args:
        packed: the corpus.
        num_sources: number of sources of a mixture.
        samples: number of samples of a mixture.
        items: number of mixtures in an epoch.
        seed: seed of the random numbers.
        relative_level_db: range of the gains in dB.
        within: probability of talkers from one corpus.
        speed: speeds are uniform in 1 ± `speed`.
        windows: number of equal windows of an item; the active talkers are drawn anew in each.
        active: relative frequency of 1, 2, … active talkers in a window (see `gate_sources`); None
            for all talkers.
        turns: probability of activity in a part of the window only (see `gate_sources`).
        same_speaker: all talkers of an item are one speaker, with recordings of different texts.
        kinds: kinds of mixtures. The kind of an item is drawn first, then its sources, without
            regard to `within`.

    Raises:
        InputError: the corpus has fewer than `num_sources` speakers. With `same_speaker`: no
            speaker has that number of texts. With `kinds`: a kind cannot be drawn.
    """

    def __init__(
        self,
        packed: PackedCorpus,
        num_sources: int,
        samples: int,
        items: int,
        seed: int = 0,
        relative_level_db: float = 5.0,
        within: float = 0.5,
        speed: float = 0.0,
        windows: int = 1,
        active: Sequence[float] | None = None,
        turns: float = 0.0,
        same_speaker: bool = False,
        kinds: Kinds | None = None,
    ) -> None:
        self.windows, self.turns = windows, turns
        self.active = active or (*[0.0] * (num_sources - 1), 1.0)  # all talkers by default
        self.packed, self.num_sources = packed, num_sources
        self.samples, self.items = samples, items
        self.seed, self.relative_level_db = seed, relative_level_db
        self.within, self.speed = within, speed
        # Epoch in shared memory, so that set_epoch also reaches persistent workers.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

        self.same_speaker = same_speaker and num_sources > 1
        utterances: dict[tuple[str, str], list[int]] = {}
        for i, key in enumerate(zip(packed.corpora, packed.speakers, strict=True)):
            utterances.setdefault(key, []).append(i)
        if self.same_speaker:
            utterances = {
                key: group
                for key, group in utterances.items()
                if len({packed.texts[i] for i in group}) >= num_sources
            }
            if not utterances:
                raise InputError(
                    f"no speaker of the corpus has {num_sources} recordings of different texts to"
                    " be mixed with one another; add recordings"
                )
        elif len(utterances) < num_sources:
            raise InputError(
                f"the corpus has {len(utterances)} speakers, too few for mixtures of {num_sources};"
                " add speakers or mix fewer"
            )
        self._utterances = [
            np.array(group) for group in utterances.values()
        ]  # indices of utterances by speaker
        corpora = sorted(set(packed.corpora))
        self._corpus = np.array([corpora.index(corpus) for corpus, _ in utterances])  # (S,)
        lengths = np.diff(packed.offsets)
        totals = np.array([lengths[group].sum() for group in self._utterances])
        self._weights = np.minimum(totals / packed.sample_rate, SPEAKER_SECONDS)  # (S,)
        # Speakers of corpora that have enough speakers for a whole mixture.
        self._complete = np.bincount(self._corpus)[self._corpus] >= num_sources  # (S,)
        ids = {text: i for i, text in enumerate(sorted(set(packed.texts)))}
        self._texts = [ids[text] for text in packed.texts]
        self._gains = 10.0 ** (-packed.levels_db / 20.0) / 32768.0  # (N,), for 0 dB active level
        self.kinds = kinds
        if kinds is not None:
            self._members = kinds.members(list(utterances))  # group -> (S,)
            shares = np.array([kind.share for kind in kinds.mixtures])
            self._shares = shares / shares.sum()
            # Speakers with at least one text for each source of a mixture.
            texts = [len({self._texts[i] for i in group}) for group in self._utterances]
            self._several = np.array(texts) >= num_sources  # (S,)
            for kind in kinds.mixtures:
                if kind.same and not (self._members[kind.of[0]] & self._several).any():
                    raise InputError(
                        f"no class of the group {kind.of[0]} has {num_sources} recordings for the"
                        f" mixtures {kind.name}; omit them, or add recordings"
                    )

    def set_epoch(self, epoch: int) -> None:
        """Draw the items of this epoch from now on, in every worker."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, item: int) -> Tensor:
        if not 0 <= item < self.items:
            raise IndexError(f"item {item} of an epoch of {self.items}")
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, int(self._epoch), item)))
        for _ in range(ATTEMPTS):
            sources = self._draw_kind(rng) if self.kinds else self._draw_sources(rng)
            if sources is not None:
                break
        else:
            raise InputError(
                f"no {self.num_sources} speakers with different texts were found; check the text"
                " column of the corpus, or give the files of different sentences different names"
            )
        gains_db = draw_gains_db(rng, self.num_sources, self.relative_level_db)
        gains = (10.0 ** (gains_db / 20.0)).astype(np.float32)
        sources = sources * gains[:, None]
        if self.turns or self.active[-1] < 1.0:
            sources = gate_sources(sources, rng, self.windows, self.active, self.turns)
        return torch.from_numpy(scale_to_peak(sources))  # (C, T)

    def _draw_sources(self, rng: np.random.Generator) -> NDArray[np.float32] | None:
        """Draw sources (C, T) at 0 dB; None if no speaker with other texts remains."""
        if self.same_speaker:
            return self._draw_voices(rng)
        several = bool((self._corpus != self._corpus[0]).any()) and self.num_sources > 1
        within = not several or (bool(self._complete.any()) and rng.random() < self.within)
        allowed = self._weights * self._complete if within else self._weights.copy()
        sources: list[NDArray[np.float32]] = []
        used: set[int] = set()  # texts in the mixture
        first = -1
        while len(sources) < self.num_sources:
            eligible = allowed
            if len(sources) == 1 and not within:
                eligible = allowed * (self._corpus != self._corpus[first])
            cumulative = np.cumsum(eligible)
            if cumulative[-1] == 0.0:
                return None
            speaker = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
            allowed[speaker] = 0.0
            source = self._draw_segment(rng, self._utterances[speaker], used)
            if source is None:
                continue
            if not sources:
                first = speaker
                if within:
                    allowed *= self._corpus == self._corpus[first]
            sources.append(source)
        return np.stack(sources)

    def _draw_kind(self, rng: np.random.Generator) -> NDArray[np.float32] | None:
        """Draw sources (C, T) at 0 dB of a kind drawn by its share; None as in `_draw_sources`."""
        assert self.kinds is not None
        kind = self.kinds.mixtures[int(rng.choice(len(self._shares), p=self._shares))]
        used: set[int] = set()  # texts in the mixture
        if kind.same:
            weights = self._weights * self._members[kind.of[0]] * self._several
            speaker = int(rng.choice(len(weights), p=weights / weights.sum()))
            dealt = rng.permutation(self._utterances[speaker])
            drawn = [
                self._draw_segment(rng, dealt[k :: self.num_sources], used)
                for k in range(self.num_sources)
            ]
        else:
            drawn, allowed = [], self._weights.copy()
            for group in kind.of:
                weights = allowed * self._members[group]
                if not weights.any():
                    return None
                speaker = int(rng.choice(len(weights), p=weights / weights.sum()))
                allowed[speaker] = 0.0
                drawn.append(self._draw_segment(rng, self._utterances[speaker], used))
        sources = [source for source in drawn if source is not None]
        return np.stack(sources) if len(sources) == len(drawn) else None

    def _draw_voices(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw sources (C, T) of one speaker, with the texts dealt out among them."""
        cumulative = np.cumsum(self._weights)
        speaker = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        texts = rng.permutation(sorted({self._texts[i] for i in self._utterances[speaker]}))
        sources = []
        for voice in range(self.num_sources):
            others = set(texts.tolist()) - set(texts[voice :: self.num_sources].tolist())
            sources.append(self._draw_segment(rng, self._utterances[speaker], others))
        return np.stack([source for source in sources if source is not None])

    def _draw_segment(
        self, rng: np.random.Generator, utterances: NDArray[np.int64], used: set[int]
    ) -> NDArray[np.float32] | None:
        """Draw a segment (T,) without the texts `used`, and add its texts to `used`."""
        rate = SPEED_STEPS
        if self.speed > 0.0:
            rate = round(SPEED_STEPS * rng.uniform(1.0 - self.speed, 1.0 + self.speed))
        need = math.ceil(self.samples * rate / SPEED_STEPS)

        order = [i for i in rng.permutation(utterances).tolist() if self._texts[i] not in used]
        if not order:
            return None
        pause = 0  # samples of silence after each utterance
        if self.kinds and self.kinds.pause:
            pause = round(rng.uniform(0.0, self.kinds.pause) * self.packed.sample_rate)
        offsets = self.packed.offsets
        chosen: list[int] = []
        total = 0
        for i in cycle(order):  # repeated if the speaker has no more
            chosen.append(i)
            total += int(offsets[i + 1] - offsets[i]) + pause
            if total >= need:
                break
        used.update(self._texts[i] for i in chosen)

        begin = -int(rng.integers(total - need + 1))  # beginning of utterance i in the segment
        joined = np.zeros(need, np.float32)
        for i in chosen:
            first, last = int(offsets[i]), int(offsets[i + 1])
            low, high = max(begin, 0), min(begin + last - first, need)
            if low < high:
                piece = self.packed.samples[first + low - begin : first + high - begin]
                joined[low:high] = piece * np.float32(self._gains[i])
            begin += last - first + pause
        return resample(joined, rate, SPEED_STEPS, self.samples)


def gate_sources(
    sources: NDArray[np.float32],
    rng: np.random.Generator,
    windows: int,
    active: Sequence[float],
    turns: float,
) -> NDArray[np.float32]:
    """Silence talkers in parts of a mixture, window by window.

    In each window k talkers, drawn at random, are active with probability `active[k - 1]`. With
    probability `turns` an active talker is active in a part of the window only: from a random
    moment, until one, or between two.

    Args:
        sources: (C, T).
        rng: random numbers.
        windows: number of consecutive windows of equal length.
        active: relative frequency of 1, 2, … active talkers in a window.
        turns: probability in [0, 1].

    Returns:
        (C, T).
    """
    windowed = sources.reshape(len(sources), windows, -1)  # (C, W, T / W)
    gated = np.zeros_like(windowed)
    for window in range(windows):
        count = 1 + int(rng.choice(len(active), p=np.asarray(active) / np.sum(active)))
        for talker in rng.permutation(len(sources))[:count]:
            part = _part(rng, windowed.shape[-1]) if rng.random() < turns else 1.0
            gated[talker, window] = windowed[talker, window] * part
    return gated.reshape(sources.shape)


def _part(rng: np.random.Generator, samples: int) -> NDArray[np.float32]:
    """Draw a gate (samples,): one over at least SHORTEST of the window, zero elsewhere."""
    first, last = np.sort(rng.uniform(0.0, 1.0, 2))
    side = rng.integers(3)  # active from a moment, until one, or between two
    first = 0.0 if side == 1 else min(first, 1 - SHORTEST)
    last = 1.0 if side == 0 else max(last, first + SHORTEST)
    time = np.linspace(0.0, 1.0, samples, dtype=np.float32)
    rise = np.ones(samples, np.float32) if first == 0.0 else (time - first) / FADE
    fall = np.ones(samples, np.float32) if last >= 1.0 else (last - time) / FADE
    return np.clip(np.minimum(rise, fall), 0.0, 1.0).astype(np.float32)
