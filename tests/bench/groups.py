"""What belongs together and shares its brokers; each group gives its results as soon as they are there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench import (
    awaited,
    batches,
    checkout,
    injecting,
    interpreters,
    loops,
    opening,
    plain,
    records,
    sending,
    starting,
    transactions,
)
from tests.bench.workloads import Place
from tests.volume import cluster
from wd_di.testing import LocalKafka

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from tests.bench.workloads import Effort, Figure, Rows, Workload


@dataclass(frozen=True, slots=True)
class Group:
    """Modules of rows that are measured at the same places.

    Attributes:
        places: Gives each place for as long as it is needed.
        rows: With the numbers of what they give, so that nothing is made ready in vain; 0 has no number.
    """

    places: Callable[[Effort], Iterator[Place]]
    rows: Sequence[tuple[Collection[int], Rows]]

    def workloads(self, effort: Effort, wanted: Collection[int] = ()) -> Iterator[Workload | Figure]:
        """Give what is to be measured: of these numbers, or all."""
        rows = [each for numbers, each in self.rows if not wanted or {*numbers} & {*wanted}]
        for place in self.places(effort) if rows else ():
            for each in rows:
                yield from (found for found in each(place) if not wanted or getattr(found, "number", 0) in wanted)


def nowhere(effort: Effort) -> Iterator[Place]:
    """Give a place for what needs no broker."""
    yield Place(effort)


def one_broker(effort: Effort) -> Iterator[Place]:
    """Give one broker, or the cluster that is given."""
    with cluster() as kafka:
        yield Place(effort, kafka, "the given cluster" if "KAFKA_BOOTSTRAP_SERVERS" in os.environ else "one broker")


def one_and_three_brokers(effort: Effort) -> Iterator[Place]:
    """Give one broker and then three, or the cluster that is given."""
    yield from one_broker(effort)
    if "KAFKA_BOOTSTRAP_SERVERS" not in os.environ:
        with LocalKafka(brokers=3) as kafka:
            yield Place(effort, kafka, "three brokers")


GROUPS: Mapping[str, Group] = {
    "checkout": Group(nowhere, [({1}, checkout.idle), ({2}, checkout.waiting), ({15}, checkout.growth)]),
    "injection": Group(nowhere, [({8}, injecting.injection), ({14}, interpreters.imports)]),
    "plain": Group(
        one_broker,
        [
            ({3}, sending.alone),
            ({3}, sending.behind),
            ({4}, sending.crowded),
            ({11}, plain.sharing),
            ({0}, plain.crowd),
        ],
    ),
    "records": Group(
        one_broker,
        [({5}, records.many_records), ({15}, records.growth), ({9}, awaited.alone), ({10}, awaited.crowds)],
    ),
    "transactions": Group(
        one_and_three_brokers,
        [
            ({6}, transactions.in_turn),
            ({7}, transactions.side_by_side),
            ({16}, batches.batches),
            ({17}, loops.committing),
        ],
    ),
    "starting": Group(one_broker, [({12}, opening.opened), ({13}, opening.idle), ({0}, starting.beginnings)]),
    "pythons": Group(nowhere, [({18}, interpreters.others)]),
}
