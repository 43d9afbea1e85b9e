"""A program that closes a producer's own client inside of a transaction: it is aborted, and readers see that soon."""

from __future__ import annotations

import pytest

from tests import internals
from tests.kafka.readers import values
from tests.pools import pool
from wd_di import TransactionAbortedError


def test_a_client_that_is_closed_in_a_transaction(servers: str, topic: str) -> None:
    """Nothing of it is visible, nothing waits for its time-out, and the id is another producer's at once."""
    with pool(servers, size=1, timeout_ms=5_000) as orders:
        with pytest.raises(TransactionAbortedError, match="closed behind its pool"), orders.transaction() as tx:  # noqa: PT012
            tx.produce_sync(topic, "lost")
            internals.client(tx)._kept[0].close()
        with orders.transaction() as tx:
            tx.produce_sync(topic, "next")

        # transaction.timeout.ms is 15,000.
        assert ["next"] == values(servers, topic, timeout_ms=5_000)
