"""A moment in the future that everybody who waits for something is given."""

from __future__ import annotations

import threading
import time


class Deadline:
    """A moment in the future, given once and asked for what is left of it.

    Args:
        seconds: How far away it is.
        setting: The argument or setting that says so, for messages.
        started: When it was given, in monotonic time, if that isn't now.
    """

    __slots__ = ("_end", "seconds", "setting")

    def __init__(self, seconds: float, setting: str = "timeout_ms", *, started: float | None = None) -> None:
        self.setting: str = setting
        self.seconds: float = min(seconds, threading.TIMEOUT_MAX)  # no lock counts further
        self._end = (time.monotonic() if started is None else started) + self.seconds

    @classmethod
    def of_ms(cls, timeout_ms: int | None, default_ms: int, name: str = "timeout_ms") -> Deadline:
        """Return the deadline of a public argument: ``None`` means the pool's setting, 0 means don't wait.

        Raises:
            ValueError: It is negative. There is no "for ever".
        """
        return cls(check_timeout(timeout_ms, default_ms, name) / 1000)

    def shorten(self, seconds: float) -> None:
        """Let no more than so many seconds be left."""
        self._end = min(self._end, time.monotonic() + seconds)

    def extend(self, other: Deadline) -> None:
        """Let as much be left as of the other one, at least."""
        self._end = max(self._end, other._end)

    @property
    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether nothing is left."""
        return time.monotonic() >= self._end

    @property
    def started(self) -> float:
        """When it was given, in monotonic time."""
        return self._end - self.seconds

    @property
    def to_half(self) -> float:
        """Seconds until half of it is over, never negative."""
        return self.to_half_since(self.started)

    def to_half_since(self, moment: float) -> float:
        """Seconds until half of what was left at that moment is over, or of the whole if it was given later."""
        return max(0.0, (max(moment, self.started) + self._end) / 2 - time.monotonic())

    @property
    def half_passed(self) -> bool:
        """Whether no more than half of it is left."""
        return self.to_half == 0

    def share(self, parts: int) -> Deadline:
        """Return the deadline of the first of so many parts that have to share what is left."""
        return Deadline(self.left / parts, self.setting)

    def slice(self, seconds: float) -> float:
        """At most ``seconds``, and no more than what is left."""
        return min(seconds, self.left)


def check_timeout(timeout_ms: int | None, default_ms: int, name: str = "timeout_ms") -> int:
    """Return the milliseconds that count; ``ValueError`` for a negative number, ``TypeError`` for no whole number."""
    if timeout_ms is None:
        return default_ms
    if not isinstance(timeout_ms, int) or isinstance(timeout_ms, bool):
        raise TypeError(f"{name} is milliseconds as an int, not {type(timeout_ms).__name__}")
    if timeout_ms < 0:
        raise ValueError(f"{name} is {timeout_ms}: it can't be negative (None is the pool's setting, 0 doesn't wait)")
    return timeout_ms
