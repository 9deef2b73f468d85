"""Peers import much on start that separating never calls, and that need not be installed for it."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec


def leave_out(packages: Sequence[str]) -> None:
    """Let these be imported, and all that is in them, without being there."""
    sys.meta_path.insert(0, _Unused(packages))


class _Unused(MetaPathFinder, Loader):
    """Modules with empty classes under any name, for packages that a peer loads and needs not."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        known = any(name == unused or name.startswith(f"{unused}.") for unused in self.names)
        return ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Empty(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
