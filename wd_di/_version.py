"""What the package is called where packages are installed from, and which version of it is installed here."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

DISTRIBUTION = "wd-di-kafka"

if TYPE_CHECKING:
    __version__: str
else:

    @functools.cache
    def __getattr__(name: str) -> object:
        """Look the version up when it is asked for: few ask, and the look costs more than the package's import."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version(DISTRIBUTION)
        except PackageNotFoundError:
            return "0+unknown"  # a bare folder on sys.path
