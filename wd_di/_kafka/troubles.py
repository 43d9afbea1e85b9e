"""What went wrong last with a client, for as long as it may explain what fails next."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from wd_di._kafka.port import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Mapping

LASTING = 2
"""The weight of an error that only a success of the same client ends: it is lost, or has no right."""
FRESH = 300.0
"""Seconds after which an error explains nothing any more, though no success has come since."""

CAUSE_AFTER = 5.0
"""Seconds within which librdkafka tries to connect again, and says why it can't."""
REFUSED = re.compile(
    r"certificate verify failed|verify broker certificate|not provide a certificate"
    r"|alert (?:.*certificate|unknown ca|handshake failure|protocol version)"
)
"""How TLS says that one side doesn't trust the other, which no waiting cures, unless another broker is meant."""
SILENCE = 1.0
"""Seconds after which a broker that says nothing may be frozen, as after SIGSTOP: no connection ends by that."""


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


class Hearing:
    """What one client hears of its brokers: whether they answer, and what went wrong last.

    Args:
        unmet: What to say as long as none has ever answered.
    """

    def __init__(self, unmet: str) -> None:
        self.cut_off: bool = False  # all brokers are down, as far as is known
        self._heard = time.monotonic()
        self._unmet: str | None = unmet
        self._last = Troubles()
        self._summary: tuple[Fault, float] | None = None
        self._refusal: tuple[Fault, float] | None = None

    @property
    def met(self) -> bool:
        """Whether a broker has ever done what it was asked for."""
        return self._unmet is None

    @property
    def silent(self) -> bool:
        """Whether nothing was heard of any broker for a while, be it that nothing was asked."""
        return time.monotonic() - self._heard > SILENCE

    @property
    def now(self) -> str | None:
        """What went wrong last, unless it is over or long ago."""
        return self._last.now

    def since(self, started: float) -> str | None:
        """Return the same, or what went wrong since then, whatever else succeeded; or that there was no answer yet."""
        return self._last.since(started) or (self._unmet if self.silent else None)

    def answered(self) -> None:
        """A broker did what it was asked for: what went wrong before is over."""
        self.cut_off, self._heard, self._unmet = False, time.monotonic(), None
        self._refusal = None
        self._last.end()

    def stored(self) -> None:
        """A broker has stored a record."""
        self._summary = None
        self.answered()

    def sibling_answered(self, *, lost: bool) -> None:
        """The cluster is there; the client may be lost for another reason."""
        self.cut_off, self._refusal = False, None
        if not lost:
            self._summary = None
            self._last.end(lasting=False)

    def summed_up(self, fault: Fault) -> bool:
        """All brokers are down; whether to wait for the cause.

        Mostly it is a broker that closed a connection which nobody used. If there is a cause, the next try brings it.
        """
        self.cut_off = True
        if self.now is not None:
            return False
        self._summary = self._summary or (fault, time.monotonic())
        return True

    def note(self, fault: Fault, weight: int) -> None:
        """Keep what went wrong, if it explains more than what is known."""
        self._last.note(str(fault), weight)
        if weight > 0:
            refused = not self.met and REFUSED.search(str(fault))
            self._refusal = (self._refusal or (fault, time.monotonic())) if refused else None

    def refused(self) -> Fault | None:
        """Return, once, that brokers and client don't trust each other, if for a while nothing else was to be heard."""
        held = self._refusal
        if held is None or time.monotonic() - held[1] <= CAUSE_AFTER:
            return None
        self._refusal = None
        return Fault(FaultKind.DENIED, str(held[0]))

    def explained(self) -> None:
        """There was a cause."""
        self._summary = None

    def overdue(self) -> Fault | None:
        """Return, once, that all brokers are down, when no cause has come for a while."""
        held = self._summary
        if held is None or time.monotonic() - held[1] <= CAUSE_AFTER:
            return None
        self._summary = None
        return self.hinted(held[0])

    def hinted(self, summary: Fault) -> Fault:
        """Return that all brokers are down with what else is known, if none has ever answered."""
        return summary if self.met else Fault(summary.kind, f"{summary}; {self._unmet}")


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


def addresses(*configs: Mapping[str, object]) -> str:
    """Return where the brokers of these settings are; nothing, if they are mocks."""
    return " and ".join(filter(None, dict.fromkeys(str(each.get("bootstrap.servers", "")) for each in configs)))


def unanswered(*configs: Mapping[str, object]) -> str:
    """Say what can be said without an error: nobody accepts connections, or somebody does and says nothing."""
    where = addresses(*configs)
    protocols = dict.fromkeys(str(each.get("security.protocol", "plaintext")) for each in configs)
    at = f" at {where}" if where else ""
    return f"no broker has answered yet{at}: is it Kafka, and does it speak {' and '.join(protocols)}?"
