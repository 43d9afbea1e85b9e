"""How a package shows names that it hasn't loaded: each is looked up where it lives when it is touched (PEP 562)."""

from __future__ import annotations

import sys
from importlib import import_module

TYPE_CHECKING = False  # as in _forks
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the package's ``__getattr__`` and ``__dir__``. Hide them from type checkers: for those, any name would do.

    Args:
        package: Its ``__name__``.
        homes: Its modules, which can be touched too, each with the names that live there.
    """
    places = {name: home for home, names in homes.items() for name in names.split()}
    public = [*places, *(home for home in homes if home.isidentifier() and not home.startswith("_"))]

    def get(name: str) -> object:
        # Kept nowhere: what a test puts into the home for a while would stay here for ever.
        if name in places:
            return getattr(import_module(f"{package}.{places[name]}"), name)
        if name in homes:
            return import_module(f"{package}.{name}")
        # Each costs as much as all the rest.
        from difflib import get_close_matches
        from importlib.util import find_spec

        near = get_close_matches(name, public, n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        if not name.startswith("_") and find_spec(f"{package}.{name}"):
            hint = f": import {package}.{name} first"
        # With the name alone: given an object too, Python would add a guess of its own.
        raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}", name=name)

    return get, lambda: sorted({*vars(sys.modules[package]), *public})
