"""What a transaction's writes do to it: its clock, the groups that it moves, and what comes too late."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from tests import internals
from tests.pools import until
from tests.scripted import OFFSETS, FaultKind, Script, committed, fault, watch
from wd_di._transactions.transaction import OpenTransaction
from wd_di.errors import (
    FencedError,
    ForkedPoolError,
    TransactionAbortedError,
    TransactionClosedError,
    TransactionTimedOutError,
    UnexpectedAbortError,
)
from wd_di.events import ProducerRetired
from wd_di.pool import ProducerPool

GROUP, OTHER_GROUP = object(), object()


def test_offsets_start_the_clock(pool: ProducerPool) -> None:
    """The coordinator's time begins with the first write, and offsets are one."""
    with pool.transaction() as tx:
        before = internals.transaction(tx).first_write
        tx.send_offsets(OFFSETS, GROUP)
        after = internals.transaction(tx).first_write

    assert before is None
    assert after is not None


def test_offsets_that_could_not_be_sent_start_no_clock(pool: ProducerPool, script: Script) -> None:
    """The broker knows nothing of the transaction yet."""
    script.on("send_offsets", TypeError("no metadata"))
    with pool.transaction() as tx:
        with pytest.raises(TypeError):
            tx.send_offsets(OFFSETS, GROUP)
        assert internals.transaction(tx).first_write is None


@pytest.mark.parametrize(
    "write", [lambda tx: tx.produce_async("orders", "one"), lambda tx: tx.send_offsets(OFFSETS, GROUP)]
)
def test_what_could_not_be_sent_stops_no_clock(
    pool: ProducerPool, script: Script, write: Callable[[Any], object]
) -> None:
    """A record or offsets before it have started it."""
    with pool.transaction() as tx:
        write(tx)
        before = internals.transaction(tx).first_write
        script.on("send_offsets", TypeError("no metadata"))
        with pytest.raises(TypeError):
            tx.send_offsets(OFFSETS, OTHER_GROUP)
        after = internals.transaction(tx).first_write

    assert before is not None
    assert before == after


def late(pool: ProducerPool, ran: list[str]) -> None:
    """A transaction that goes on writing for too long, and swallows what it is told."""
    with pool.transaction() as tx:
        tx.before_commit(lambda: ran.append("before_commit"))
        tx.produce_async("orders", "one")
        internals.transaction(tx).backdate(1_000)
        with suppress(TransactionTimedOutError):
            tx.produce_async("orders", "two")


def test_a_write_that_is_late_dooms(pool: ProducerPool) -> None:
    """Whoever swallows that gets it again at the end, and nothing more is prepared for a commit."""
    ran: list[str] = []
    with pytest.raises(TransactionTimedOutError):
        late(pool, ran)

    assert [] == ran
    assert [] == committed(pool)


def no_answer() -> None:
    """What librdkafka raises when it has waited in vain."""
    raise fault(FaultKind.RETRIABLE) from KafkaException(KafkaError(KafkaError._TIMED_OUT))


@pytest.mark.parametrize("cues", [[no_answer], [lambda: time.sleep(0.5)], [no_answer, fault(FaultKind.RETRIABLE)]])
def test_offsets_that_may_have_been_sent_twice(pool: ProducerPool, script: Script, cues: list[Any]) -> None:
    """They took long, or were asked for again without an answer: the next transaction has another producer."""
    retired = watch(pool, ProducerRetired)
    script.on("send_offsets", *cues)
    with pool.transaction() as tx:
        tx.send_offsets(OFFSETS, GROUP, timeout_ms=5_000)
        tx.produce_async("orders", "one")

    until(lambda: retired)
    assert ["sent twice"] == [event.reason for event in retired]
    assert ["one"] == committed(pool)


def test_how_long_offsets_may_take(pool: ProducerPool) -> None:
    """From half a second on librdkafka may have sent them again."""
    with pool.transaction() as tx:
        transaction = internals.transaction(tx)
        transaction._note_time("offsets", 0.49)
        before = transaction._sent_twice
        transaction.connection.services.least.clear()
        transaction._note_time("offsets", 0.5)

        assert (False, True) == (before, transaction._sent_twice)


def test_offsets_that_were_refused_at_first(pool: ProducerPool, script: Script) -> None:
    """A broker's answer to the first request leaves none on its way."""
    script.on("send_offsets", fault(FaultKind.RETRIABLE))
    with pool.transaction() as tx:
        tx.send_offsets(OFFSETS, GROUP)

    assert 0 == pool.stats().totals.retired


def test_a_record_that_failed_since_its_producer_did(pool: ProducerPool, script: Script) -> None:
    """The error says in which step, and names the producer's own."""
    script.failing.add("orders")
    script.on("poll", lambda: script.clients[0].break_down(FaultKind.FENCED))
    script.on("flush", lambda: script.clients[0].break_down(FaultKind.FENCED))
    with pytest.raises(FencedError, match="produce: fenced"), pool.transaction() as tx:
        tx.produce_sync("orders", "one")


def test_each_group_is_known_once(pool: ProducerPool) -> None:
    """However often its offsets are sent."""
    with pool.transaction() as tx:
        for offset, group in enumerate((GROUP, OTHER_GROUP, GROUP, OTHER_GROUP)):
            tx.send_offsets([TopicPartition("in", 0, offset)], group)
        moves = internals.transaction(tx).moves

    assert [(GROUP, {("in", 0): 2}), (OTHER_GROUP, {("in", 0): 3})] == [(move.member, move.to) for move in moves]


def test_offsets_have_the_time_of_a_commit(pool: ProducerPool, script: Script) -> None:
    """Unless the call says another one."""
    script.on("send_offsets", lambda: time.sleep(0.6))
    with (
        pytest.raises(TransactionAbortedError, match="send_offsets had no answer within 300 ms"),
        pool.transaction() as tx,
    ):
        tx.send_offsets(OFFSETS, GROUP)


def test_the_first_offsets_that_are_late_are_why(pool: ProducerPool, script: Script) -> None:
    """Who swallows that and tries others is told again; the producer goes for the first ones."""
    retired, told = watch(pool, ProducerRetired), []
    script.on("send_offsets", lambda: time.sleep(0.3))

    def stubborn() -> None:
        with pool.transaction() as tx:
            for timeout_ms in (20, 30):
                try:
                    tx.send_offsets(OFFSETS, GROUP, timeout_ms=timeout_ms)
                except TransactionAbortedError as error:
                    told.append(error)

    with pytest.raises(UnexpectedAbortError):
        stubborn()

    until(lambda: retired)
    assert ["20 ms", "30 ms"] == [re.findall(r"within (\d+ ms)", str(error))[0] for error in told]
    assert retired[0].error is told[0]


def test_waiting_for_offsets_takes_no_core(pool: ProducerPool, script: Script) -> None:
    """The thread sleeps until the worker has the answer."""
    script.on("send_offsets", lambda: time.sleep(0.25))
    with pool.transaction() as tx:
        began = time.thread_time()
        tx.send_offsets(OFFSETS, GROUP)
        spent = time.thread_time() - began

    assert spent < 0.1


def test_calls_after_the_end(pool: ProducerPool) -> None:
    """That it is over is said first, whatever the arguments are, and before anything is entered."""
    with pool.transaction() as tx:
        pass

    with pytest.raises(TransactionClosedError):
        tx.send_offsets(None, None)  # type: ignore[arg-type]
    with pytest.raises(TransactionClosedError):
        tx.transaction()


def test_offsets_whose_transaction_ends_meanwhile(
    pool: ProducerPool, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may end it before a worker has them: they don't slip into the next one."""
    monkeypatch.setattr(
        OpenTransaction, "_note_write", lambda transaction: transaction.finish(ValueError("theirs"), ())
    )
    with suppress(TransactionClosedError), pool.transaction() as tx, pytest.raises(TransactionClosedError):
        tx.send_offsets(OFFSETS, GROUP)

    assert "send_offsets" not in script.calls


def test_a_call_of_its_own_waits_for_brokers_that_are_away(
    pool: ProducerPool, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a record must not go before its topic is known, they are asked first."""
    monkeypatch.setattr(OpenTransaction, "keeps_back", lambda *_: True)
    script.there.set()
    with pool.producer() as producer:
        producer.produce_sync("orders", "one")

    assert "reach" in script.calls
    assert ["one"] == committed(pool)


def test_an_abort_is_nothing_that_the_coordinator_has_heard(pool: ProducerPool) -> None:
    """So the id's age counts on: whether the broker has written anything down isn't certain."""
    with pool.transaction() as tx:
        slot = internals.lease(tx).slot
        before = slot.heard_at
        tx.produce_async("orders", "one")
        tx.abort_only()

    assert before == slot.heard_at


def test_a_child_leaves_its_parents_transaction_alone(pool: ProducerPool, script: Script) -> None:
    """It commits nothing and runs no hook, and whatever it calls says whose it is."""
    told: list[str] = []

    def inherited() -> None:
        with pool.transaction() as tx:
            tx.after_completion(told.append)
            transaction = internals.transaction(tx)
            transaction.connection.forked = True
            transaction.leave_to_parent()

    with pytest.raises(ForkedPoolError, match="was begun before a fork, and is the parent's"):
        inherited()

    assert "commit" not in script.calls
    assert [] == told
