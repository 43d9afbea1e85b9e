"""A commit without an answer: who waits for what became of it, who doesn't, and what both are told."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import TopicPartition

from tests.pools import bounded, until
from tests.scripted import OFFSETS, PATIENCE, FaultKind, Script, committed, fault, make_pool, watch
from wd_di import Retry
from wd_di._concurrency.errands import Errand
from wd_di._kafka.memory import MemoryReader
from wd_di._kafka.port import Fault
from wd_di._transactions import ending
from wd_di._transactions.transaction import OpenTransaction
from wd_di.errors import CommitOutcomeUnknownError, TransactionAbortedError, TransactionError
from wd_di.events import ProducerRetired, TransactionAborted, TransactionFinished, TransactionResolved

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di.pool import ProducerPool


@pytest.fixture
def pool(script: Script, kept: Callable[[ProducerPool], ProducerPool]) -> ProducerPool:
    """An open pool of one scripted producer, which looks for what became of its commits."""
    pool = kept(make_pool(commit_timeout_ms=100, resolve_timeout_ms=2_000))
    pool.open()
    return pool


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a reader may answer."""
    may, sees = threading.Event(), MemoryReader.sees

    def waiting(reader: MemoryReader, *given: Any) -> bool:
        may.wait(PATIENCE)
        return sees(reader, *given)

    monkeypatch.setattr(MemoryReader, "sees", waiting)
    return may


def publish(pool: ProducerPool, hooks: list[str] | None = None) -> None:
    """Send one record in a transaction."""
    with pool.transaction() as tx:
        tx.produce_async("orders", "one")
        for name in ("after_commit", "after_abort"):
            getattr(tx, name)(lambda name=name: [] if hooks is None else hooks.append(name))


def lost_reply(script: Script) -> None:
    """Let the next commit be done, and its answer be lost for ever."""

    def commit() -> None:
        client = script.clients[-1]
        client._end(0, commit=True)
        client.in_transaction = True
        raise fault(FaultKind.OTHER)

    script.on("commit", commit)


def test_a_lost_yes(pool, script):
    """The scope returns as after any commit, its hooks run, and the slot has another producer."""
    lost_reply(script)
    resolved, retired, hooks = watch(pool, TransactionResolved), watch(pool, ProducerRetired), []
    publish(pool, hooks)

    assert ["one"] == committed(pool)
    assert ["after_commit"] == hooks
    [event] = resolved
    assert ("committed", "record") == (event.outcome, event.way)
    assert "a reader finds its record at orders[0]@0" == event.told
    until(lambda: pool.stats().idle == 1)
    assert ["commit failed"] == [event.reason for event in retired]
    assert "abort" not in script.calls


def test_a_lost_request(pool, script):
    """The scope raises that it was aborted, which is safe to run again; its hooks run."""
    script.on("commit", fault(FaultKind.OTHER))
    aborted, hooks = watch(pool, TransactionAborted), []
    with pytest.raises(TransactionAbortedError, match=r"readers skip its record at orders\[0\]@0 \(found") as caught:
        publish(pool, hooks)

    assert ("aborted", True) == (caught.value.outcome, caught.value.safe_to_retry)
    assert caught.value.resolution is not None
    assert isinstance(caught.value.__cause__, CommitOutcomeUnknownError)
    assert ["after_abort"] == hooks
    assert [caught.value] == [event.cause for event in aborted]


def test_who_holds_the_producer_goes_on(pool, script):
    """A resolved doubt costs the producer, not the block that holds it: the next call gets another one."""
    with pool.producer() as producer:
        lost_reply(script)
        for value in "abc":
            producer.produce_sync("orders", value)
        script.on("commit", fault(FaultKind.OTHER))
        with pytest.raises(TransactionAbortedError):
            producer.produce_sync("orders", "d")
        with producer.transaction() as tx:
            tx.produce_async("orders", "e")

    assert list("abce") == committed(pool)


@pytest.mark.parametrize("kind", [FaultKind.OTHER, FaultKind.FENCED])
def test_who_holds_the_producer_stops(pool, script, monkeypatch, kind):
    """What nobody knows, or what somebody else has ended, is for the whole block to deal with."""
    ended_by_the_other_owner = kind is FaultKind.FENCED
    monkeypatch.setattr(MemoryReader, "sees", (lambda *_: False) if ended_by_the_other_owner else failing)
    script.on("commit", fault(kind))
    with pool.producer() as producer:
        with pytest.raises(TransactionError):
            producer.produce_sync("orders", "one")
        with pytest.raises(TransactionError, match="can't begin another transaction"):
            producer.produce_sync("orders", "two")

    assert [] == committed(pool)


def test_a_retry_within_a_checkout(pool, script):
    """What was found to be aborted is run again on another producer."""
    script.on("commit", fault(FaultKind.OTHER))
    with pool.producer():
        pool.run(lambda tx: tx.produce_async("orders", "one"), retry=Retry(attempts=2, backoff_ms=1))

    assert ["one"] == committed(pool)


def test_the_reason_of_its_retirement(pool, script):
    """It is told by its doubt, with the error, and not by what that left behind."""
    script.always("commit", fault(FaultKind.RETRIABLE))
    retired = watch(pool, ProducerRetired)
    with pytest.raises(TransactionAbortedError):
        publish(pool)

    [event] = retired
    assert "commit in doubt" == event.reason
    assert isinstance(event.error, CommitOutcomeUnknownError)


async def test_a_cancelled_task_does_not_wait_for_it(script, reading):
    """The commit is outwaited; then the cancellation goes on with a note, a worker goes on looking, and tells."""
    script.on("commit", fault(FaultKind.OTHER))
    async with make_pool(resolve_timeout_ms=20_000) as pool:
        resolved = watch(pool, TransactionResolved)

        async def work() -> None:
            async with pool.transaction() as tx:
                tx.produce_async("orders", "one")

        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.3):
                await work()
        cancelled = caught.value.__cause__
        assert "the outcome is unknown" in cancelled.__notes__[0]
        assert [] == resolved
        reading.set()

    assert ["aborted"] == [event.outcome for event in resolved]


# -- in a call that is a transaction of its own ------------------------------------------------------


@pytest.fixture
def patient(script: Script, kept: Callable[[ProducerPool], ProducerPool]) -> ProducerPool:
    """A pool whose commits have more time than a call."""
    return kept(make_pool(commit_timeout_ms=2_000, resolve_timeout_ms=2_000))


NO_ANSWER = pytest.mark.parametrize("kind", [FaultKind.RETRIABLE, FaultKind.OTHER])
BEING_LOOKED_FOR = r"the outcome is unknown, .*; it is being looked for, and transaction\.resolved will tell"


@NO_ANSWER
def test_a_call_ends_by_its_own_deadline(patient, script, reading, kind):
    """Without an answer it is in doubt at its own deadline; a worker goes on, and tells."""
    script.always("commit", fault(kind))
    resolved = watch(patient, TransactionResolved)
    with patient.producer() as producer, bounded(50), pytest.raises(CommitOutcomeUnknownError, match=BEING_LOOKED_FOR):
        producer.produce_sync("orders", "x", timeout_ms=50)
    reading.set()

    assert ["aborted"] == [event.outcome for event in until(lambda: resolved)]


@NO_ANSWER
async def test_a_tasks_call_ends_by_its_own_deadline(patient, script, reading, kind):
    """So does a task's."""
    script.always("commit", fault(kind))
    async with patient.producer() as producer:
        with bounded(50), pytest.raises(CommitOutcomeUnknownError, match=BEING_LOOKED_FOR):
            await producer.produce_sync("orders", "x", timeout_ms=50)


def test_a_call_that_has_time_waits_for_the_outcome(patient, script):
    """Within its deadline the doubt is resolved, as that of any transaction."""
    lost_reply(script)
    with patient.producer() as producer:
        report = producer.produce_sync("orders", "x", timeout_ms=2_000)

    assert "orders" == report.topic
    assert ["x"] == committed(patient)


def test_a_call_that_has_more_time_than_the_search(script, reading, kept):
    """It knows no more than any transaction, and says so: nobody goes on looking."""
    script.on("commit", fault(FaultKind.OTHER))
    pool = kept(make_pool(commit_timeout_ms=2_000, resolve_timeout_ms=50))
    with pool.producer() as producer, pytest.raises(CommitOutcomeUnknownError, match="no answer came in time"):
        producer.produce_sync("orders", "x", timeout_ms=9_000)


# -- what can't be known, and who doesn't wait -------------------------------------------------------


def test_nothing_to_look_for(pool, script):
    """Offsets that a broker in memory doesn't keep tell nothing, and the error says why."""
    script.on("commit", fault(FaultKind.OTHER))
    with (
        pytest.raises(CommitOutcomeUnknownError, match=r"found out, after .* keeps no offsets"),
        pool.transaction() as tx,
    ):
        tx.send_offsets(OFFSETS, object())


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], int]:
    """Where a consumer group stands, as readers see it."""
    stands: dict[tuple[str, int], int] = {}
    monkeypatch.setattr(
        MemoryReader, "stands", lambda _, places, *__, **___: {each: stands[each] for each in places if each in stands}
    )
    return stands


def move(pool: ProducerPool, offset: int, *, record: bool = False) -> None:
    """Take a consumer group's offset along."""
    with pool.transaction() as tx:
        if record:
            tx.produce_async("orders", "one")
        tx.send_offsets([TopicPartition("in", 0, offset)], object())


def test_a_lost_yes_of_offsets_alone(pool, script, group):
    """That the group stands there is proof enough: nothing else was to be done."""
    resolved = watch(pool, TransactionResolved)
    group["in", 0] = 5
    script.on("commit", fault(FaultKind.OTHER))
    move(pool, 5)

    assert [("committed", "offsets", "the group stands at its offsets")] == [
        (event.outcome, event.way, event.told) for event in resolved
    ]


def test_a_group_that_stands_where_the_last_commit_has_brought_it(pool, script, group):
    """Then the next one's offsets weren't committed, nor its record; nobody has to ask where it stood before."""
    group["in", 0] = 3
    move(pool, 5)
    group["in", 0] = 5
    script.on("commit", fault(FaultKind.OTHER))
    with pytest.raises(TransactionAbortedError, match="the group stands where it did before"):
        move(pool, 9)


def test_offsets_prove_no_record(pool, script, group, monkeypatch):
    """Somebody else may have brought the group there; the error says why the record itself says nothing."""
    monkeypatch.setattr(MemoryReader, "sees", failing)
    group["in", 0] = 5
    script.on("commit", fault(FaultKind.OTHER))
    with pytest.raises(CommitOutcomeUnknownError) as caught:
        move(pool, 5, record=True)

    assert "no right to read; the group stands at its offsets, as it may have done before" in str(caught.value)


def test_a_group_that_can_be_asked_decides_for_a_record_that_cannot(pool, script, group, monkeypatch):
    """It stands where it did before, so the transaction was aborted as a whole."""
    monkeypatch.setattr(MemoryReader, "sees", failing)
    group["in", 0] = 3
    script.on("commit", fault(FaultKind.OTHER))
    with pytest.raises(TransactionAbortedError, match="the group stands where it did before"):
        move(pool, 5, record=True)


def failing(*_: object) -> None:
    """What a reader says that may not read."""
    raise Fault(FaultKind.OTHER, "no right to read")


def test_a_signal_between_two_tries(pool, script, reading, monkeypatch):
    """What it raises doesn't wait for the search, which tells when it has found something out."""
    monkeypatch.setattr(OpenTransaction, "_answered", interrupt)
    resolved = watch(pool, TransactionResolved)
    with pytest.raises(KeyboardInterrupt):
        publish(pool)

    assert [] == resolved
    reading.set()
    assert ["aborted"] == [event.outcome for event in until(lambda: resolved)]


def test_a_signal_between_two_tries_that_the_outcome_overtakes(pool, script, monkeypatch):
    """What is found out at once is told at once."""
    monkeypatch.setattr(OpenTransaction, "_answered", interrupt)
    monkeypatch.setattr(Errand, "when_known", lambda *_: False)
    resolved = watch(pool, TransactionResolved)
    with pytest.raises(KeyboardInterrupt):
        publish(pool)

    assert ["aborted"] == [event.outcome for event in resolved]


def interrupt(*_: object, **__: object) -> None:
    """What Ctrl-C raises."""
    raise KeyboardInterrupt


def test_ctrl_c_while_it_is_looked_for(pool, script, reading, monkeypatch):
    """A first one is kept until the outcome is known, and comes out with what is known."""
    script.on("commit", fault(FaultKind.OTHER))
    interrupted(monkeypatch, reading, times=1)
    with pytest.raises(KeyboardInterrupt) as caught:
        publish(pool)

    assert isinstance(caught.value.__cause__, TransactionAbortedError)


def test_ctrl_c_twice(pool, script, reading, monkeypatch):
    """A second one comes out at once; a worker goes on looking, tells, and then the slot is made again."""
    script.on("commit", fault(FaultKind.OTHER))
    finished, resolved = watch(pool, TransactionFinished), watch(pool, TransactionResolved)
    interrupted(monkeypatch, reading, times=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        publish(pool)

    cause = caught.value.__cause__
    assert isinstance(cause, CommitOutcomeUnknownError)
    assert "it is being looked for, and transaction.resolved will tell" in str(cause)
    assert (["unknown"], []) == ([event.outcome for event in finished], resolved)
    assert 1 == pool.stats().retiring
    reading.set()
    until(lambda: pool.stats().idle == 1)
    [event] = resolved
    assert ("aborted", finished[0].transaction_id) == (event.outcome, event.transaction_id)


def test_a_time_limit_in_the_commit(pool, script, reading):
    """Where no answer comes, what a signal's handler raises doesn't wait for the search: a worker goes on and tells."""
    resolved = watch(pool, TransactionResolved)
    script.on("commit", TimeoutError("soft limit"))
    script.always("commit", fault(FaultKind.RETRIABLE))
    with bounded(100), pytest.raises(TimeoutError, match="soft limit") as caught:
        publish(pool)
    reading.set()

    until(lambda: resolved)
    assert "aborted" == resolved[0].outcome
    assert isinstance(caught.value.__cause__, CommitOutcomeUnknownError)
    assert "it is being looked for, and transaction.resolved will tell" in caught.value.__notes__[0]


def test_a_time_limit_while_it_is_looked_for(pool, script, reading, monkeypatch):
    """It waits for a last word, and then leaves the search to a worker."""
    monkeypatch.setattr(ending, "LAST_WORD", 0.1)
    resolved, started = watch(pool, TransactionResolved), time.monotonic()
    script.on("commit", fault(FaultKind.OTHER))
    interrupted(monkeypatch, threading.Event(), times=1, by=TimeoutError)
    with pytest.raises(TimeoutError) as caught:
        publish(pool)
    took = time.monotonic() - started
    reading.set()

    until(lambda: resolved)
    assert took < 1
    assert isinstance(caught.value.__cause__, CommitOutcomeUnknownError)
    assert [str(caught.value.__cause__)] == caught.value.__notes__


def test_a_time_limit_that_the_outcome_overtakes(pool, script, reading, monkeypatch):
    """Found out in time, it is what the note says."""
    lost_reply(script)
    interrupted(monkeypatch, reading, times=1, by=TimeoutError)
    with pytest.raises(TimeoutError) as caught:
        publish(pool)

    assert caught.value.__notes__[0].endswith("was committed")


def test_a_close_waits_for_the_outcome(pool, script, reading, monkeypatch):
    """Who closes the pool after Ctrl-C twice gives the search the time that the close has."""
    script.on("commit", fault(FaultKind.OTHER))
    resolved = watch(pool, TransactionResolved)
    interrupted(monkeypatch, reading, times=2)
    with pytest.raises(KeyboardInterrupt):
        publish(pool)
    threading.Timer(0.1, reading.set).start()
    report = pool.close(timeout_ms=5_000)

    assert () == report.abandoned
    assert 1 == len(resolved)


def test_a_reader_that_never_answers(kept, script, reading):
    """The caller is told at the deadline that there was no answer."""
    pool = kept(make_pool(resolve_timeout_ms=50))
    pool.open()
    script.on("commit", fault(FaultKind.OTHER))
    with bounded(50), pytest.raises(CommitOutcomeUnknownError, match="no answer came in time") as caught:
        publish(pool)

    assert "unknown" == caught.value.resolution.outcome


def test_what_is_known_is_pickled(pool, script):
    """The resolution travels with the error."""
    script.on("commit", fault(FaultKind.OTHER))
    with pytest.raises(TransactionError) as caught:
        publish(pool)
    copied = pickle.loads(pickle.dumps(caught.value))  # noqa: S301

    assert caught.value.resolution == copied.resolution


def interrupted(
    monkeypatch: pytest.MonkeyPatch,
    reading: threading.Event,
    *,
    times: int,
    by: type[BaseException] = KeyboardInterrupt,
) -> None:
    """Let Ctrl-C come so often to who waits for the outcome; after the last one the reader may answer, if it is one."""
    known, left = Errand.known, [times]

    def waiting(errand: Errand[Any], seconds: float) -> bool:
        if seconds and left[0]:
            left[0] -= 1
            if times == 1:
                reading.set()
            raise by
        return known(errand, seconds)

    monkeypatch.setattr(Errand, "known", waiting)
