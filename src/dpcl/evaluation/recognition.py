"""Word error rate: the words that a recogniser finds in an estimate, against the reference's."""

from __future__ import annotations

import os
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from dpcl.recordings.recogniser import RATE, Whisper
from dpcl.signal.audio import resample

MODEL = "DPCL_WHISPER"  # environment variable with the folder or name of the Whisper model
DEFAULT = "base"


def recogniser_name() -> str:
    """Return the folder or name of the Whisper model that scores are made with."""
    return os.environ.get(MODEL) or DEFAULT


@lru_cache(maxsize=1)
def load_recogniser(name: str) -> Whisper:
    """Load the recogniser once in a process.

    Args:
        name: folder of a Whisper model, or name in its cache.

    Raises:
        InputError: faster-whisper is not installed, or the model is not on this computer.
    """
    return Whisper(name, threads=torch.get_num_threads())


def prepare() -> None:
    """Load the recogniser, so that a missing model ends a command before any work."""
    load_recogniser(recogniser_name())


def word_error_rate(
    estimate: NDArray[np.float64], reference: NDArray[np.float64], sample_rate: int
) -> float:
    """Return the word error rate of an estimate in percent.

    The right words are those that the same recogniser finds in the reference, so the errors of the
    recogniser on clean speech do not count. Case and punctuation are ignored. Inserted words count,
    so the rate may exceed 100 %.

    Args:
        estimate: (T,).
        reference: (T,).
        sample_rate: of both, in Hz.

    Returns:
        Substituted, omitted and inserted words in percent of the words of the reference; NaN for a
        reference without words.
    """
    expected = _words(reference.astype(np.float32).tobytes(), sample_rate)
    if not expected:
        return np.nan
    return error_rate(expected, _words(estimate.astype(np.float32).tobytes(), sample_rate))


def error_rate(expected: str, found: str) -> float:
    """Return the word error rate of a text in percent.

    Args:
        expected: the right words.
        found: the words to score.
    """
    import jiwer

    return 100 * float(jiwer.wer(expected, found))


@lru_cache(maxsize=64)  # a reference is compared with the mixture and with the estimate
def _words(samples: bytes, sample_rate: int) -> str:
    """Return the words of float32 samples, in lower case, without punctuation."""
    recogniser = load_recogniser(recogniser_name())
    signal = resample(np.frombuffer(samples, np.float32), sample_rate, RATE)
    phrases, _ = recogniser(signal, recogniser.language)
    text = "".join(word.text for words in phrases for word in words).lower()
    kept = "".join(letter if letter.isalnum() or letter == "'" else " " for letter in text)
    return " ".join(kept.split())
