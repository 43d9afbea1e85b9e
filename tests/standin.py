"""A pool that only notes what is done with it: for tests of the providers, the wiring and the lifecycle."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wd_di._borrowing import unopened
from wd_di.errors import AbortTransaction, PoolClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Self


@dataclass(eq=False)
class Scope:
    """What is inside of an opened scope."""

    pool: StandInPool
    kind: str
    options: dict[str, Any]
    ambient: bool


class StandInScope(unopened.Scope[Scope, Any]):
    """Notes when it begins and how it ends."""

    def __init__(self, pool: StandInPool, kind: str, options: dict[str, Any], *, ambient: bool = True) -> None:
        self.pool, self.kind, self.options, self.ambient = pool, kind, options, ambient
        self.opened: list[AbstractContextManager[Scope]] = []

    def __repr__(self) -> str:
        return f"<{self.kind} of {self.pool.name!r}>"

    def begin(self, *, ambient: bool = True) -> StandInScope:
        """Return another one like it."""
        return StandInScope(self.pool, self.kind, self.options, ambient=ambient)

    def __enter__(self) -> Scope:
        self.opened.append(self._scope_of(Scope(self.pool, self.kind, self.options, self.ambient)))
        return self.opened[-1].__enter__()

    def __exit__(self, *error: object) -> bool | None:
        return self.opened.pop().__exit__(*error)

    async def __aenter__(self) -> Any:
        return self.__enter__()

    async def __aexit__(self, *error: object) -> bool | None:
        return self.__exit__(*error)

    @contextmanager
    def _scope_of(self, scope: Scope) -> Iterator[Scope]:
        note = self.pool.note
        note(f"begin {self.kind}")
        try:
            yield scope
        except AbortTransaction:
            note("abort")
        except BaseException as error:
            note(f"abort {type(error).__name__}")
            raise
        else:
            note("commit" if self.kind == "transaction" else "return")


@dataclass
class StandInReport:
    """What closing has to report."""

    pool: str


@dataclass(eq=False)
class StandInPool:
    """Has the parts of a pool that a container needs."""

    settings: Any = None
    name: str = "default"
    configure: Callable[..., object] | None = None
    observer: Any = None
    log: list[str] = field(default_factory=list)
    closed: bool = False

    def note(self, what: str) -> None:
        """Write down what happened."""
        self.log.append(f"{self.name}: {what}")

    def producer(self, **options: Any) -> StandInScope:
        """Return a checkout."""
        return StandInScope(self, "producer", options)

    def transaction(self, **options: Any) -> StandInScope:
        """Return a transaction to come."""
        if self.closed:
            raise PoolClosedError(self.name)
        return StandInScope(self, "transaction", options)

    def __enter__(self) -> Self:
        if callable(self.settings):
            self.settings(self)
        self.note("open")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> StandInReport:
        """Close and report."""
        self.closed = True
        self.note("close")
        return StandInReport(self.name)


def at_once(count: int, fn: Callable[[], object]) -> list[object]:
    """Return what ``count`` threads got that called ``fn`` at the same moment; exceptions too."""
    barrier = threading.Barrier(count, timeout=10)
    results: list[object] = []

    def call() -> None:
        barrier.wait()
        try:
            results.append(fn())
        except Exception as error:  # noqa: BLE001
            results.append(error)

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return results
