"""What is known, what is told and what becomes of the producer at each way out of a transaction."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tests import internals
from tests.pools import bounded, until
from tests.scripted import (
    OFFSETS,
    FaultKind,
    Script,
    ScriptedClient,
    committed,
    fault,
    make_pool,
    outcome,
    watch,
)
from wd_di import Retry
from wd_di._kafka.port import Fault, Verdict
from wd_di.errors import (
    AbortTransaction,
    CommitOutcomeUnknownError,
    DeliveryError,
    FencedError,
    ForkedPoolError,
    PoolUnhealthyError,
    TransactionAbortedError,
    TransactionClosedError,
    TransactionError,
    UnexpectedAbortError,
)
from wd_di.events import ErrorOccurred, ProducerRetired, TransactionFinished
from wd_di.pool import ProducerPool

OTHER, RETRIABLE = fault(FaultKind.OTHER), fault(FaultKind.RETRIABLE)


def publish(pool: ProducerPool, *, block: Callable[[], object] = lambda: None) -> Any:
    """One record in a transaction, and something else in its block."""
    with pool.transaction() as tx:
        delivery = tx.produce_async("orders", "one")
        block()
    return delivery


def failing(*_: object) -> None:
    """What a block does that aborts."""
    raise ZeroDivisionError


def nothing(*_: object) -> None:
    """What a block does that ends well."""


def broken(script: Script, kind: FaultKind = FaultKind.FATAL) -> Callable[[], object]:
    """What breaks the producer."""
    return lambda: script.clients[-1].break_down(kind)


def calls(script: Script) -> list[str]:
    """What was asked to end the transaction."""
    return [call for call in script.calls if call in ("commit", "abort")]


# -- the producer ------------------------------------------------------------------------------------

Lost = tuple[str, Callable[[Script], object], Callable[[Script], object]]

LOST: dict[str, Lost] = {
    "can't begin": ("begin failed", lambda script: script.on("begin", OTHER), nothing),
    "can't commit": ("commit failed", lambda script: script.on("commit", OTHER), nothing),
    "is in doubt": ("commit in doubt", lambda script: script.always("commit", RETRIABLE), nothing),
    "breaks in the commit": ("commit failed", lambda script: script.on("commit", broken(script)), nothing),
    "can't abort": ("abort failed", lambda script: script.on("abort", OTHER), failing),
    "is broken before it aborts": ("abort failed", nothing, lambda script: broken(script)()),
    "is closed before it aborts": ("broken", nothing, lambda script: broken(script, FaultKind.CLOSED)()),
}


@pytest.mark.parametrize("how", LOST)
def test_why_a_producer_goes(pool: ProducerPool, script: Script, how: str) -> None:
    """The event names the first of the transaction's own reasons, with the error."""
    reason, arrange, block = LOST[how]
    retired = watch(pool, ProducerRetired)
    arrange(script)
    raised = outcome(lambda: publish(pool, block=lambda: block(script)))

    until(lambda: retired)
    assert [reason] == [event.reason for event in retired]
    assert retired[0].error is not None
    assert isinstance(raised, Exception) or how == "breaks in the commit"


@pytest.mark.parametrize("also", [False, True])
def test_a_refused_record(pool: ProducerPool, script: Script, also: bool) -> None:  # noqa: FBT001
    """It costs the producer; what goes wrong besides says more."""
    client, retired = script.clients[0], watch(pool, ProducerRetired)
    script.failing.add("orders")
    client.verdict = lambda *_: Verdict("failed", DeliveryError("refused"), "record refused")  # type: ignore[method-assign]
    if also:
        script.on("abort", fault(FaultKind.OTHER))
    with pytest.raises(DeliveryError):
        publish(pool)

    until(lambda: retired)
    assert ["abort failed" if also else "record refused"] == [event.reason for event in retired]


def test_a_producer_that_its_user_has_closed(pool: ProducerPool, script: Script) -> None:
    """What was open is aborted for certain, so it is run again; whoever holds it can't go on with it."""

    def closes(*_: object) -> None:
        broken(script, FaultKind.CLOSED)()
        failing()

    def closes_once(tx: Any) -> None:
        tx.produce_async("orders", f"on client {len(script.clients)}")
        if len(script.clients) == 1:
            closes()

    pool.run(closes_once, retry=Retry(backoff_ms=0, on=(ZeroDivisionError,)))

    assert ["on client 2"] == committed(pool)
    with pool.producer() as producer:
        with pytest.raises(ZeroDivisionError), producer.transaction():
            closes()
        with pytest.raises(TransactionError, match=r"can't begin another transaction \(broken\)"):
            producer.produce_sync("orders", "no more")


def test_the_first_of_two_reasons(pool: ProducerPool, script: Script) -> None:
    """An id that was forgotten says more than that its producer was closed."""
    retired = watch(pool, ProducerRetired)
    script.clients[0].reason = lambda: Fault(FaultKind.FATAL, "unknown id", expired=True)  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        publish(pool, block=lambda: (broken(script, FaultKind.CLOSED)(), failing()))

    until(lambda: retired)
    assert ["transactional.id expired"] == [event.reason for event in retired]


def test_a_producer_that_breaks_while_its_abort_waits(pool: ProducerPool, script: Script) -> None:
    """Its records have no answer yet; it is asked for nothing more, and the error says why it couldn't abort."""
    runs: list[Any] = []

    def fails(tx: Any) -> None:
        runs.append(tx.produce_async("orders", "one"))
        failing()

    script.silent = True
    script.on("flush", broken(script))
    with pytest.raises(ZeroDivisionError) as caught:
        pool.run(fails, retry=Retry(backoff_ms=0, on=(ZeroDivisionError,)))
    script.silent = False

    assert 1 == len(runs)
    assert "couldn't be aborted (scripted fatal" in caught.value.__notes__[0]
    assert [] == calls(script)


def test_an_abort_that_fails_after_a_refused_commit(pool: ProducerPool, script: Script) -> None:
    """It is told, for it is another failure than the one that is raised."""
    errors = watch(pool, ErrorOccurred)
    script.on("commit", fault(FaultKind.ABORTABLE))
    script.on("abort", OTHER)
    with pytest.raises(TransactionAbortedError):
        publish(pool)

    assert ["transaction.abort"] == [event.where for event in errors]


def test_a_reason_that_is_no_expiry(pool: ProducerPool, script: Script) -> None:
    """What has failed before says nothing against a producer that can abort."""
    script.clients[0].reason = lambda: fault(FaultKind.OTHER)  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        publish(pool, block=failing)

    assert 0 == pool.stats().totals.retired


def swallowing(pool: ProducerPool) -> None:
    """An inner transaction fails, and the outer one goes on."""
    with pool.transaction():
        try:
            with pool.transaction():
                failing()
        except ZeroDivisionError:
            pass


def hooked(pool: ProducerPool) -> None:
    """A hook fails before the commit."""
    with pool.transaction() as tx:
        tx.before_commit(failing)


def interrupted(pool: ProducerPool, script: Script) -> None:
    """Ctrl-C comes before a record has its answer."""
    script.on("flush", KeyboardInterrupt())
    publish(pool)


KEPT: dict[str, tuple[Callable[[ProducerPool, Script], object], type[BaseException]]] = {
    "the block fails": (lambda pool, _: publish(pool, block=failing), ZeroDivisionError),
    "something in it has failed": (lambda pool, _: swallowing(pool), UnexpectedAbortError),
    "a hook fails": (lambda pool, _: hooked(pool), ZeroDivisionError),
    "Ctrl-C": (interrupted, KeyboardInterrupt),
    "a record fails": (lambda pool, script: (script.failing.add("orders"), publish(pool)), DeliveryError),
}


@pytest.mark.parametrize("how", KEPT)
def test_an_abort_keeps_the_producer(pool: ProducerPool, script: Script, how: str) -> None:
    """It is asked of the broker once, and the next transaction has the same producer."""
    act, kind = KEPT[how]
    finished = watch(pool, TransactionFinished)
    with pytest.raises(kind):
        act(pool, script)
    script.failing.clear()
    publish(pool)

    assert ["abort", "commit"] == calls(script)
    assert ["aborted", "committed"] == [event.outcome for event in finished]
    assert 1 == len(script.clients)


@pytest.mark.parametrize("kind", [FaultKind.FENCED, FaultKind.OTHER])
@pytest.mark.parametrize("call", ["commit", "abort", "abort of a broken one"])
def test_who_is_fenced_has_a_rival(script: Script, kind: FaultKind, call: str) -> None:
    """Then the pool stops taking its id back; what else goes wrong is nobody else's doing."""
    lost = fault(kind)

    def end() -> None:
        if call == "abort of a broken one":
            script.clients[-1].fault = fault(kind)
            raise fault(FaultKind.OTHER)
        raise lost

    with make_pool(fenced_retries=0, timeout_ms=1_000) as pool:
        script.on(call.split(maxsplit=1)[0], end)
        outcome(lambda: publish(pool, block=(nothing) if call == "commit" else failing))
        following = outcome(lambda: publish(pool))

    assert isinstance(following, PoolUnhealthyError) == (kind is FaultKind.FENCED)


# -- what is known -----------------------------------------------------------------------------------


def test_a_rival_at_the_begin(pool: ProducerPool, script: Script) -> None:
    """To be fenced is no reason to run it again; nothing was sent."""
    script.on("begin", fault(FaultKind.FENCED))
    with pytest.raises(FencedError, match="begin: fenced") as caught:
        publish(pool)

    assert not caught.value.safe_to_retry


@pytest.mark.parametrize(("call", "known"), [("flush", "aborted"), ("commit", "unknown")])
def test_where_it_was_fenced(pool: ProducerPool, script: Script, call: str, known: str) -> None:
    """The error says in which step, on which the outcome depends."""
    script.on("commit", fault(FaultKind.FENCED))
    block = nothing if call == "commit" else broken(script, FaultKind.FENCED)
    with pytest.raises(FencedError, match=f"{call}: fenced") as caught:
        publish(pool, block=block)

    assert known == caught.value.outcome


def test_nothing_was_sent_on_a_broken_producer(pool: ProducerPool, script: Script) -> None:
    """So an empty transaction aborts for certain, and asks nothing of the producer."""
    with pytest.raises(FencedError) as caught, pool.transaction():
        script.clients[0].break_down(FaultKind.FENCED)

    assert "aborted" == caught.value.outcome
    assert [] == calls(script)


def test_closed_while_the_commit_is_asked_for_again(pool: ProducerPool, script: Script) -> None:
    """The request was sent, and may be carried out."""
    script.on("commit", fault(FaultKind.RETRIABLE), fault(FaultKind.CLOSED))
    with pytest.raises(CommitOutcomeUnknownError):
        publish(pool)


def test_closed_before_it_aborts(pool: ProducerPool, script: Script) -> None:
    """The client has aborted what was open: nothing went wrong with that."""
    errors = watch(pool, ErrorOccurred)
    with pytest.raises(ZeroDivisionError) as caught:
        publish(pool, block=lambda: (broken(script, FaultKind.CLOSED)(), failing()))

    assert [] == getattr(caught.value, "__notes__", [])
    assert [] == errors


@pytest.mark.parametrize(
    ("call", "word", "block"),
    [("flush", "ending", nothing), ("commit", "unknown", nothing), ("abort", "aborted", failing)],
)
def test_a_write_at_the_end(
    pool: ProducerPool, script: Script, call: str, word: str, block: Callable[[], object]
) -> None:
    """Nothing is written any more once it is ended, not even by the thread that has opened it."""
    refused = []

    def write() -> None:
        script.silent = False
        refused.append(outcome(lambda: tx.produce_async("orders", "late")))

    script.silent = call == "flush"  # or there may be nothing left to flush
    script.on(call, write)
    with suppress(ZeroDivisionError), pool.transaction() as tx:
        tx.produce_async("orders", "one")
        block()

    assert [TransactionClosedError] == [type(error) for error in refused]
    assert str(refused[0]).endswith(f"has ended: {word}")


@pytest.mark.parametrize(("timeout_ms", "setting"), [(50, "timeout_ms is 50"), (5_000, "commit_timeout_ms is 300")])
def test_a_call_that_is_a_transaction_of_its_own(
    pool: ProducerPool, script: Script, timeout_ms: int, setting: str
) -> None:
    """Its records have the time of the call, or of the commit if that is less, and the error names the one."""
    script.silent = True
    script.always("abort", fault(FaultKind.RETRIABLE))
    with pool.producer() as producer, pytest.raises(TransactionAbortedError, match=rf"no answer in time \({setting}\)"):
        producer.produce_sync("orders", "one", timeout_ms=timeout_ms)


# -- asking again ------------------------------------------------------------------------------------


def test_asking_again(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """In between what has come is served; each try may take all the time that is left."""
    given, commit = [], ScriptedClient.commit

    def noting(client: ScriptedClient, seconds: float) -> None:
        given.append(seconds)
        commit(client, seconds)

    monkeypatch.setattr(ScriptedClient, "commit", noting)
    script.on("commit", fault(FaultKind.RETRIABLE))
    with make_pool(commit_timeout_ms=10_000) as pool:
        publish(pool)

        assert ["commit", "poll", "commit"] == script.calls[-3:]
    assert 9 < given[1] <= given[0] <= 10


def test_the_last_try_is_no_longer_than_the_time_that_is_left(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or an answer that doesn't come would be waited for beyond the deadline."""
    given: list[float] = []
    monkeypatch.setattr(ScriptedClient, "commit", lambda _, seconds: given.append(seconds))
    with make_pool(commit_timeout_ms=10) as pool:
        publish(pool)

    assert 0.01 >= max(given)


# -- what is told ------------------------------------------------------------------------------------


def test_an_abort_that_fails_is_told_once(pool: ProducerPool, script: Script) -> None:
    """Not where the same fault is raised anyway."""
    errors = watch(pool, ErrorOccurred)
    with pytest.raises(FencedError):
        publish(pool, block=broken(script, FaultKind.FENCED))

    assert [] == errors


@pytest.mark.parametrize("kind", [KeyboardInterrupt, None])
def test_what_an_abort_failed_with(pool: ProducerPool, script: Script, kind: type[BaseException] | None) -> None:
    """The client's fault, or in words what isn't an error."""
    failed = fault(FaultKind.OTHER) if kind is None else kind()
    errors = watch(pool, ErrorOccurred)
    script.on("abort", failed)
    with pytest.raises((ZeroDivisionError, KeyboardInterrupt)) as caught:
        publish(pool, block=failing)

    [event] = errors
    assert "transaction.abort" == event.where
    if kind is None:
        assert failed is event.error
        assert "couldn't be aborted" in caught.value.__notes__[0]
    else:
        assert isinstance(event.error, RuntimeError)
        assert "couldn't be aborted" in str(event.error)


def test_doubt_that_nobody_looks_into(pool: ProducerPool, script: Script) -> None:
    """With resolve_timeout_ms=0 a second Ctrl-C comes out with what is known, and promises nothing."""
    script.on("commit", KeyboardInterrupt(), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught:
        publish(pool)

    assert "interrupted twice" in str(caught.value.__cause__)
    assert "looked for" not in str(caught.value.__cause__)


def test_how_long_it_took(pool: ProducerPool, script: Script) -> None:
    """From its begin to its end, in milliseconds."""
    finished = watch(pool, TransactionFinished)
    started = time.monotonic()
    publish(pool, block=lambda: time.sleep(0.05))
    took_ms = (time.monotonic() - started) * 1000

    assert 50 <= finished[0].duration_ms <= took_ms


def test_what_the_library_refuses_in_a_commit_comes_out(pool: ProducerPool, script: Script) -> None:
    """Such as a producer from before a fork: it isn't asked again, for it is no signal that is kept until an answer."""
    script.on("commit", ForkedPoolError("this producer was made before a fork"))
    with pytest.raises(ForkedPoolError):
        publish(pool)

    assert ["commit"] == calls(script)


def test_a_commit_leaves_time_for_its_abort(script: Script) -> None:
    """A third of commit_timeout_ms, or abort_timeout_ms if that is less, isn't waited for the records' answers."""
    script.silent = True
    with make_pool(commit_timeout_ms=1_500, abort_timeout_ms=500) as pool:
        with bounded(1_500), pytest.raises(TransactionAbortedError):
            publish(pool)
        script.silent = False


# -- what is noted, and what is kept -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["can't begin", "can't commit", "is in doubt"])
def test_an_error_of_ours_says_the_outcome_itself(pool: ProducerPool, script: Script, how: str) -> None:
    """Only what is somebody else's gets a note."""
    _, arrange, block = LOST[how]
    arrange(script)
    with pytest.raises(TransactionError) as caught:
        publish(pool, block=lambda: block(script))

    assert [] == getattr(caught.value, "__notes__", [])


def test_a_signal_before_the_begin_is_somebody_elses(pool: ProducerPool, script: Script) -> None:
    """The note says that nothing came of it."""
    script.on("begin", KeyboardInterrupt())
    finished = watch(pool, TransactionFinished)
    raised = outcome(lambda: publish(pool))

    assert isinstance(raised, KeyboardInterrupt)
    assert raised.__notes__[0].endswith("was aborted")
    assert ["aborted"] == [event.outcome for event in finished]


@pytest.mark.parametrize(
    ("write", "heard"),
    [
        (lambda tx: tx.produce_async("orders", "one"), True),
        (lambda tx: tx.send_offsets(OFFSETS, object()), True),
        (nothing, False),
    ],
)
def test_what_the_coordinator_has_heard(
    pool: ProducerPool,
    write: Callable[[Any], object],
    heard: bool,  # noqa: FBT001  (the case)
) -> None:
    """An empty transaction is none to it: the id rests on."""
    with pool.transaction() as tx:
        slot = internals.lease(tx).slot
        before = slot.heard_at
        write(tx)

    assert heard == (slot.heard_at > before)


def test_nothing_is_kept_of_what_was_answered(pool: ProducerPool) -> None:
    """A producer knows those transactions only whose records may still be answered."""
    with pool.transaction() as tx:
        tx.produce_sync("orders", "one")
        in_flight = internals.transaction(tx).connection.in_flight
        during = len(in_flight.ledgers)

    assert (1, 0) == (during, len(in_flight.ledgers))


def test_a_holder_goes_on_after_a_refused_record(script: Script) -> None:
    """Nothing is wrong with its block: it gets another producer."""
    with make_pool(size=2) as pool, pool.producer() as producer:
        internals.client(producer).verdict = lambda *_: Verdict("failed", DeliveryError("refused"), "record refused")
        script.failing.add("orders")
        with pytest.raises(DeliveryError):
            producer.produce_sync("orders", "one")
        script.failing.clear()
        producer.produce_sync("orders", "two")

        assert ["two"] == committed(pool)


def test_a_holder_goes_on_after_a_slow_end() -> None:
    """It gets another producer for the next transaction."""
    with make_pool(size=2) as pool, pool.producer() as producer:
        with producer.transaction() as tx:
            tx.produce_async("orders", "one")
            internals.transaction(tx)._note_time("end", 99.0)
        first = internals.client(producer)
        producer.produce_sync("orders", "two")

        assert first is not internals.client(producer)
        assert ["one", "two"] == committed(pool)


# -- doubt that was resolved -------------------------------------------------------------------------


def test_a_no_that_was_found_out(script: Script) -> None:
    """It is as any abort: its deliveries say so, and it is run again."""
    script.on("commit", fault(FaultKind.OTHER))
    deliveries: list[Any] = []
    with make_pool(resolve_timeout_ms=5_000, size=2) as pool:
        pool.run(lambda tx: deliveries.append(tx.produce_async("orders", "one")), retry=Retry(backoff_ms=0))

    assert ["aborted", "delivered"] == [delivery.outcome for delivery in deliveries]


def test_a_no_is_safe_to_retry(script: Script) -> None:
    """Once it was found out."""
    script.on("commit", fault(FaultKind.OTHER))
    with make_pool(resolve_timeout_ms=5_000) as pool, pytest.raises(TransactionError) as caught:
        publish(pool)

    assert ("aborted", True) == (caught.value.outcome, caught.value.safe_to_retry)


# -- ended already -----------------------------------------------------------------------------------


def ended(pool: ProducerPool, *, then: Callable[[], object]) -> None:
    """Something else has ended the transaction before its block is over."""
    with pool.transaction() as tx:
        tx._transaction.finish(ValueError("of whoever ended it"), ())
        then()


def test_a_block_that_is_over_too_late(pool: ProducerPool) -> None:
    """Ended well, it must know that nothing of it was committed; its own error comes out as it is."""
    with pytest.raises(TransactionClosedError, match="has ended: aborted"):
        ended(pool, then=nothing)
    with pytest.raises(ZeroDivisionError):
        ended(pool, then=failing)


def test_an_error_after_the_end_comes_out(pool: ProducerPool) -> None:
    """There is nothing to abort any more, and nothing that would swallow it."""

    def interrupted_before_the_close() -> None:
        with pool.transaction() as tx:
            tx._transaction.abort(None)
            raise AbortTransaction

    with pytest.raises(AbortTransaction):
        interrupted_before_the_close()


@pytest.mark.parametrize(("least", "took", "kept"), [
    (None, 0.9, True), (None, 1.0, False), (0.01, 0.9, True), (0.01, 1.1, False), (0.6, 1.5, True), (99.0, 2.4, True),
    (99.0, 2.6, False),
])  # fmt: skip
def test_what_takes_long_may_have_been_sent_twice(
    pool: ProducerPool,
    script: Script,
    least: float | None,
    took: float,
    kept: bool,  # noqa: FBT001  (the case)
) -> None:
    """Another init follows a slow end, unless the pool's brokers have never been much quicker."""
    retired = watch(pool, ProducerRetired)
    with pool.transaction() as tx:
        transaction = internals.transaction(tx)
        usual = transaction.connection.services.least
        usual.clear()
        usual |= {} if least is None else {"end": least}
        transaction._note_time("end", took)
        assert usual["end"] == min(took, took if least is None else least)
    publish(pool)

    assert (1 if kept else 2) == len(script.clients)
    assert ([] if kept else ["sent twice"]) == [event.reason for event in retired]


@pytest.mark.parametrize("block", [nothing, failing])
def test_a_slow_end(pool: ProducerPool, script: Script, block: Callable[[], object]) -> None:
    """Its producer is retired, be it a commit or an abort."""
    retired = watch(pool, ProducerRetired)
    for call in ("commit", "abort"):
        script.always(call, lambda: time.sleep(1.0))
    with suppress(ZeroDivisionError):
        publish(pool, block=block)

    until(lambda: retired)
    assert ["sent twice"] == [event.reason for event in retired]


def test_what_was_wrong_before_it_was_sent_twice(pool: ProducerPool, script: Script) -> None:
    """The first reason is told."""
    retired = watch(pool, ProducerRetired)
    script.on("commit", fault(FaultKind.OTHER))

    def slowly() -> None:
        with pool.transaction() as tx:
            tx.produce_async("orders", "one")
            internals.transaction(tx)._note_time("end", 99.0)

    with pytest.raises(TransactionError):
        slowly()

    until(lambda: retired)
    assert ["commit failed"] == [event.reason for event in retired]


def test_a_quick_end_is_remembered(pool: ProducerPool) -> None:
    """The least that an end has taken says how far away the brokers are."""
    with pool.transaction() as tx:
        usual = internals.transaction(tx).connection.services.least
        usual["end"] = 0.5
    assert usual["end"] < 0.5
