"""Separators by name: shipped models, weights files, and methods without a trained network."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dpcl.catalogue import shipped_models, weights_path
from dpcl.errors import InputError, as_path
from dpcl.model import Model, load_model
from dpcl.separators.base import Context, Separator

LONGEST = 255  # bytes of the name of a file or folder, in all common file systems
LOCAL, LIVE, GUIDED, MORE = ":local", ":live", ":guided", ":more"  # suffixes to a model's name

Needs = Literal["mixture", "references", "talkers", "timeline"]


@dataclass(frozen=True)
class Method:
    """Method of separation, before the mixture is given.

    Attributes:
        name: name of the method, for `build`.
        sample_rate: sample rate of the mixture in Hz.
        build: function from the context of a mixture to its separator.
        needs: facts that the context must hold: only the mixture, its references, models of its
            talkers, or its timeline.
        learn: function from recordings (T,) of one talker to the model of this talker; None if the
            method needs no such models.
        weights: weights file of a trained network; None for other methods.
        more: number of sources to separate beyond the references, for a background.
    """

    name: str
    sample_rate: int
    build: Callable[[Context], Separator]
    needs: Needs = "mixture"
    learn: Callable[[Sequence[Tensor]], Any] | None = None
    weights: Path | None = None
    more: int = 0


def method_of(separator: Separator, name: str = "") -> Method:
    """Return the method that builds this separator for every mixture.

    Args:
        separator: any separator.
        name: name of the method.
    """
    return Method(name, separator.sample_rate, lambda context: separator)


def find_method(name: str, device: str = "cpu") -> Method:
    """Find a method by name.

    Args:
        name: `mixture`, `ibm`, `irm` or `psm` (from the references); `nmf` or `fhmm` (from models
            of the talkers); `casa` or `spectral` (without training); a shipped model; a
            .safetensors file. `MODEL:local` clusters segments of 100 frames, put in order by the
            references, `MODEL:local25` of 25. `MODEL:live` separates as in a stream; `live` is
            `causal:live`. `MODEL:guided` follows the true timeline. `MODEL:more` separates one
            source more than there are references.
        device: device that runs a network: `cpu`, `cuda`, `mps`, or `auto` for a GPU if there is
            one.

    Returns:
        The method.

    Raises:
        InputError: The name is unknown, or dpcl did not write the file.

    Example:
        >>> find_method("ibm").needs
        'references'
    """
    name = _checked(name)
    if name in _CLASSICAL:
        return _CLASSICAL[name]()
    model, suffix = split_name(name)
    network = on_device(load_network(model), device)
    if suffix == LIVE:
        from dpcl.separators.online import OnlineDeepClustering

        return _trained(name, model, OnlineDeepClustering(network))
    if suffix == GUIDED:
        return _guided(name, network, _file(model))
    separator = separator_of(network)
    if suffix.startswith(LOCAL):
        from dpcl.separators.oracle import SEGMENT, LocalClustering

        segment = int(suffix.removeprefix(LOCAL) or SEGMENT)
        if not segment:
            raise InputError(f"{name}: has segments of 0 frames; give at least 1, as in :local25")

        def local(context: Context) -> Separator:
            return LocalClustering(name, network, context, segment)

        return Method(name, separator.sample_rate, local, "references", weights=_file(model))
    found = _trained(name, model, separator)
    return replace(found, more=1) if suffix == MORE else found


def separator_of(model: Model) -> Separator:
    """Return the separator of a trained network, with or without embeddings."""
    from dpcl.separators.deep_clustering import DeepClustering, MaskNetwork

    if not model.settings.network.embedding:
        return MaskNetwork(model)
    from dpcl.separators.guided import GuidedClustering, finds_talkers

    return (GuidedClustering if finds_talkers(model) else DeepClustering)(model)


def build(name: str, context: Context | None = None, device: str = "cpu") -> Separator:
    """Build the separator of a name.

    Args:
        name: name of a method, see `find_method`.
        context: context of the mixture, for methods that need more than the mixture.
        device: device that runs a network, see `find_method`.

    Returns:
        The separator.

    Raises:
        InputError: The name is unknown, or the context lacks what the method needs.
    """
    return find_method(name, device).build(context or Context())


def on_device(model: Model, device: str) -> Model:
    """Return a model whose network runs on a device; everything else stays on the CPU.

    Args:
        model: a model on the CPU, which is not changed.
        device: `cpu`, `cuda`, `mps`, or `auto` for a GPU if there is one.

    Returns:
        The model itself for the CPU, or one with a copy of the network.

    Raises:
        InputError: This machine has no such device.
    """
    if device == "auto":
        device = next((name for name in ("cuda", "mps") if _available(name)), "cpu")
    if device == "cpu":
        return model
    if not _available(device):
        raise InputError(f"--device {device}: torch finds no such device here; use --device cpu")
    return replace(model, network=deepcopy(model.network).to(device))


def _available(device: str) -> bool:
    """Return True if torch can use a device of this kind."""
    backends = {"cuda": torch.cuda, "mps": torch.backends.mps}
    return device in backends and bool(backends[device].is_available())


def load_network(name: str = "default") -> Model:
    """Load a shipped model or a .safetensors file; the last four files stay in memory.

    Args:
        name: name of a shipped model, hf://ORG/NAME, or path of a .safetensors file.

    Returns:
        The model.

    Raises:
        InputError: The name is unknown, or dpcl did not write the file.
    """
    name = _checked(name)
    path = _file(name)
    if path.suffix != ".safetensors" and not path.is_file():
        names = ", ".join(model.name for model in shipped_models())
        raise InputError(f"unknown model {name!r}; give a .safetensors file or one of: {names}")
    # Time and absolute path are the cache key: since the last call a training may have replaced the
    # file, or the working folder may have changed.
    written = path.stat().st_mtime_ns if path.is_file() else 0
    return _load(path.absolute(), written)


@lru_cache(maxsize=4)
def _load(path: Path, written: int) -> Model:
    """Load a model; `written` is the time of the file, a part of the cache key."""
    return load_model(path)


def _checked(name: object) -> str:
    """Return the name of a model, or its path as a name; InputError for anything else."""
    path = as_path(name, "model")
    if any(len(os.fsencode(part)) > LONGEST for part in path.parts):
        raise InputError(f"model: {str(path)[:80]}… is too long for the name of a file; correct it")
    return name if isinstance(name, str) else str(path)


def _file(name: str) -> Path:
    """Return the weights file of a shipped model, or `name` as a path."""
    return weights_path(name) or Path(name)


def split_name(name: str) -> tuple[str, str]:
    """Split the name of a separator into the name of its model and its suffix, or "".

    Example:
        >>> split_name("default:local25")
        ('default', ':local25')
    """
    if name == "live":
        return "causal", LIVE
    found = re.search(f"({LOCAL}[0-9]*|{LIVE}|{GUIDED}|{MORE})$", name)
    suffix = found[0] if found else ""
    return name.removesuffix(suffix), suffix


def _guided(name: str, network: Model, weights: Path) -> Method:
    """Return the method of a network that follows the true timeline."""
    from dpcl.separators.guided import GuidedClustering

    def guided(context: Context) -> Separator:
        if context.timeline is None:
            raise InputError(f"{name}: needs the timeline; use it with `dpcl experiment meetings`")
        return GuidedClustering(network, context.timeline)

    return Method(name, network.settings.signal.sample_rate, guided, "timeline", weights=weights)


def _trained(name: str, model: str, separator: Separator) -> Method:
    """Return the method of a separator with a weights file."""
    return Method(name, separator.sample_rate, lambda context: separator, weights=_file(model))


def _oracle(name: str) -> Callable[[], Method]:
    """Return the constructor of the method of an oracle."""

    def find() -> Method:
        from dpcl.separators.oracle import ORACLES, SAMPLE_RATE, Oracle

        def oracle(context: Context) -> Separator:
            return Oracle(name, ORACLES[name], context)

        return Method(name, SAMPLE_RATE, oracle, "references")

    return find


def _casa() -> Method:
    """Return the method `casa`."""
    from dpcl.separators.classical.casa import Casa

    return method_of(Casa(), "casa")


def _spectral() -> Method:
    """Return the method `spectral`."""
    from dpcl.separators.classical.spectral import Spectral

    return method_of(Spectral(), "spectral")


def _nmf() -> Method:
    """Return the method `nmf`."""
    from dpcl.separators.classical.nmf import NMF, learn_dictionary

    def nmf(context: Context) -> Separator:
        return NMF(_talkers("nmf", context))

    return Method("nmf", NMF.sample_rate, nmf, "talkers", learn_dictionary)


def _fhmm() -> Method:
    """Return the method `fhmm`."""
    from dpcl.separators.classical.fhmm import FactorialHMM, learn_talker

    def fhmm(context: Context) -> Separator:
        return FactorialHMM(_talkers("fhmm", context))

    return Method("fhmm", FactorialHMM.sample_rate, fhmm, "talkers", learn_talker)


def _talkers(name: str, context: Context) -> Sequence[Any]:
    """Return the models of the talkers in a context, or raise InputError."""
    if not context.talkers:
        raise InputError(f"{name}: needs other speech of the talkers; use it with `dpcl evaluate`")
    return context.talkers


_CLASSICAL: dict[str, Callable[[], Method]] = {
    **{name: _oracle(name) for name in ("mixture", "ibm", "irm", "psm")},
    "nmf": _nmf,
    "fhmm": _fhmm,
    "casa": _casa,
    "spectral": _spectral,
}
