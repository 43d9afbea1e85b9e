"""What becomes of a pool that nobody closed when its process ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.kafka.readers import read, values
from tests.programs import PATIENCE_S, hear, program, say

if TYPE_CHECKING:
    from wd_di.testing import LocalKafka

EXIT_MS = 5_000
"""What all forgotten pools of a process may take together at its exit."""
START_MS = 2_000
"""What the interpreter itself may take to end."""

FORGETS_RECORDS = """
import sys
from tests.pools import plain
servers, topic = sys.argv[1:]
clicks = plain(servers, size=1, kafka={"linger.ms": 60_000})
with clicks.producer() as producer:
    for number in range(1000):
        producer.produce_async(topic, str(number))
"""

FORGETS_AN_OPEN_TRANSACTION = """
import sys
from tests.pools import pool
servers, topic = sys.argv[1:]
orders = pool(servers, size=2)
with orders.transaction() as tx:
    tx.produce_sync(topic, "committed")
tx = orders.transaction().begin().__enter__()
tx.produce_sync(topic, "open")
"""

FORGETS_AND_WAITS = """
import sys
from tests.pools import plain, pool
servers, topic = sys.argv[1:]
orders, clicks = pool(servers, name="orders", size=3), plain(servers, size=1, kafka={"linger.ms": 60_000})
orders.open()
with clicks.producer() as producer:
    producer.produce_sync(topic, "before")
    producer.produce_async(topic, "lost")
    tx = orders.transaction().begin().__enter__()
    tx.produce_sync(topic, "open")
print("ready", flush=True)
input()
"""


def test_what_was_produced_is_delivered(servers: str, topic: str) -> None:
    """A process that ends without closing its pool delivers what was enqueued, whatever linger.ms says."""
    with program(FORGETS_RECORDS, servers, topic) as process:
        assert 0 == process.wait(PATIENCE_S)

    assert 1000 == len(read(servers, topic))


def test_an_open_transaction_is_aborted(servers: str, topic: str) -> None:
    """A process that ends inside a transaction aborts it, so that no reader waits for its time-out."""
    with program(FORGETS_AN_OPEN_TRANSACTION, servers, topic) as process:
        assert 0 == process.wait(PATIENCE_S)

    # transaction.timeout.ms is 15,000.
    assert ["committed"] == values(servers, topic, timeout_ms=5_000)


@pytest.mark.parametrize("death", ["killed", "paused"])
def test_a_dead_broker_does_not_hang_the_exit(own_kafka: LocalKafka, own_topic: str, death: str) -> None:
    """With a backlog and an open transaction on a dead broker the process ends within the exit's own deadline."""
    [broker] = own_kafka.brokers
    with program(FORGETS_AND_WAITS, own_kafka.bootstrap_servers, own_topic) as process:
        assert "ready" == hear(process)
        broker.kill() if death == "killed" else broker.pause()
        started = time.monotonic()
        say(process)

        assert 0 == process.wait(PATIENCE_S)
        assert time.monotonic() - started < (EXIT_MS + START_MS) / 1000
