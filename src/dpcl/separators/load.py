"""Separators by name: the networks that ship, weights files of one's own, and all others."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dpcl.errors import InputError
from dpcl.model import load_model
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.separation import OracleSeparator, Separator
from dpcl.shipped import shipped_models, weights_path

if TYPE_CHECKING:
    from dpcl.separators.speaker_dependent import SpeakerDependent

LOCAL, LIVE = ":local", ":live"  # behind a model's name


def load_separator(name: str = "default") -> DeepClustering:
    """The separator of a shipped model's name or of a .safetensors path; kept for the next call.

    Raises InputError for a name that does not ship and a file that dpcl did not write.
    """
    path = weights_path(name) or Path(name)
    if path.suffix != ".safetensors" and not path.is_file():
        names = ", ".join(model.name for model in shipped_models())
        raise InputError(f"unknown model {name!r}; give a .safetensors file or one of: {names}")
    # A training may have replaced the file, or one went to another folder, since the last call.
    written = path.stat().st_mtime_ns if path.is_file() else 0
    return _load(path.absolute(), written)


@lru_cache(maxsize=4)
def _load(path: Path, written: int) -> DeepClustering:
    return DeepClustering(load_model(path))


def split_name(name: str) -> tuple[str, str]:
    """A separator's name as that of its model and what is to be done with it: LOCAL, LIVE or ""."""
    if name == "live":
        return "causal", LIVE
    how = next((how for how in (LOCAL, LIVE) if name.endswith(how)), "")
    return name.removesuffix(how), how


def is_oracle(name: str) -> bool:
    """Whether the separator of this name is shown the references."""
    from dpcl.separators.oracle import ORACLES

    return name in ORACLES or split_name(name)[1] == LOCAL


def named_separator(name: str) -> Separator | OracleSeparator | SpeakerDependent:
    """The separator that `dpcl evaluate` means by a name: any there is.

    mixture, ibm, irm, psm: shown the references; nmf, fhmm: told who speaks; casa, spectral:
    without training; else as load_separator, which raises InputError where there is none. With
    :live behind it a causal network separates as a stream hears it, and `live` is `causal:live`;
    with :local a network's embeddings are clustered in stretches of 100 frames that the references
    put in order.
    """
    from dpcl.separators.classical import CLASSICAL
    from dpcl.separators.online import OnlineDeepClustering
    from dpcl.separators.oracle import ORACLES
    from dpcl.separators.speaker_dependent import SPEAKER_DEPENDENT

    model, how = split_name(name)
    if how == LIVE:
        return OnlineDeepClustering(load_separator(model).model)
    if how == LOCAL:
        from dpcl.separators.local import LocalClustering

        return LocalClustering(load_separator(model))
    if name in CLASSICAL:
        return CLASSICAL[name]()
    known: dict[str, OracleSeparator | SpeakerDependent] = {**ORACLES, **SPEAKER_DEPENDENT}
    return known[name] if name in known else load_separator(name)
