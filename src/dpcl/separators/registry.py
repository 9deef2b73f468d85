"""Separators by name: networks that ship, weights files, and the methods beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dpcl.errors import InputError
from dpcl.model import Model, load_model
from dpcl.separators.base import Context, Separator
from dpcl.shipped import shipped_models, weights_path

LOCAL, LIVE = ":local", ":live"  # suffixes of a model's name

Needs = Literal["mixture", "references", "talkers"]


@dataclass(frozen=True)
class Method:
    """A way to separate, before it knows the mixture.

    Attributes:
        name: as `build` takes it.
        sample_rate: of the mixture, in Hz.
        build: from the context of a mixture to its separator.
        needs: what the context must hold: nothing beyond the mixture, its references, or models of
            its talkers.
        learn: recordings (T,) of one talker -> the model of this talker, where those are needed.
        weights: the model's file, for a trained network.
    """

    name: str
    sample_rate: int
    build: Callable[[Context], Separator]
    needs: Needs = "mixture"
    learn: Callable[[Sequence[Tensor]], Any] | None = None
    weights: Path | None = None


def method_of(separator: Separator, name: str = "") -> Method:
    """Return the method that always is this separator."""
    return Method(name, separator.sample_rate, lambda context: separator)


def find_method(name: str) -> Method:
    """Find a method by name.

    Args:
        name: `mixture`, `ibm`, `irm` or `psm` (from the references); `nmf` or `fhmm` (from models
            of the talkers); `casa` or `spectral` (without training); a model that ships; a
            .safetensors file. `MODEL:local` clusters stretches of 100 frames, which the references
            put in order. `MODEL:live` separates as in a stream; `live` is `causal:live`.

    Raises:
        InputError: The name is unknown, or dpcl did not write the file.
    """
    if name in _CLASSICAL:
        return _CLASSICAL[name]()
    model, how = _split(name)
    network = load_network(model)
    if how == LIVE:
        from dpcl.separators.online import OnlineDeepClustering

        return _trained(name, model, OnlineDeepClustering(network))
    separator = separator_of(network)
    if how == LOCAL:
        from dpcl.separators.local import LocalClustering

        def local(context: Context) -> Separator:
            return LocalClustering(name, network, context)

        return Method(name, separator.sample_rate, local, "references", weights=_file(model))
    return _trained(name, model, separator)


def separator_of(model: Model) -> Separator:
    """Return the separator of a trained network."""
    from dpcl.separators.deep_clustering import DeepClustering, MaskNetwork

    return DeepClustering(model) if model.settings.network.embedding else MaskNetwork(model)


def build(name: str, context: Context | None = None) -> Separator:
    """Build the separator of a name; see `find_method`.

    Raises:
        InputError: The name is unknown, or the context lacks what the method needs.
    """
    return find_method(name).build(context or Context())


def load_network(name: str = "default") -> Model:
    """Load the model that ships under this name, or that a .safetensors file holds.

    Raises:
        InputError: The name is unknown, or dpcl did not write the file.
    """
    path = _file(name)
    if path.suffix != ".safetensors" and not path.is_file():
        names = ", ".join(model.name for model in shipped_models())
        raise InputError(f"unknown model {name!r}; give a .safetensors file or one of: {names}")
    # A training may have replaced the file, or one went to another folder, since the last call.
    written = path.stat().st_mtime_ns if path.is_file() else 0
    return _load(path.absolute(), written)


@lru_cache(maxsize=4)
def _load(path: Path, written: int) -> Model:
    return load_model(path)


def _file(name: str) -> Path:
    return weights_path(name) or Path(name)


def _split(name: str) -> tuple[str, str]:
    """A separator's name as that of its model and LOCAL, LIVE or ""."""
    if name == "live":
        return "causal", LIVE
    how = next((how for how in (LOCAL, LIVE) if name.endswith(how)), "")
    return name.removesuffix(how), how


def _trained(name: str, model: str, separator: Separator) -> Method:
    return Method(name, separator.sample_rate, lambda context: separator, weights=_file(model))


def _oracle(name: str) -> Callable[[], Method]:
    def find() -> Method:
        from dpcl.separators.oracle import ORACLES, SAMPLE_RATE, Oracle

        def oracle(context: Context) -> Separator:
            return Oracle(name, ORACLES[name], context)

        return Method(name, SAMPLE_RATE, oracle, "references")

    return find


def _casa() -> Method:
    from dpcl.separators.classical.casa import Casa

    return method_of(Casa(), "casa")


def _spectral() -> Method:
    from dpcl.separators.classical.spectral import Spectral

    return method_of(Spectral(), "spectral")


def _nmf() -> Method:
    from dpcl.separators.classical.nmf import NMF, learn_dictionary

    def known(context: Context) -> Separator:
        return NMF(_talkers("nmf", context))

    return Method("nmf", NMF.sample_rate, known, "talkers", learn_dictionary)


def _fhmm() -> Method:
    from dpcl.separators.classical.fhmm import FactorialHMM, learn_talker

    def known(context: Context) -> Separator:
        return FactorialHMM(_talkers("fhmm", context))

    return Method("fhmm", FactorialHMM.sample_rate, known, "talkers", learn_talker)


def _talkers(name: str, context: Context) -> Sequence[Any]:
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
