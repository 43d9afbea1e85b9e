"""What becomes of one request to a broker: rules by API key, which count how often they were obeyed."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

TIMEOUT_MS = 10_000


class Api(IntEnum):
    """Kafka's numbers of what may be asked of a broker, as far as a producer or a reader asks it."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


Action = Literal[
    "delay request", "delay reply", "swallow request", "swallow reply", "go silent", "cut before", "cut after"
]
"""What happens to a request or to its reply.

From a reply at which the connection is to ``go silent``, nothing comes back on it any more: so a network loses replies,
while one that is swallowed alone, with others behind it, takes a broker that forgets to answer.
A request that is cut ``before`` never reaches the broker. One that is cut ``after`` does, and in place of its reply the
client loses the connection: so the broker has certainly done what it was asked for.
"""

_OF_REQUESTS = ("delay request", "swallow request", "cut before")


@dataclass(frozen=True, slots=True)
class Request:
    """The header of a request, and the broker that it is for."""

    broker: int
    api: int
    version: int
    correlation: int
    client: str

    @classmethod
    def parse(cls, broker: int, frame: bytes) -> Self:
        """Read what stands behind the length of a frame: any request has it, whatever its version."""
        api, version = int.from_bytes(frame[0:2]), int.from_bytes(frame[2:4])
        length = int.from_bytes(frame[8:10], signed=True)
        client = frame[10 : 10 + length].decode(errors="replace") if length > 0 else ""
        return cls(broker, api, version, int.from_bytes(frame[4:8], signed=True), client)


class Rule:
    """What to do with some requests, for a number of times or until it is lifted.

    In a ``with`` statement it is lifted at the end.

    Attributes:
        action: What happens.
        ms: For how long a delay delays.
    """

    def __init__(
        self,
        action: Action,
        apis: Iterable[int],
        *,
        times: int | None,
        skip: int,
        ms: float,
        broker: int | None,
        client: str,
    ) -> None:
        self.action = action
        self.ms = ms
        self._apis = frozenset(apis)
        self._left = times
        self._skip = skip
        self._broker = broker
        self._client = client
        self._hits = 0
        self._changed = threading.Condition()

    def __repr__(self) -> str:
        names = ", ".join(name_of(api) for api in sorted(self._apis)) or "any"
        return f"<Rule {self.action} of {names}: {self._hits} hits>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lift()

    @property
    def hits(self) -> int:
        """How often it has done what it is there for."""
        return self._hits

    def lift(self) -> None:
        """Concern no further request. Harmless when it is spent."""
        with self._changed:
            self._left = 0

    def wait(self, hits: int = 1, *, timeout_ms: int = TIMEOUT_MS) -> None:
        """Return as soon as it has been obeyed that often.

        Raises:
            TimeoutError: It wasn't in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._hits >= hits, timeout_ms / 1000):
                raise TimeoutError(f"{self!r} after {timeout_ms} ms, not {hits}")

    # -- for the proxy -----------------------------------------------------------------------------

    def takes(self, request: Request) -> bool:
        """Whether it concerns this request; if so it is one time less good for another."""
        if self._apis and request.api not in self._apis:
            return False
        if self._broker not in (None, request.broker) or not request.client.startswith(self._client):
            return False
        with self._changed:
            if self._left == 0:
                return False
            if self._skip > 0:
                self._skip -= 1
                return False
            if self._left is not None:
                self._left -= 1
        return True

    @property
    def of_requests(self) -> bool:
        """Whether the request is what it hurts, not the reply."""
        return self.action in _OF_REQUESTS

    @property
    def seconds(self) -> float:
        """For how long it delays."""
        return self.ms / 1000 if self.action.startswith("delay") else 0.0

    def hit(self) -> None:
        """Count that it was obeyed."""
        with self._changed:
            self._hits += 1
            self._changed.notify_all()


class Rules:
    """All rules of a proxy: of those that concern a request, the one that was made first is obeyed."""

    def __init__(self) -> None:
        self._rules: tuple[Rule, ...] = ()

    def add(self, rule: Rule) -> None:
        """Let it be obeyed."""
        self._rules = (*self._rules, rule)

    def lift(self) -> None:
        """Lift all."""
        rules, self._rules = self._rules, ()
        for rule in rules:
            rule.lift()

    def of(self, request: Request) -> Rule | None:
        """Return the rule that takes this request."""
        return next((rule for rule in self._rules if rule.takes(request)), None)


def name_of(api: int) -> str:
    """Return what an API key is called."""
    return Api(api).name if api in set(Api) else f"api {api}"
