"""What belongs together and shares its brokers; each group gives its results as soon as they are there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.bench import plain, starting, transactions
from tests.volume import cluster
from wd_di.testing import LocalKafka

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.bench.comparing import Comparison, Effort
    from tests.bench.starting import Figure

    Group = Callable[[Effort], Iterator[Comparison | Figure]]


def plain_producers(effort: Effort) -> Iterator[Comparison]:
    """One shared producer against many."""
    with cluster() as kafka:
        for threads in plain.THREADS:
            yield plain.sharing(kafka, effort, threads)
        yield plain.crowd(kafka, effort)


def transactional_producers(effort: Effort) -> Iterator[Comparison]:
    """One transactional producer against several, on one broker and on three, or on the cluster that is given."""
    if "KAFKA_BOOTSTRAP_SERVERS" in os.environ:
        with cluster() as kafka:
            yield transactions.committing(kafka, effort, "the given cluster")
        return
    with LocalKafka() as kafka:
        yield transactions.committing(kafka, effort, "one broker")
    with LocalKafka(brokers=3) as kafka:
        yield transactions.committing(kafka, effort, "three brokers")


def beginnings(effort: Effort) -> Iterator[Figure]:
    """What is paid before the first record."""
    yield from starting.without_broker(effort.rounds)
    if "KAFKA_BOOTSTRAP_SERVERS" not in os.environ:
        yield from starting.brokers(min(effort.rounds, 3))
    with cluster() as kafka:
        yield from starting.producers(kafka, effort.rounds)


GROUPS: Mapping[str, Group] = {
    "plain": plain_producers,
    "transactions": transactional_producers,
    "starting": beginnings,
}
