"""Which Kafka the demo runs on: librdkafka's mock, one that is started for it, or one of your own."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from examples.departures.settings import Topics
from wd_di.testing import ClusterError, GivenKafka, KafkaUnavailableError, LocalKafka, MockKafka, kafka_jars

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from wd_di.testing import Cluster

VARIABLE = "KAFKA_BOOTSTRAP_SERVERS"
PARTITIONS = 3
MOCK_PARTITIONS = 24
"""Short ones, since the mock walks a partition from its beginning for every record that it hands out."""


def start(choice: str, console: Console) -> Cluster | MockKafka:
    """Return a broker that answers; use it in ``with``.

    Args:
        choice: ``mock``, ``local``, or the address of a cluster as ``host:port[,host:port...]``.
        console: Shows that one has to wait.

    Raises:
        WdDiError: There is none, for a reason that the message gives.
    """
    if choice == "mock":
        return MockKafka()
    if choice == "local":
        kafka_jars()  # its first download has a bar of its own
        with console.status("Starting Kafka ..."):
            return LocalKafka().start()
    with console.status(f"Connecting to {choice} ..."):
        try:
            return GivenKafka(choice)
        except KafkaUnavailableError as error:
            way_out = f"unset {VARIABLE} for" if choice == os.environ.get(VARIABLE) else "say KAFKA=mock for"
            raise KafkaUnavailableError(
                f"{error} Or {way_out} librdkafka's mock in the demo's own process, or KAFKA=local for a broker that "
                "is started for it."
            ) from error


@contextmanager
def topics_on(kafka: Cluster | MockKafka) -> Iterator[Topics]:
    """Make topics that no other run has, and remove them from a cluster that goes on living."""
    run = os.urandom(4).hex()
    partitions = MOCK_PARTITIONS if isinstance(kafka, MockKafka) else PARTITIONS
    topics = Topics(departures=f"departures-{run}", movements=f"movements-{run}")
    try:
        for name in topics.names:
            kafka.create_topic(name, partitions)
        yield topics
    finally:
        if isinstance(kafka, GivenKafka):
            for name in topics.names:
                with suppress(ClusterError):
                    kafka.delete_topic(name, timeout_ms=2_000)
