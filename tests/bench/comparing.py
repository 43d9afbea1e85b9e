"""How several ways of doing the same are compared: in turn, round after round, and by the medians."""

from __future__ import annotations

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

START_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Effort:
    """How long one way has its turn, and how often. A short turn misleads: threads need time to find their rhythm."""

    rounds: int = 9
    seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What one way did in one round: how many units in how many seconds, and how long each call took."""

    units: int
    seconds: float
    calls: Sequence[float]

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.units / self.seconds


@dataclass(frozen=True, slots=True)
class Row:
    """One way's figures: medians over the rounds, and of the ratio its extremes, too.

    Attributes:
        ratio: The rate as a multiple of the first way's in the same round, so that a busy minute hurts both.
        call_ms: The median call.
        slow_call_ms: The call that one in a hundred exceeds.
        longest_call_ms: The longest of a round.
    """

    way: str
    rate: float
    ratio: float
    least_ratio: float
    most_ratio: float
    call_ms: float
    slow_call_ms: float
    longest_call_ms: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared, in which unit a rate counts, and a row for each way; ratios are to the first."""

    title: str
    unit: str
    rows: Sequence[Row]


def compare(title: str, unit: str, ways: Mapping[str, Callable[[], Turn]], rounds: int) -> Comparison:
    """Give each way its turn in every round; every second round goes backwards, so that none is always first."""
    turns: dict[str, list[Turn]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # connects, and isn't counted
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            turns[name].append(ways[name]())
    base = next(iter(turns.values()))
    return Comparison(title, unit, [_row(name, each, base) for name, each in turns.items()])


def _row(name: str, turns: Sequence[Turn], base: Sequence[Turn]) -> Row:
    ratios = [turn.rate / other.rate for turn, other in zip(turns, base, strict=True)]
    return Row(
        way=name,
        rate=statistics.median(turn.rate for turn in turns),
        ratio=statistics.median(ratios),
        least_ratio=min(ratios),
        most_ratio=max(ratios),
        call_ms=1000 * statistics.median(_at(turn.calls, 0.5) for turn in turns),
        slow_call_ms=1000 * statistics.median(_at(turn.calls, 0.99) for turn in turns),
        longest_call_ms=1000 * statistics.median(max(turn.calls) for turn in turns),
    )


def _at(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def turn(threads: int, seconds: float, call: Callable[[int], int]) -> Turn:
    """Let each thread call ``call(thread)``, which says how many units it did, until the time is over."""
    together = threading.Barrier(threads)

    def work(thread: int) -> tuple[int, list[float]]:
        units = 0
        took: list[float] = []
        together.wait(START_TIMEOUT_S)
        end = time.perf_counter() + seconds
        while not took or time.perf_counter() < end:
            began = time.perf_counter()
            units += call(thread)
            took.append(time.perf_counter() - began)
        return units, took

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as executor:
        done = list(executor.map(work, range(threads)))
    lasted = time.perf_counter() - began
    return Turn(sum(units for units, _ in done), lasted, [each for _, took in done for each in took])
