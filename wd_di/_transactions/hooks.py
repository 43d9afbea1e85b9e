"""What a transaction's users want to be done before its commit and after its end."""

from __future__ import annotations

import asyncio
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Outcome = Literal["committed", "aborted", "unknown"]
When = Literal["before_commit", "after_commit", "after_abort", "after_completion"]


class Hooks:
    """The hooks of one transaction, in the order in which they were given."""

    __slots__ = ("_done", "_given")

    def __init__(self) -> None:
        self._given: list[tuple[When, Callable[..., object]]] = []
        self._done = 0

    def add(self, when: When, fn: Callable[..., object]) -> None:
        """Keep ``fn`` for its time."""
        if not callable(fn):
            raise TypeError(f"{when} takes a function, not {type(fn).__name__}")
        self._given.append((when, fn))

    def run_before_commit(self, doomed: Callable[[], bool]) -> None:
        """Call those that belong inside the transaction, also those that they add; none once it is doomed."""
        while not doomed() and (fn := self._next_before_commit()) is not None:
            fn()

    async def run_before_commit_async(self, doomed: Callable[[], bool]) -> None:
        """Call them from a task, and await those that are coroutine functions."""
        while not doomed() and (fn := self._next_before_commit()) is not None:
            await _awaited(fn())

    def run_after(self, outcome: Outcome, report: Callable[[str, BaseException], None]) -> None:
        """Call those that wait for this outcome; what one raises is reported, and the others still run.

        What ends a program or a thread, such as Ctrl-C or ``sys.exit``, comes out when the others have run.
        """
        ending: BaseException | None = None
        for when, call in self._after(outcome):
            try:
                call()
            except BaseException as error:  # noqa: BLE001  (the outcome stands, whatever a hook does)
                ending = _kept(ending, when, error, report)
        if ending is not None:
            raise ending

    async def run_after_async(self, outcome: Outcome, report: Callable[[str, BaseException], None]) -> None:
        """Call them from a task, and await those that are coroutine functions; a cancellation ends only one of them."""
        ending: BaseException | None = None
        for when, call in self._after(outcome):
            try:
                await _awaited(call())
            except BaseException as error:  # noqa: BLE001  (as above)
                ending = _kept(ending, when, error, report)
        if ending is not None:
            raise ending

    def _after(self, outcome: Outcome) -> list[tuple[When, Callable[[], object]]]:
        mine = {"committed": "after_commit", "aborted": "after_abort"}.get(outcome)
        due: list[tuple[When, Callable[[], object]]] = []
        for when, fn in self._given:
            if when == mine:
                due.append((when, fn))
            elif when == "after_completion":
                due.append((when, partial(fn, outcome)))
        return due

    def _next_before_commit(self) -> Callable[..., object] | None:
        """Return the next one, each once."""
        due = [fn for when, fn in self._given if when == "before_commit"]
        if self._done >= len(due):
            return None
        self._done += 1
        return due[self._done - 1]


def _kept(
    ending: BaseException | None, when: str, error: BaseException, report: Callable[[str, BaseException], None]
) -> BaseException | None:
    """Return what is to be raised in the end: the first that no ``except Exception`` would catch. Report the others."""
    if not isinstance(error, Exception) and (ending is None or isinstance(ending, asyncio.CancelledError)):
        return error
    if not isinstance(error, asyncio.CancelledError):
        report(when, error)
    return ending


async def _awaited(result: object) -> None:
    if isawaitable(result):
        await result
