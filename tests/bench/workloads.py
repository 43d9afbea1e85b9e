"""What is measured: a workload, the ways to do it, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from wd_di.testing import Cluster

Way = Callable[[], "Turn"]
Bound = Literal["at most", "at least"]
MICRO, MILLI = 1e6, 1e3


@dataclass(frozen=True, slots=True)
class Effort:
    """How long one way has its turn, and how often. A short turn misleads: threads need time to find their rhythm."""

    rounds: int = 9
    seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What one way did in one round.

    Attributes:
        units: How many checkouts, records or transactions.
        seconds: How long that took.
        calls: Seconds of each call, where they were taken.
        cpu: Seconds of processor time of this process, all threads together, by `time.process_time`.
        also: Figures of its own by their name and unit, such as "loop lag p99, ms".
    """

    units: int
    seconds: float
    calls: Sequence[float] = ()
    cpu: float = 0.0
    also: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.units / self.seconds

    def figures(self) -> dict[str, float]:
        """Return all that this turn says, by name: a rate, and per unit its time and processor time in µs."""
        own = {"rate": self.rate, "time": MICRO * self.seconds / self.units}
        if self.cpu:
            own["cpu"] = MICRO * self.cpu / self.units
        if self.calls:
            calls = sorted(self.calls)
            own |= {name: MILLI * calls[min(int(share * len(calls)), len(calls) - 1)] for name, share in CALLS.items()}
        return {**own, **self.also}


CALLS = {"call": 0.5, "p99": 0.99, "longest": 1.0}
"""Figures of calls in ms: the median, what one in a hundred exceeds, and the longest of a turn."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked of a way.

    Attributes:
        figure: "rate", "time", "cpu", "call", "p99", "longest", or a name from `Turn.also`.
        against: The way of which the figure is a multiple; none is the figure itself.
        above: Whether it is how much more than that way's, rather than a multiple.
    """

    way: str
    figure: str
    limit: float
    bound: Bound
    against: str | None = None
    above: bool = False

    def kept(self, value: float) -> bool:
        """Whether the value is within the limit."""
        return value <= self.limit if self.bound == "at most" else value >= self.limit


@dataclass(frozen=True, slots=True)
class Workload:
    """The same done in several ways, of which the first is the base of all ratios.

    Attributes:
        number: Of the row in the list of targets; several workloads may share one, and 0 is none of them.
        unit: What is counted, in the plural.
        figure: The one that the ratios are of: a higher "rate" is better, less "time" and "cpu" are.
    """

    number: int
    title: str
    unit: str
    ways: Mapping[str, Way]
    figure: str = "rate"
    targets: Sequence[Target] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows are measured: brokers, if they need any, and with how much effort.

    Attributes:
        brokers: What they are called in titles, such as "three brokers".
    """

    effort: Effort
    cluster: Cluster | None = None
    brokers: str = "no broker"

    @property
    def kafka(self) -> Cluster:
        """The brokers."""
        assert self.cluster is not None
        return self.cluster


@dataclass(frozen=True, slots=True)
class Figure:
    """One cost that nothing is compared with: the median of several times, and the extremes."""

    name: str
    unit: str
    value: float
    least: float
    most: float


Rows = Callable[[Place], Iterator[Workload | Figure]]
"""What a module of rows gives. Its clients are there for as long as the caller measures what was yielded."""
