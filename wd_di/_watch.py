"""How a scope is noticed that is gone without its exit."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


_TWICE = 2


class Lender(Protocol):
    """Whose scope is watched."""

    def call_for_collector(self, end: Callable[[], None]) -> None:
        """Let ``end`` be called, here or elsewhere: a collector may run in any thread, between any two steps."""


class Watch(weakref.ref[Any]):
    """Ends what a scope has begun, should the scope be collected before its exit.

    CPython may raise a signal's exception right before the first instruction of ``__exit__``, and doesn't call it again
    (bpo-29988). Nor does anybody who has entered by hand and kept only what that gave: so it is ended when that is
    gone, too.

    Attributes:
        let_go: Returns what the scope gave, and forgets it.
        end: Ends what it has begun; harmless when it has ended.
        lender: Calls ``end`` for the collector.
    """

    __slots__ = ("_given", "_gone", "end", "lender", "let_go")

    let_go: Callable[[], object]
    end: Callable[[], None]
    lender: Lender
    _given: weakref.ref[Any] | None
    _gone: int

    @property
    def adrift(self) -> bool:
        """Whether the scope is gone: nobody can leave it any more."""
        return self() is None

    @property
    def over(self) -> bool:
        """Whether what it gave is gone, too: nobody can use it any more."""
        return self() is None and (self._given is None or self._given() is None)

    def wait_for(self, given: object) -> None:
        """End it when that is gone, too; at once if there is none."""
        end, lender = self.end, self.lender
        if given is None:
            lender.call_for_collector(end)
        else:
            self._given = weakref.ref(given, lambda _: lender.call_for_collector(end))

    def overdue(self) -> bool:
        """Whether both had been gone already when it was asked before: a signal's exception came in here, too.

        It says so once, and is asked by a thread on which no signal's handler runs.
        """
        self._gone = self._gone + 1 if self.over else 0
        return self._gone == _TWICE


def watch(scope: object, let_go: Callable[[], object], end: Callable[[], None], lender: Lender) -> Watch:
    """Return what must be kept until the scope's exit, and dropped then."""
    seen = Watch(scope, _scope_is_gone)
    seen.let_go, seen.end, seen.lender = let_go, end, lender
    seen._given, seen._gone = None, 0  # noqa: SLF001  (its constructor)
    return seen


def _scope_is_gone(seen: Any) -> None:
    seen.wait_for(seen.let_go())
