# ruff: noqa: PT012  (what a transaction's block does is the case)
"""Who else has the id, and who was too late: the two ways in which a broker fences a producer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

from tests.kafka.readers import readable, values
from tests.pools import Recorder, bounded, pool, until
from tests.scripted import FutureThread
from wd_di import FencedError, PoolUnhealthyError, ProducerPool, ProducerRetired, Transaction, TransactionTimedOutError

if TYPE_CHECKING:
    from wd_di.testing import LocalKafka

RECOVERY_MS = 15_000
"""A fenced id is taken again after 1 s; the rest is for slow machines."""


def take_over(servers: str, tx: Transaction) -> str:
    """Let another owner of the same id appear, which aborts what this one has open."""
    transactional_id = tx.id.rpartition("#")[0]
    Producer({"bootstrap.servers": servers, "transactional.id": transactional_id, "log_level": 0}).init_transactions(20)
    return transactional_id


def test_a_rival_fences_the_commit(servers: str, topic: str) -> None:
    """A commit under a lost id is a FencedError that names the id and the settings at fault, and nothing is visible."""
    recorder = Recorder()
    with pool(servers, size=1, observer=recorder) as orders:
        with pytest.raises(FencedError) as caught, orders.transaction() as tx:
            tx.produce_sync(topic, "never")
            transactional_id = take_over(servers, tx)

        for part in (transactional_id, "transactional_id", "instance", "orders", "slot 0"):
            assert part in str(caught.value)
        assert not caught.value.safe_to_retry
        assert [] == values(servers, topic)
        assert_replaced(servers, orders, recorder, topic)


@pytest.mark.parametrize("wait", [False, True], ids=["async", "sync"])
def test_a_rival_fences_the_next_record(servers: str, topic: str, *, wait: bool) -> None:
    """A record produced under a lost id ends in a FencedError, whether its answer is waited for or not."""
    recorder = Recorder()
    with pool(servers, size=1, observer=recorder) as orders:
        with pytest.raises(FencedError) as caught, orders.transaction() as tx:
            tx.produce_sync(topic, "never")
            transactional_id = take_over(servers, tx)
            if wait:
                tx.produce_sync(topic, "nor this")
            else:
                tx.produce_async(topic, "nor this")

        assert transactional_id in str(caught.value)
        assert [] == values(servers, topic)
        assert_replaced(servers, orders, recorder, topic)


def test_a_rival_fences_an_abort_without_hiding_its_cause(servers: str, topic: str) -> None:
    """An abort under a lost id leaves the block's own exception in place, with a note, and retires the producer."""
    recorder = Recorder()
    with pool(servers, size=1, observer=recorder) as orders:
        with pytest.raises(ZeroDivisionError) as caught, orders.transaction() as tx:
            tx.produce_sync(topic, "never")
            take_over(servers, tx)
            _ = 1 / 0

        assert "couldn't be aborted" in caught.value.__notes__[0]
        assert_replaced(servers, orders, recorder, topic)


def test_a_rival_that_an_abort_meets_counts(servers: str, topic: str) -> None:
    """It is met while the abort waits for the answer to a record, and makes the pool unhealthy as any other one."""
    recorder = Recorder()
    with pool(servers, size=1, observer=recorder, fenced_retries=0) as orders:
        with pytest.raises(ZeroDivisionError) as caught, orders.transaction() as tx:
            tx.produce_sync(topic, "never")
            take_over(servers, tx)
            tx.produce_async(topic, "nor this")
            raise ZeroDivisionError
        with pytest.raises(PoolUnhealthyError, match="another process uses the same"), orders.transaction():
            pass

    assert "couldn't be aborted" in caught.value.__notes__[0]
    assert ["abort failed"] == recorder.retirements()


def test_a_rival_that_stays_makes_the_pool_unhealthy(servers: str, topic: str) -> None:
    """After more than fenced_retries fencings checkouts fail at once and say why, instead of fencing back for ever."""
    with pool(servers, size=1, fenced_retries=0) as orders:
        with pytest.raises(FencedError), orders.transaction() as tx:
            tx.produce_sync(topic, "never")
            take_over(servers, tx)

        with bounded(0), pytest.raises(PoolUnhealthyError, match="fenced 1 times"):
            orders.producer(timeout_ms=RECOVERY_MS).__enter__()


def test_who_waits_for_a_lost_id_is_told_at_once(servers: str, topic: str) -> None:
    """A waiter doesn't wait for its time-out once no id is taken back any more, and its error has the cause."""
    with pool(servers, size=1, fenced_retries=0) as orders:
        with pytest.raises(FencedError), orders.transaction() as tx:
            tx.produce_sync(topic, "never")
            waiter = FutureThread(orders.producer(timeout_ms=RECOVERY_MS).__enter__)
            waiter.start()
            until(lambda: orders.stats().waiting == 1)
            take_over(servers, tx)
        with bounded(0):
            error = waiter.outcome()

    assert isinstance(error, PoolUnhealthyError)
    assert "fenced by a newer instance" in str(error.__cause__)


def test_the_broker_ends_an_overlong_transaction(own_kafka: LocalKafka, own_topic: str) -> None:
    """Whoever goes on after the broker's own time-out is told so, and of what; readers weren't held up meanwhile."""
    servers, recorder = own_kafka.bootstrap_servers, Recorder()
    with pool(servers, size=1, observer=recorder, kafka={"transaction.timeout.ms": 1_000}) as orders:
        with (
            pytest.raises(TransactionTimedOutError, match=r"transaction\.timeout\.ms is 1000"),
            orders.transaction() as tx,
        ):
            tx.produce_sync(own_topic, "never")
            until(lambda: readable(servers, own_topic) > 0)

        assert [] == values(servers, own_topic)
        assert_replaced(servers, orders, recorder, own_topic)


def test_overlong_transactions_disable_no_pool(own_kafka: LocalKafka, own_topic: str) -> None:
    """However often the broker ends one that was open for too long: there is no rival, and the pool goes on at once."""
    servers, recorder = own_kafka.bootstrap_servers, Recorder()
    with pool(servers, size=1, observer=recorder, kafka={"transaction.timeout.ms": 1_000}, fenced_retries=0) as orders:
        for number in range(3):
            with pytest.raises(TransactionTimedOutError), orders.transaction() as tx:
                tx.produce_sync(own_topic, "never")
                before = readable(servers, own_topic)
                until(lambda: readable(servers, own_topic) > before)  # noqa: B023  (called here only)
            assert number + 1 == len(recorder.of(ProducerRetired))
        with orders.transaction() as tx:
            tx.produce_async(own_topic, "after")

    assert ["after"] == values(servers, own_topic)


@pytest.mark.parametrize("swallow", [False, True], ids=["raised", "swallowed"])
def test_our_own_limit_comes_first(servers: str, topic: str, *, swallow: bool) -> None:
    """Past 80 % of transaction.timeout.ms the next call aborts the transaction; its producer is as good as before."""
    recorder = Recorder()
    with pool(servers, size=1, observer=recorder, kafka={"transaction.timeout.ms": 4_000}) as orders:
        with pytest.raises(TransactionTimedOutError, match="80 %"), orders.transaction() as tx:
            tx.produce_sync(topic, "never")
            until(lambda: tx.remaining_ms == 0)
            try:
                tx.produce_async(topic, "too late")
            except TransactionTimedOutError:
                if not swallow:
                    raise

        assert [] == recorder.retirements()
        with orders.transaction() as tx:
            tx.produce_async(topic, "after")
    assert ["after"] == values(servers, topic)


def assert_replaced(servers: str, orders: ProducerPool, recorder: Recorder, topic: str) -> None:
    """Assert that the producer was retired once, and that its successor works under the same id."""
    assert 1 == len(recorder.of(ProducerRetired))
    with orders.transaction(timeout_ms=RECOVERY_MS) as tx:
        tx.produce_async(topic, "after")
    assert ["after"] == values(servers, topic)
    assert 2 == orders.stats().totals.created
