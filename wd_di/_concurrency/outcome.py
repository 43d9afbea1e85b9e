"""What came of a call that one thread makes for another: its result, or what it raised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R")


class Outcome(Generic[R]):
    """Takes what a call gives, whatever it is, and gives it where it belongs."""

    __slots__ = ("_raised", "_results")

    def __init__(self) -> None:
        self._results: list[R] = []
        self._raised: list[BaseException] = []

    def of(self, call: Callable[[], R]) -> None:
        """Make the call; raises nothing."""
        try:
            self._results.append(call())
        except BaseException as error:  # noqa: BLE001  (it is raised where it belongs)
            self._raised.append(error)

    @property
    def known(self) -> bool:
        """Whether the call has ended."""
        return bool(self._results or self._raised)

    @property
    def raised(self) -> BaseException | None:
        """What the call raised, if it has."""
        return self._raised[0] if self._raised else None

    def get(self) -> R:
        """Return the result, or raise what the call raised."""
        if self._raised:
            raise self._raised[0]
        return self._results[0]
