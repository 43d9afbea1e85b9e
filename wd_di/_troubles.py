"""What went wrong last with a client, for as long as it may explain what fails next."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

FRESH = 300.0
"""Seconds after which an error explains nothing any more, though no success has come since."""


def last_error(text: str | None) -> str:
    """Return an error for the end of a message, if there is one."""
    return f" (last error: {text})" if text else ""


@dataclass(slots=True)
class _Trouble:
    text: str
    weight: int
    at: float
    over: bool = False


class Troubles:
    """Keeps the error that explains most."""

    def __init__(self) -> None:
        self._last: _Trouble | None = None

    def note(self, text: str, weight: int) -> None:
        """Keep an error, unless a heavier one holds: "Connection refused" says more than "1/1 brokers are down"."""
        if self.now is None or self._last is None or weight >= self._last.weight:
            self._last = _Trouble(text, weight, time.monotonic())

    def end(self) -> None:
        """A broker did what it was asked for: what went wrong before is over."""
        if self._last is not None:
            self._last.over = True

    @property
    def now(self) -> str | None:
        """The error, unless it is over or long ago."""
        return self.since(math.inf)

    def since(self, started: float) -> str | None:
        """Return the same, or an error since then that is over: of many brokers, another one may have done the rest."""
        last = self._last
        if last is None or (last.at < started and (last.over or time.monotonic() - last.at > FRESH)):
            return None
        return last.text
