"""A process that was killed inside a transaction, and its successor."""

from __future__ import annotations

import time

import pytest

from tests.kafka.readers import readable, values
from tests.pools import pool, unique
from tests.programs import hear, program

TIMEOUT_MS = 60_000

HANGS = """
import signal, sys
from tests.pools import pool
servers, topic, instance = sys.argv[1:]
with pool(servers, size=1, instance=instance, kafka={"transaction.timeout.ms": 60_000}) as orders:
    with orders.transaction() as tx:
        tx.produce_sync(topic, "committed")
    with orders.transaction() as tx:
        tx.produce_sync(topic, "torn")
        print("open", flush=True)
        signal.pause()
"""


@pytest.fixture
def torn(servers: str, topic: str) -> str:
    """The instance of a process that was killed inside a transaction, behind which readers of the topic wait."""
    instance = unique("replica")
    with program(HANGS, servers, topic, instance) as process:
        assert "open" == hear(process)
        process.kill()
        process.wait()
    return instance


def test_a_restart_frees_the_readers(servers: str, topic: str, torn: str) -> None:
    """A successor with the same instance aborts the torn transaction when it opens, long before its time-out."""
    before = readable(servers, topic)
    started = time.monotonic()
    with pool(servers, size=1, instance=torn, kafka={"transaction.timeout.ms": TIMEOUT_MS}):
        found = values(servers, topic)
        took = time.monotonic() - started

        # One record and its marker: behind them stands what nobody could read past.
        assert 2 == before
        assert ["committed"] == found
        assert took < 10


def test_a_stranger_does_not_free_the_readers(servers: str, topic: str, torn: str) -> None:
    """A process with another instance leaves the torn transaction open: only a stable instance helps."""
    with pool(servers, size=2), pytest.raises(TimeoutError, match="read_committed"):
        values(servers, topic, timeout_ms=1_500)

    assert 2 == readable(servers, topic)
