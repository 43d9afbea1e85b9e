"""What a worker does next: drawn from a seed, so that the same seed means the same work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

T = TypeVar("T")

Way = Literal["block", "run", "implicit"]
"""A ``with`` block, ``pool.run`` with a retry, or a call on a producer that is a transaction of its own."""
Fate = Literal["return", "raise", "abort", "abort only"]
"""How a block ends, if nobody comes between."""
Cut = Literal["cancel", "time-out"]

KEYS = 3
PATIENCE_MS = 4_000
_HURRIES_MS = (0, 1, 20)


@dataclass(frozen=True, slots=True)
class Plan:
    """One transaction to come.

    Attributes:
        records: Topic and number of the key of each record, in order.
        timeout_ms: How long to wait for a producer.
        waits: Whether the last record's answer is waited for inside the block.
        lingers: Seconds that the block takes besides.
        cut: What ends it from outside, where it runs in a task.
        cut_after: Seconds until then.
        pause: Seconds of rest before it.
    """

    way: Way
    records: tuple[tuple[str, int], ...]
    fate: Fate
    timeout_ms: int
    waits: bool
    lingers: float
    cut: Cut | None
    cut_after: float
    pause: float


def draw_plan(draw: random.Random, topics: Sequence[str], *, cuts: bool, pause: float) -> Plan:
    """Draw what a worker does next.

    Args:
        draw: The worker's own dice.
        topics: Where it may produce.
        cuts: Whether it may be cut, as a task can; not where the transaction has no id by which to know it again.
        pause: Seconds of rest at most.
    """
    way: Way = _one(draw, {"block": 0.80, "run": 0.12, "implicit": 0.08})
    count = 1 if way == "implicit" else draw.randint(1, 4)
    return Plan(
        way=way,
        records=tuple((draw.choice(topics), draw.randrange(KEYS)) for _ in range(count)),
        fate=_one(draw, {"return": 0.86, "raise": 0.07, "abort": 0.04, "abort only": 0.03}),
        timeout_ms=draw.choice(_HURRIES_MS) if draw.random() < 0.03 else PATIENCE_MS,
        waits=draw.random() < 0.15,
        lingers=_one(draw, {0.0: 0.93, 0.05: 0.05, 1.5: 0.02}),
        cut=_one(draw, {None: 0.88, "cancel": 0.07, "time-out": 0.05}) if cuts and way != "implicit" else None,
        cut_after=draw.expovariate(1 / 0.03),
        pause=draw.uniform(0, pause),
    )


def _one(draw: random.Random, shares: dict[T, float]) -> T:
    [chosen] = draw.choices(list(shares), list(shares.values()))
    return chosen
