"""What a transaction's users want to be done before its commit and after its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Outcome = Literal["committed", "aborted", "unknown"]
When = Literal["before_commit", "after_commit", "after_abort", "after_completion"]


class Hooks:
    """The hooks of one transaction, in the order in which they were given."""

    __slots__ = ("_given",)

    def __init__(self) -> None:
        self._given: list[tuple[When, Callable[..., object]]] = []

    def add(self, when: When, fn: Callable[..., object]) -> None:
        """Keep ``fn`` for its time."""
        self._given.append((when, fn))

    def run_before_commit(self, doomed: Callable[[], bool]) -> None:
        """Call those that belong inside the transaction, also those that they add; none once it is doomed."""
        done = 0
        while not doomed() and len(due := self._due("before_commit")) > done:
            due[done]()
            done += 1

    def run_after(self, outcome: Outcome, report: Callable[[str, Exception], None]) -> None:
        """Call those that wait for this outcome; what one raises is reported, and the others still run."""
        mine = {"committed": "after_commit", "aborted": "after_abort"}.get(outcome)
        for when, fn in tuple(self._given):
            try:
                if when == mine:
                    fn()
                elif when == "after_completion":
                    fn(outcome)
            except Exception as error:  # noqa: BLE001  (the outcome stands, whatever a hook does)
                report(when, error)

    def _due(self, wanted: When) -> list[Callable[..., object]]:
        return [fn for when, fn in self._given if when == wanted]
