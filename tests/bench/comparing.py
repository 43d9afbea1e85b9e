"""How several ways of doing the same are compared: in turn, round after round, and by the medians."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.workloads import Target, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tests.bench.workloads import Workload

START_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Spread:
    """What the rounds gave: the median, and the extremes."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of these."""
        each = list(values)
        return cls(statistics.median(each), min(each), max(each))


@dataclass(frozen=True, slots=True)
class Row:
    """One way's figures.

    Attributes:
        ratio: The workload's figure as a multiple of the first way's in the same round: a busy minute hurts both.
    """

    way: str
    ratio: Spread
    figures: Mapping[str, Spread]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was asked and what was found, round by round within the same round."""

    target: Target
    found: Spread

    @property
    def kept(self) -> bool:
        """Whether the median is within the limit."""
        return self.target.kept(self.found.median)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, by which figure, with a row for each way, and a verdict on each target."""

    number: int
    title: str
    unit: str
    figure: str
    rows: Sequence[Row]
    verdicts: Sequence[Verdict]


def compare(workload: Workload, rounds: int) -> Comparison:
    """Give each way its turn in every round; every second round goes backwards, so that none is always first."""
    ways = workload.ways
    turns: dict[str, list[Mapping[str, float]]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # connects, and isn't counted
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            gc.collect()  # the garbage of one way isn't the next one's business
            turns[name].append(ways[name]().figures())
    base = next(iter(turns.values()))
    rows = [_row(name, each, base, workload.figure) for name, each in turns.items()]
    verdicts = [Verdict(target, _found(target, turns)) for target in workload.targets]
    return Comparison(workload.number, workload.title, workload.unit, workload.figure, rows, verdicts)


def _row(name: str, turns: Sequence[Mapping[str, float]], base: Sequence[Mapping[str, float]], figure: str) -> Row:
    ratio = Spread.of(turn[figure] / other[figure] for turn, other in zip(turns, base, strict=True))
    return Row(name, ratio, {each: Spread.of(turn[each] for turn in turns) for each in turns[0]})


def _found(target: Target, turns: Mapping[str, Sequence[Mapping[str, float]]]) -> Spread:
    own = [turn[target.figure] for turn in turns[target.way]]
    if target.against is None:
        return Spread.of(own)
    other = [turn[target.figure] for turn in turns[target.against]]
    return Spread.of(a - b if target.above else a / b for a, b in zip(own, other, strict=True))


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

    began, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as executor:
        done = list(executor.map(work, range(threads)))
    lasted, spent = time.perf_counter() - began, time.process_time() - used
    return Turn(sum(units for units, _ in done), lasted, [each for _, took in done for each in took], spent)


def repeated(times: int, do: Callable[[], object]) -> Turn:
    """Do it so many times on this thread, and measure all of them as one: what takes less than a clock does."""
    each = range(times)
    began, used = time.perf_counter(), time.process_time()
    for _ in each:
        do()
    lasted, spent = time.perf_counter() - began, time.process_time() - used
    return Turn(times, lasted, cpu=spent)
