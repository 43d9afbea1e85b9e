# ruff: noqa: PT012  (what a transaction's block does is the case)
"""Offsets that the broker doesn't answer: librdkafka keeps no deadline there, so the pool does."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from tests import internals
from tests.pools import bounded, unique, until
from tests.pools import pool as on_brokers
from tests.scripted import OFFSETS, PATIENCE, FutureThread, Script, committed, make_pool, watch
from wd_di._concurrency.errands import Errand
from wd_di._records.connection import Retirement
from wd_di._slots import housekeeping
from wd_di.errors import TransactionAbortedError, UnexpectedAbortError
from wd_di.events import MessagePurged, ProducerClosed, ProducerRetired, TransactionAborted
from wd_di.testing import ApiKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wd_di.pool import ProducerPool
    from wd_di.testing import MockKafka

SHORT_MS = 50
GROUP = object()


@pytest.fixture
def pool(script: Script, kept: Callable[[ProducerPool], ProducerPool]) -> ProducerPool:
    """An open pool of one scripted producer."""
    pool = kept(make_pool(commit_timeout_ms=300, abort_timeout_ms=300))
    pool.open()
    return pool


@pytest.fixture
def broker(script: Script) -> Iterator[threading.Event]:
    """Set when the broker answers the first question for offsets."""
    thawed = threading.Event()
    script.on("send_offsets", lambda: thawed.wait(PATIENCE))
    yield thawed
    thawed.set()


def send_late(pool: ProducerPool) -> Any:
    """Send offsets that have no answer in time; the error and the transaction's calls after that."""
    with pytest.raises(TransactionAbortedError) as caught, pool.transaction() as tx:
        tx.produce_async("orders", "never")
        tx.send_offsets(OFFSETS, GROUP, timeout_ms=SHORT_MS)
    return caught.value


def test_the_deadline_holds(pool, broker):
    """The caller has the time-out at its deadline, and leaves the transaction without another wait."""
    with bounded(SHORT_MS):
        error = send_late(pool)

    assert f"send_offsets had no answer within {SHORT_MS} ms" in str(error)
    assert "couldn't be aborted (send_offsets has no answer yet); its producer is retired" in error.__notes__[0]
    assert ("aborted", False) == (error.outcome, error.safe_to_retry)


def test_the_slot_is_made_again_when_the_call_comes_back(pool, broker, script):
    """Until then the index has no other producer, which the late request would fence; its client is left alone."""
    retirements = watch(pool, ProducerRetired)
    send_late(pool)
    assert (1, 0) == (pool.stats().retiring, pool.stats().creating)
    assert not {"commit", "abort"} & set(script.calls)
    assert 1 == script.calls.count("init")

    broker.set()
    with pool.transaction() as tx:
        tx.produce_async("orders", "next")

    assert ["next"] == committed(pool)
    assert ["send_offsets timed out"] == [event.reason for event in retirements]
    assert 2 == script.calls.count("init")


def test_a_call_that_never_comes_back_costs_no_slot(pool, broker, script, monkeypatch):
    """After a while the index is made again without it, and can send offsets; the client is closed if it comes back."""
    monkeypatch.setattr(housekeeping, "CALL_MAX", 0.1)
    closed, purged = watch(pool, ProducerClosed), watch(pool, MessagePurged)
    script.silent = True
    send_late(pool)
    script.silent = False
    with pool.transaction(timeout_ms=10_000) as tx:
        tx.send_offsets(OFFSETS, GROUP, timeout_ms=10_000)
        tx.produce_async("orders", "next")

    assert (["next"], []) == (committed(pool), closed)
    assert ["orders"] == [event.topic for event in purged]
    report = pool.close(timeout_ms=200)
    assert (1, (0,)) == (len(closed), report.abandoned)
    broker.set()
    until(lambda: 2 == len(closed))


def test_a_call_that_comes_back_as_it_is_given_up_is_not_left(script, kept, broker, monkeypatch):
    """Its client may be closed before whoever gives it up has gone on; a close names nothing then."""
    monkeypatch.setattr(housekeeping, "CALL_MAX", 0.1)
    pool = kept(make_pool(size=2, commit_timeout_ms=300, abort_timeout_ms=300))
    pool.open()
    closed, real = watch(pool, ProducerClosed), Errand.then

    def then(self: Errand[Any], call: Callable[[], object]) -> bool:
        registered = real(self, call)
        if registered and getattr(call.args[0], "func", None) == internals.house(pool)._end:
            broker.set()
            until(lambda: closed)
        return registered

    monkeypatch.setattr(Errand, "then", then)
    send_late(pool)
    until(lambda: closed and pool.stats().idle == 2)

    assert () == pool.close().abandoned


def test_another_call_is_waited_for(pool, script, monkeypatch):
    """One that looks for what became of a commit comes to its end, and may still be asking for the id until then."""
    monkeypatch.setattr(housekeeping, "CALL_MAX", 0.0)
    over = threading.Event()
    with pool.producer() as producer:
        lease = internals.lease(producer)
        lease.connection.entrust(Errand(lambda: over.wait(PATIENCE)))
        lease.retirement = Retirement("commit in doubt")
    until(lambda: pool.stats().retiring == 1)
    internals.house(pool)._round()
    assert (1, 1) == (pool.stats().retiring, len(script.clients))
    over.set()
    until(lambda: pool.stats().idle == 1)
    assert 2 == len(script.clients)


def test_librdkafka_without_a_coordinator(mock_kafka: MockKafka, monkeypatch):
    """librdkafka, told of none, waits for ever in that call: its caller doesn't, and the slot is made again."""
    monkeypatch.setattr(housekeeping, "CALL_MAX", 0.1)
    topic, servers = mock_kafka.create_topic(unique("t")), mock_kafka.bootstrap_servers
    consumer = Consumer({"bootstrap.servers": servers, "group.id": unique("g"), "log_level": 0})
    with on_brokers(servers, size=1, resolve_timeout_ms=0) as pool, closing(consumer) as group:
        with pool.transaction() as tx:
            tx.produce_sync(topic, "before")
        mock_kafka.push_errors(ApiKey.FIND_COORDINATOR, *[KafkaError.NOT_COORDINATOR] * 20)
        with bounded(500), pytest.raises(TransactionAbortedError, match="no answer within 500 ms"):  # noqa: SIM117
            with pool.transaction() as tx:
                tx.send_offsets([TopicPartition(topic, 0, 5)], group.consumer_group_metadata(), timeout_ms=500)
        mock_kafka.clear_errors(ApiKey.FIND_COORDINATOR)
        with pool.transaction(timeout_ms=10_000) as tx:
            tx.produce_sync(topic, "after")


def test_an_error_that_is_swallowed_dooms(pool, broker):
    """Who goes on after the time-out can't commit."""
    with pytest.raises(UnexpectedAbortError, match="send_offsets had no answer"), pool.transaction() as tx:
        with pytest.raises(TransactionAbortedError):
            tx.send_offsets(OFFSETS, GROUP, timeout_ms=SHORT_MS)
        tx.produce_async("orders", "never")

    assert [] == committed(pool)


async def test_the_deadline_of_a_task(pool, broker):
    """A task's call has its time-out as a thread's, and so has the scope that it leaves."""
    with bounded(SHORT_MS), pytest.raises(TransactionAbortedError, match=f"no answer within {SHORT_MS} ms"):
        async with pool.transaction() as tx:
            await tx.send_offsets(OFFSETS, GROUP, timeout_ms=SHORT_MS)


async def test_a_task_is_late_for_no_other(pool, broker):
    """However many offsets have more time, those with less are told at their deadline."""
    async with pool.transaction() as tx:
        others = [asyncio.create_task(tx.send_offsets(OFFSETS, GROUP, timeout_ms=300)) for _ in range(5)]
        await asyncio.sleep(0)
        with bounded(SHORT_MS), pytest.raises(TransactionAbortedError, match=f"no answer within {SHORT_MS} ms"):
            await tx.send_offsets(OFFSETS, GROUP, timeout_ms=SHORT_MS)
        with bounded(300):
            ends = await asyncio.gather(*others, return_exceptions=True)
        tx.abort_only()

    assert {TransactionAbortedError} == set(map(type, ends))


async def test_another_transaction_is_late_for_no_offsets(script, kept, broker):
    """Nor does the commit of another producer of the pool wait for them."""
    pool = kept(make_pool(size=2))
    await pool.aopen()
    async with pool.transaction() as tx:
        others = [asyncio.create_task(tx.send_offsets(OFFSETS, GROUP, timeout_ms=2_000)) for _ in range(5)]
        await asyncio.sleep(0)
        with bounded(0):
            async with pool.transaction(propagation="new") as other:
                other.produce_async("orders", "other")
        broker.set()
        await asyncio.gather(*others)

    assert ["other"] == committed(pool)


def test_the_pool_closes_meanwhile(pool, broker):
    """A close doesn't wait for the call beyond its own deadline, and says which producer is left."""
    send_late(pool)
    with bounded(SHORT_MS):
        report = pool.close(timeout_ms=SHORT_MS)

    assert (0,) == report.abandoned


def test_a_late_close_is_done(pool, broker):
    """The client that a close left behind is closed when its call comes back."""
    send_late(pool)
    pool.close(timeout_ms=0)
    broker.set()

    until(lambda: pool.stats().retiring == 0)


def test_a_commit_waits_for_another_threads_offsets(pool, broker, script):
    """Offsets that another thread sends are in before the commit, as a record is."""
    with pool.transaction() as tx:
        other = FutureThread(lambda: tx.send_offsets(OFFSETS, GROUP))
        other.start()
        until(lambda: "send_offsets" in script.calls)
        threading.Timer(0.1, broker.set).start()

    assert other.outcome() is None
    assert ["send_offsets", "commit"] == [call for call in script.calls if call in {"send_offsets", "commit", "abort"}]


def test_a_commit_that_offsets_are_too_late_for(pool, broker, script):
    """When they have no answer within commit_timeout_ms the transaction aborts, a known outcome, and tells of it."""
    aborted = watch(pool, TransactionAborted)
    with pytest.raises(TransactionAbortedError, match="had no answer within 300 ms"), pool.transaction() as tx:
        other = FutureThread(lambda: tx.send_offsets(OFFSETS, GROUP))
        other.start()
        until(lambda: "send_offsets" in script.calls)

    assert "commit" not in script.calls
    assert [TransactionAbortedError] == [type(event.cause) for event in aborted]


def test_ctrl_c_while_offsets_are_sent(pool, broker, script):
    """An interrupt comes out at once; the abort waits for the answer, and the producer stays."""

    def interrupted(_: float) -> bool:
        broker.set()
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt), pool.transaction() as tx:
        patch.setattr("wd_di._concurrency.errands.Errand.known", _once(interrupted))
        tx.send_offsets(OFFSETS, GROUP)

    assert "abort" in script.calls
    assert 0 == pool.stats().totals.retired


def _once(first: Callable[[float], bool]) -> Callable[[Any, float], bool]:
    """Return a method that raises what ``first`` does, and the next time waits as the real one."""
    real, calls = Errand.known, []

    def known(self: Errand, seconds: float) -> bool:
        calls.append(seconds)
        return first(seconds) if len(calls) == 1 else real(self, seconds)

    return known
