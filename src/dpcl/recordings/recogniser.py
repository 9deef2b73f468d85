"""Speech recognition by Whisper (faster-whisper): words with times. Nothing is downloaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dpcl.errors import InputError, need_package

RATE = 16000  # sample rate in Hz of the samples that recognisers take
FILES = ("model.bin", "config.json", "tokenizer.json")  # of a model for faster-whisper
SILENCE = 2.0  # s of silence after which Whisper's words are checked for hallucination


@dataclass(frozen=True)
class Word:
    """Word with its times in s and its probability, 0 to 1."""

    start: float
    end: float
    text: str
    probability: float


class Recogniser(Protocol):
    """Function from samples to words.

    Attributes:
        name: of the model, for the transcript.
        language: of all talkers; None detects it for each.
    """

    name: str
    language: str | None

    def __call__(
        self, samples: NDArray[np.float32], language: str | None
    ) -> tuple[list[list[Word]], str]:
        """Recognise the words of one talker.

        Args:
            samples: (T,) at RATE.
            language: code such as `en`; None to detect it.

        Returns:
            Phrases, each a list of words with times in s from the first sample; and the language.
        """
        ...


class Whisper:
    """Whisper model in the format of CTranslate2.

    Args:
        name: folder of a model, name such as `base`, or ORG/NAME of the Hugging Face hub. Models
            with a name are read from the cache of the hub.
        language: code such as `en`, which the model must support; None to detect it.
        device: `cpu`, `cuda`, `mps` or `auto`; without CUDA the CPU runs the model.
        threads: number of threads on the CPU; 0 for the default of faster-whisper.

    Raises:
        InputError: faster-whisper is not installed, the model is not on this computer or cannot be
            read, or does not support the language.

    Source: Radford et al., "Robust speech recognition via large-scale weak supervision", 2022.
    """

    def __init__(
        self, name: str, language: str | None = None, device: str = "cpu", threads: int = 0
    ) -> None:
        need_package("asr", "transcripts need", "faster_whisper")
        import faster_whisper

        self.name, self.language = name, language
        folder = find_model(name)
        kind = {"mps": "cpu"}.get(device, device)
        try:
            self.model = faster_whisper.WhisperModel(
                str(folder), kind, compute_type="auto", cpu_threads=threads, local_files_only=True
            )
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise InputError(
                f"--transcribe: the model in {folder} cannot be read ({reason}); fetch it again"
            ) from error
        if language is not None and language not in self.model.supported_languages:
            raise InputError(
                f"--language: the model {name} has no language {language!r}; give a code such as en"
            )

    def __call__(
        self, samples: NDArray[np.float32], language: str | None
    ) -> tuple[list[list[Word]], str]:
        """Recognise the words of one talker; see `Recogniser`."""
        segments, info = self.model.transcribe(
            samples,
            language=language,
            word_timestamps=True,
            vad_filter=True,  # Silero VAD: without it, sounds that are no speech get words
            condition_on_previous_text=False,  # errors of one phrase do not spread to the next
            hallucination_silence_threshold=SILENCE,
        )
        phrases = [[_word(word) for word in segment.words or ()] for segment in segments]
        return phrases, info.language


def _word(word: Any) -> Word:
    """Return a word of faster-whisper with rounded figures."""
    times = round(float(word.start), 3), round(float(word.end), 3)
    return Word(*times, word.word, round(float(word.probability), 3))


def find_model(name: str) -> Path:
    """Return the folder of a Whisper model on this computer.

    Args:
        name: folder, name of a size such as `base`, or ORG/NAME of the Hugging Face hub.

    Returns:
        The folder; for a name, in the cache of the hub.

    Raises:
        InputError: There is no such folder or name, the model is not in the cache, or files of it
            are missing. The message has the command that gets the model.
    """
    from faster_whisper import available_models, download_model, utils

    folder = Path(name).expanduser()
    if name and folder.is_dir():
        _check_files(folder)
        return folder
    if name not in available_models() and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise InputError(
            f"--transcribe: {name!r} is no folder and no Whisper model; give a folder, ORG/NAME, or"
            " a size such as tiny, base, small or large-v3"
        )
    repository = getattr(utils, "_MODELS", {}).get(name, name)
    command = f"`hf download {repository}`"
    try:
        found = Path(download_model(name, local_files_only=True))
    except (OSError, ValueError) as error:
        raise InputError(
            f"--transcribe: the model {name} is not on this computer; get it with {command}, or"
            " give the folder of a model"
        ) from error
    _check_files(found, f"complete it with {command}")
    return found


def _check_files(folder: Path, remedy: str = "") -> None:
    """Raise InputError if files of a model for faster-whisper are missing."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if not missing:
        return
    if not remedy and (folder / "model.safetensors").is_file():  # of transformers
        remedy = (
            f"convert it with `ct2-transformers-converter --model {folder} --output_dir NEW"
            " --copy_files tokenizer.json preprocessor_config.json`"
        )
    remedy = remedy or "give the folder of a Whisper model in the format of CTranslate2"
    raise InputError(f"--transcribe: {folder} lacks {missing[0]}; {remedy}")
