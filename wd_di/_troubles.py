"""What went wrong last with a client, for as long as it may explain what fails next."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

LASTING = 2
"""The weight of an error that only a success of the same client ends: it is lost, or has no right."""
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

    def end(self, *, lasting: bool = True) -> None:
        """A broker did what it was asked for: what went wrong before is over."""
        if self._last is not None and (lasting or self._last.weight < LASTING):
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


class Sibling(Protocol):
    """A client of the same pool and the same cluster."""

    def sibling_answered(self) -> bool:
        """Take note that a broker answered a sibling; false if that says nothing to this one, which waits itself."""


class Siblings:
    """Which clients of one pool and cluster are in trouble; an idle one would hear of its end from nobody else."""

    def __init__(self) -> None:
        self._troubled: set[Sibling] = set()

    def troubled(self, client: Sibling) -> None:
        """Something went wrong with this one."""
        self._troubled.add(client)

    def well(self, client: Sibling) -> None:
        """A broker answered this one, which is news for the others."""
        self._troubled.discard(client)
        for each in tuple(self._troubled):
            if each.sibling_answered():
                self._troubled.discard(each)

    def gone(self, client: Sibling) -> None:
        """Forget one that was closed."""
        self._troubled.discard(client)
