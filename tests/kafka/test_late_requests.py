# ruff: noqa: PT012  (what a transaction's block does is the case)
"""A request that reaches the broker when its transaction is over: it must not count for the producer's next one."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.faults.rules import Api
from tests.kafka.readers import committed, values
from tests.pools import Recorder, pool, unique, until
from wd_di import ProducerPool, ProducerRetired, TransactionAbortedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.proxy import FaultProxy
    from wd_di.testing import LocalKafka

NAME = "late"
LATE_MS = 3_000
SENT_AGAIN_MS = 1_000
"""After this librdkafka sends a request again."""
HELD = pytest.mark.parametrize("held", [False, True], ids=["another checkout", "the same checkout"])


@pytest.fixture
def recorder() -> Recorder:
    """What the pool tells."""
    return Recorder()


@pytest.fixture
def orders(proxied_kafka: LocalKafka, recorder: Recorder) -> Iterator[ProducerPool]:
    """A pool of one producer."""
    kafka = {"socket.timeout.ms": SENT_AGAIN_MS}
    with pool(proxied_kafka.bootstrap_servers, size=1, name=NAME, kafka=kafka, observer=recorder) as orders:
        yield orders


@pytest.fixture
def inputs(proxied_kafka: LocalKafka) -> str:
    """A topic of two partitions that a group reads."""
    return proxied_kafka.create_topic(unique("in"), 2)


def begun(orders: ProducerPool, scope: ExitStack, *, held: bool) -> Any:
    """Return what transactions are asked of: the pool, or a producer that is held over all of them."""
    return scope.enter_context(orders.producer()) if held else orders


def outlast(began: float) -> None:
    """Return when what was sent then has reached the broker, which nobody but it can see."""
    until(lambda: time.monotonic() - began > LATE_MS / 1000 + 0.5)


@HELD
def test_offsets_of_an_aborted_transaction_move_no_group(  # noqa: PLR0917  (fixtures and the case)
    proxied_kafka: LocalKafka,
    proxy: FaultProxy,
    proxied_topic: str,
    inputs: str,
    orders: ProducerPool,
    recorder: Recorder,
    held: bool,  # noqa: FBT001  (the case)
) -> None:
    """They come while the next transaction of the same group is open, and aren't committed with it."""
    servers, group = proxied_kafka.bootstrap_servers, unique("g")
    with ExitStack() as scope:
        member = scope.enter_context(closing(Consumer({"bootstrap.servers": servers, "group.id": group})))
        metadata, lender, began = member.consumer_group_metadata(), begun(orders, scope, held=held), time.monotonic()
        proxy.on(Api.TXN_OFFSET_COMMIT, "delay request", ms=LATE_MS, client=NAME)
        with pytest.raises(TransactionAbortedError, match="send_offsets failed"), lender.transaction() as tx:
            tx.produce_sync(proxied_topic, "aborted")
            tx.send_offsets([TopicPartition(inputs, 0, 5)], metadata)
        with lender.transaction() as tx:
            tx.produce_sync(proxied_topic, "committed")
            tx.send_offsets([TopicPartition(inputs, 1, 7)], metadata)
            outlast(began)

    assert ["committed"] == values(servers, proxied_topic)
    assert 7 == committed(servers, group, inputs, 1)
    assert committed(servers, group, inputs, 0) < 0
    assert ["sent twice"] == [event.reason for event in recorder.of(ProducerRetired)]


@HELD
def test_the_end_of_a_transaction_ends_no_other(  # noqa: PLR0917  (as above)
    proxied_kafka: LocalKafka,
    proxy: FaultProxy,
    proxied_topic: str,
    orders: ProducerPool,
    recorder: Recorder,
    held: bool,  # noqa: FBT001  (the case)
) -> None:
    """A commit that was asked for twice comes while the next transaction is open, which aborts all the same."""
    with ExitStack() as scope:
        lender, began = begun(orders, scope, held=held), time.monotonic()
        proxy.on(Api.END_TXN, "delay request", ms=LATE_MS, client=NAME)
        with lender.transaction() as tx:
            tx.produce_sync(proxied_topic, "committed")
        with lender.transaction() as tx:
            tx.produce_sync(proxied_topic, "aborted")
            outlast(began)
            tx.abort_only()

    assert ["committed"] == values(proxied_kafka.bootstrap_servers, proxied_topic)
    assert ["sent twice"] == [event.reason for event in recorder.of(ProducerRetired)]
