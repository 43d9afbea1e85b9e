"""How a scope is noticed that is gone without its exit."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Watch(weakref.ref[Any]):
    """Ends what a scope has begun, should the scope be collected before its exit.

    CPython may raise a signal's exception right before the first instruction of ``__exit__``, and doesn't call it again
    (bpo-29988). Nor does anybody who has entered by hand and kept only what that gave: so it is ended when that is
    gone, too, or when its borrower opens another scope.

    Attributes:
        let_go: Returns what the scope gave, and forgets it.
        end: Ends what it has begun; harmless when it has ended.
    """

    __slots__ = ("_given", "end", "let_go")

    let_go: Callable[[], object]
    end: Callable[[], None]

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


def watch(scope: object, let_go: Callable[[], object], end: Callable[[], None]) -> Watch:
    """Return what must be kept until the scope's exit, and dropped then."""
    seen = Watch(scope, _scope_is_gone)
    seen.let_go, seen.end = let_go, end
    return seen


def _scope_is_gone(seen: Any) -> None:
    seen.wait_for(seen.let_go())
