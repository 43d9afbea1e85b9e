"""What a forked child must renew, and in which order.

The child has one thread, and the parent's locks as they were: whatever another thread held stays held for ever. And it
has the parent's clients, whose threads stayed behind. Modules say here what is to be done about theirs when they are
loaded; the list says when.
"""

from __future__ import annotations

import os
import weakref
from itertools import count

TYPE_CHECKING = False  # from typing it would cost more than all the rest of a bare import
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

ORDER = (
    "exit",
    "ids",
    "seats",
    "deliveries",
    "workers",
    "clients",  # before the pools, which would close them
    "pools",
    "resources",
    "default pool",
    "clusters for tests",
    "mock clusters",
)

_renewals: dict[str, Callable[[], object]] = {}
_held: list[AbstractContextManager[object]] = []


def renew_in_child(name: str, renew: Callable[[], object]) -> None:
    """Call ``renew()`` in every forked child, in the place that the name has in ``ORDER``.

    Raises:
        KeyError: There is no such place.
    """
    if name not in ORDER:
        raise KeyError(name)
    _renewals[name] = renew


class WeakCalls:
    """Methods of objects that live, to be called together; kept weakly, so that an object can be collected."""

    def __init__(self) -> None:
        self._methods: dict[int, weakref.WeakMethod[Callable[..., object]]] = {}
        self._count = count()

    def add(self, method: Callable[..., object]) -> None:
        """Call this bound method, too."""
        key = next(self._count)
        self._methods[key] = weakref.WeakMethod(method, lambda _: self._methods.pop(key, None))

    def __call__(self, *given: object) -> None:
        """Call all, in the order in which they were added."""
        for each in tuple(self._methods.values()):
            method = each()
            if method is not None:
                method(*given)


def hold_over_forks(lock: AbstractContextManager[object]) -> None:
    """Fork only while nobody else holds this lock: what it guards is whole in the child, too."""
    _held.append(lock)


def leave_to_parent(handle: object) -> None:
    """Keep one of librdkafka's clients for ever, untouched, in a child that has inherited it.

    Its threads stayed in the parent (librdkafka#4869): closing or collecting it costs seconds, or hangs.
    """
    import ctypes  # noqa: PLC0415  (which whoever has a client has loaded)

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))


def _before() -> None:
    for lock in _held:
        lock.__enter__()


def _after_in_parent() -> None:
    for lock in reversed(_held):
        lock.__exit__(None, None, None)


def _after_in_child() -> None:
    _after_in_parent()
    raised: BaseException | None = None
    for name in [name for name in ORDER if name in _renewals]:  # also after one that raises, which Python prints
        try:
            _renewals[name]()
        except BaseException as error:  # noqa: BLE001  (raised below)
            error.__context__ = raised
            raised = error
    if raised is not None:
        raise raised


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
