"""What is done to brokers, to the network and to writers, and when: drawn from a seed, one lane beside the other."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tests.faults.rules import Action, Api

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Lane = Literal["brokers", "network", "writers"]
Way = Literal[
    "kill", "pause", "restart", "freeze", "refuse", "cut", "lag", "request", "deploy", "reload", "fork", "child"
]

APIS = (
    Api.PRODUCE,
    Api.ADD_PARTITIONS_TO_TXN,
    Api.END_TXN,
    Api.INIT_PRODUCER_ID,
    Api.ADD_OFFSETS_TO_TXN,
    Api.TXN_OFFSET_COMMIT,
    Api.FIND_COORDINATOR,
    Api.METADATA,
)
ACTIONS: tuple[Action, ...] = (
    "delay request",
    "delay reply",
    "swallow request",
    "swallow reply",
    "go silent",
    "cut before",
    "cut after",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is done.

    Attributes:
        pause: Seconds before it, from the end of the lane's last one.
        target: The number of a broker, or the name of a writer.
        seconds: How long it lasts.
        action: What happens to requests, and to which: the API keys, how many of them, and by how many ms.
    """

    lane: Lane
    way: Way
    pause: float
    target: str = ""
    seconds: float = 0.0
    action: Action | None = None
    api: Api | None = None
    times: int = 0
    ms: int = 0

    @property
    def kind(self) -> str:
        """What it is counted as."""
        if self.action is not None and self.api is not None:
            return f"{self.action}: {self.api.name}"
        what = {"brokers": "broker", "writers": "writer", "network": "network"}[self.lane]
        return f"{what}: {self.way}"


@dataclass(frozen=True, slots=True)
class Cast:
    """Whom it may hit."""

    brokers: Sequence[int]
    writers: Sequence[str]
    forking: Sequence[str]
    workers: Sequence[str]
    deployed: Sequence[str]


def lanes(seed: int, cast: Cast, *, haste: float = 1.0) -> dict[Lane, Iterator[Fault]]:
    """Return what is done in each lane, without end.

    Args:
        seed: The same gives the same.
        cast: Whom it may hit.
        haste: How many times shorter the pauses are.
    """
    return {
        "brokers": _brokers(_dice(seed, "brokers"), cast, haste),
        "network": _network(_dice(seed, "network"), cast, haste),
        "writers": _writers(_dice(seed, "writers"), cast, haste),
    }


def _dice(seed: int, lane: Lane) -> random.Random:
    return random.Random(f"{seed}-{lane}")  # noqa: S311  (no secret)


def _brokers(draw: random.Random, cast: Cast, haste: float) -> Iterator[Fault]:
    while True:
        way: Way = draw.choice(("kill", "pause", "pause", "restart"))
        seconds = draw.uniform(0.5, 8) if way == "pause" else draw.uniform(0, 3)
        pause = draw.uniform(4, 14) / haste
        yield Fault("brokers", way, pause, str(draw.choice(cast.brokers)), seconds)


def _network(draw: random.Random, cast: Cast, haste: float) -> Iterator[Fault]:
    while True:
        pause, broker = draw.uniform(0.3, 3.0) / haste, str(draw.choice(cast.brokers))
        if draw.random() < 0.75:
            action, api = draw.choice(ACTIONS), draw.choice(APIS)
            times, ms = draw.choice((1, 1, 2, 4)), draw.randint(50, 4_000)
            yield Fault("network", "request", pause, seconds=2.0, action=action, api=api, times=times, ms=ms)
        else:
            way: Way = draw.choice(("freeze", "refuse", "cut", "lag"))
            yield Fault("network", way, pause, broker, draw.uniform(0.3, 5.0), ms=draw.randint(20, 400))


def _writers(draw: random.Random, cast: Cast, haste: float) -> Iterator[Fault]:
    while True:
        pause = draw.uniform(1, 6) / haste
        way: Way = draw.choice(("kill", "pause", "restart", "deploy", "reload", "reload", "fork", "child"))
        among = {"fork": cast.forking, "child": cast.workers, "deploy": cast.deployed}.get(way, cast.writers)
        if among:
            yield Fault("writers", way, pause, draw.choice(among), draw.uniform(0.3, 5.0))
