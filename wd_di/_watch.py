"""How a scope is noticed that is gone without its exit."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


_TWICE = 2


class Watch(weakref.ref[Any]):
    """Ends what a scope has begun, should the scope be collected before its exit.

    CPython may raise a signal's exception right before the first instruction of ``__exit__``, and doesn't call it again
    (bpo-29988). Nor does anybody who has entered by hand and kept only what that gave: so it is ended when that is
    gone, too, or when its borrower opens another scope.

    Attributes:
        let_go: Returns what the scope gave, and forgets it.
        end: Ends what it has begun; harmless when it has ended.
    """

    __slots__ = ("_given", "_gone", "end", "let_go")

    let_go: Callable[[], object]
    end: Callable[[], None]
    _given: weakref.ref[Any] | None
    _gone: int

    @property
    def adrift(self) -> bool:
        """Whether the scope is gone."""
        return self() is None

    def wait_for(self, given: object) -> None:
        """End it when that is gone, too; at once if there is none."""
        end = self.end
        if given is None:
            end()
        else:
            self._given = weakref.ref(given, lambda _: end())

    def overdue(self) -> bool:
        """Whether both had been gone already when it was asked before: a signal's exception came in here, too.

        It says so once, and is asked by a thread on which no signal's handler runs.
        """
        gone = self() is None and (self._given is None or self._given() is None)
        self._gone = self._gone + 1 if gone else 0
        return self._gone == _TWICE


def watch(scope: object, let_go: Callable[[], object], end: Callable[[], None]) -> Watch:
    """Return what must be kept until the scope's exit, and dropped then."""
    seen = Watch(scope, _scope_is_gone)
    seen.let_go, seen.end, seen._given, seen._gone = let_go, end, None, 0  # noqa: SLF001  (its constructor)
    return seen


def _scope_is_gone(seen: Any) -> None:
    seen.wait_for(seen.let_go())
