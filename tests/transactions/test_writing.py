"""What a transaction's writes do to it: its clock, the groups that it moves, and what comes too late."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests import internals
from tests.scripted import OFFSETS, Script, committed, make_pool
from wd_di._transactions import writing
from wd_di._transactions.transaction import OpenTransaction
from wd_di.errors import TransactionAbortedError, TransactionClosedError
from wd_di.pool import ProducerPool

GROUP, OTHER_GROUP = object(), object()


@pytest.fixture
def pool(script: Script) -> Iterator[ProducerPool]:
    """An open pool of one scripted producer."""
    with make_pool(commit_timeout_ms=300, abort_timeout_ms=300) as pool:
        yield pool


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


def test_each_group_is_known_once(pool: ProducerPool) -> None:
    """However often its offsets are sent."""
    with pool.transaction() as tx:
        for group in (GROUP, OTHER_GROUP, GROUP, OTHER_GROUP):
            tx.send_offsets(OFFSETS, group)
        moves = internals.transaction(tx).moves

    assert [GROUP, OTHER_GROUP] == [move.member for move in moves]


def test_offsets_have_the_time_of_a_commit(pool: ProducerPool, script: Script) -> None:
    """Unless the call says another one."""
    script.on("send_offsets", lambda: time.sleep(0.6))
    with (
        pytest.raises(TransactionAbortedError, match="send_offsets had no answer within 300 ms"),
        pool.transaction() as tx,
    ):
        tx.send_offsets(OFFSETS, GROUP)


def test_waiting_for_offsets_takes_no_core(pool: ProducerPool, script: Script) -> None:
    """The thread sleeps until the worker has the answer."""
    script.on("send_offsets", lambda: time.sleep(0.25))
    with pool.transaction() as tx:
        began = time.thread_time()
        tx.send_offsets(OFFSETS, GROUP)
        spent = time.thread_time() - began

    assert spent < 0.1


def test_offsets_after_the_end(pool: ProducerPool) -> None:
    """That it is over is said first, whatever they are."""
    with pool.transaction() as tx:
        pass

    with pytest.raises(TransactionClosedError):
        tx.send_offsets(None, None)  # type: ignore[arg-type]


def test_offsets_whose_transaction_ends_meanwhile(
    pool: ProducerPool, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may end it while they are looked at: they don't slip into the next one."""

    def slowly(offsets: Any) -> Any:
        internals.transaction(tx).finish(ValueError("of another thread"), ())
        return offsets

    monkeypatch.setattr(writing, "checked_offsets", slowly)
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
