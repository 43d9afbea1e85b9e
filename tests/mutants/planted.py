"""A plugin of pytest that plants a mutant: the module is imported with it."""

from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING

from tests.mutants.mutations import Source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

    from tests.mutants.mutations import Mutant

_FILE, _NUMBER = "WD_DI_MUTANT_FILE", "WD_DI_MUTANT_NUMBER"


def environment(mutant: Mutant) -> dict[str, str]:
    """Return the variables of the process that is to have it."""
    return {**os.environ, _FILE: str(mutant.source.path), _NUMBER: str(mutant.number)}


class _Loader(SourceFileLoader):
    def __init__(self, mutant: Mutant) -> None:
        super().__init__(mutant.source.module, str(mutant.source.path))
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002  (there is but one)
        return self._mutant.code()


class _Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002  (of a reload)
    ) -> ModuleSpec | None:
        if fullname != self._mutant.source.module:
            return None
        spec = PathFinder.find_spec(fullname, path)
        assert spec is not None
        spec.loader = _Loader(self._mutant)
        return spec


if _FILE in os.environ:
    sys.meta_path.insert(0, _Finder(Source(Path(os.environ[_FILE])).mutants[int(os.environ[_NUMBER])]))
