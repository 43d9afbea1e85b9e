"""What the errors of a transaction say, and which kind they are."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scripted import FaultKind, Script, fault
from wd_di._kafka.port import Fault
from wd_di._transactions.failures import Failures
from wd_di._transactions.hooks import Hooks
from wd_di.errors import (
    AuthorizationError,
    CommitOutcomeUnknownError,
    DeliveryError,
    FencedError,
    RebalancedError,
    Resolution,
    TransactionAbortedError,
    TransactionError,
    TransactionTimedOutError,
)
from wd_di.pool import ProducerPool

NO = Resolution("aborted", "record", "readers skip it", 12.0)
PERHAPS = Resolution("unknown", None, "no right to read", 12.0)


def failures(*, age: float = 1.0, rivals: str = "") -> Failures:
    """Those of a transaction of that age, whose id somebody else may have."""
    return Failures(
        pool="orders",
        id="t-0#1",
        index=0,
        transactional_id="t-0",
        age=age,
        timeout=15.0,
        records=3,
        rivals=lambda: rivals,
    )


@pytest.mark.parametrize(
    ("kind", "age", "expected"),
    [
        (FaultKind.FENCED, 1.0, FencedError),
        (FaultKind.FENCED, 15.0, TransactionTimedOutError),
        (FaultKind.ABORTABLE, 20.0, TransactionAbortedError),
        (FaultKind.REBALANCED, 20.0, RebalancedError),
    ],
)
def test_the_kind_of_an_error(kind: FaultKind, age: float, expected: type[TransactionError]) -> None:
    """Only who is fenced may have been too late; it was, once the coordinator's time is over."""
    assert expected is type(failures(age=age).of_fault("commit", fault(kind)))


def test_a_rival_that_is_known() -> None:
    """It is named; without one nothing is."""
    known = str(failures(rivals="process 7 has it, too").of_fault("commit", fault(FaultKind.FENCED)))
    unknown = str(failures().of_fault("commit", fault(FaultKind.FENCED)))

    assert "of this pool's slot 0: process 7 has it, too. Two owners" in known
    assert "of this pool's slot 0. Two owners" in unknown


def test_refused_offsets() -> None:
    """The error says which call it was; without the right it is no matter of the transaction."""
    assert "send_offsets failed: scripted other" in str(failures().of_offsets(fault(FaultKind.OTHER)))
    assert isinstance(failures().of_offsets(fault(FaultKind.DENIED)), AuthorizationError)


def test_doubt_that_was_resolved() -> None:
    """A no is an abort that may be run again, unless it was fenced: that error stays, and says what was found out."""
    doubt = failures().in_doubt("no answer")
    error = failures().resolved(doubt, NO)
    fenced = failures().resolved(failures().of_fault("commit", fault(FaultKind.FENCED)), NO)

    assert (TransactionAbortedError, "aborted", True) == (type(error), error.outcome, error.safe_to_retry)
    assert doubt is error.__cause__
    assert (FencedError, "aborted") == (type(fenced), fenced.outcome)
    assert str(fenced).endswith("; it was aborted: readers skip it (found out after 12 ms)")
    assert (NO, NO) == (error.resolution, fenced.resolution)


def test_doubt_that_stays() -> None:
    """It says why nothing could be found out."""
    error = failures().resolved(failures().in_doubt("no answer"), PERHAPS)

    assert (CommitOutcomeUnknownError, "unknown") == (type(error), error.outcome)
    assert str(error).endswith("; it couldn't be found out, after 12 ms: no right to read")


# -- on a pool ---------------------------------------------------------------------------------------


def test_the_first_record_that_failed(pool: ProducerPool, script: Script) -> None:
    """Its error is the cause; its delivery raises another one of the same words, without the frames of this one."""
    script.failing.add("orders")
    with pytest.raises(DeliveryError) as caught, pool.transaction() as tx:
        delivery = tx.produce_async("orders", "one")
    mine = delivery.exception(0)

    assert str(mine) == str(caught.value.__cause__)
    assert mine is not caught.value.__cause__


@pytest.mark.parametrize("call", ["produce_async", "produce_sync"])
def test_a_record_on_a_producer_that_broke(pool: ProducerPool, script: Script, call: str) -> None:
    """The error says what was asked, and why it couldn't be."""
    script.on("produce", lambda: break_down(script))
    with pytest.raises(FencedError, match="produce: fenced"), pool.transaction() as tx:
        getattr(tx, call)("orders", "never")


def break_down(script: Script) -> None:
    """Be fenced, and refuse the call for it."""
    raise script.clients[0].break_down(FaultKind.FENCED)


def test_the_wish_to_abort_goes_before_a_failure(pool: ProducerPool) -> None:
    """Who says so after something has failed gets no error."""
    with pool.transaction() as tx:
        try:
            with pool.transaction():
                raise ValueError("inner")  # noqa: TRY301  (the case)
        except ValueError:
            tx.abort_only()


@pytest.mark.parametrize("first", [True, False])
def test_what_starts_the_clock(pool: ProducerPool, first: bool) -> None:  # noqa: FBT001
    """A record that is refused doesn't, and doesn't stop it, either."""
    with pool.transaction() as tx:
        whole = tx.remaining_ms
        if first:
            tx.produce_async("orders", "one")
        with pytest.raises(TypeError):
            tx.produce_async("orders", object())  # type: ignore[arg-type]
        started = internal(tx).first_write is not None

    assert whole == 12_000
    assert first is started


def internal(tx: Any) -> Any:
    """The open transaction behind a handle."""
    return tx._transaction


def test_a_hook_that_is_no_function() -> None:
    """It is refused when it is given, by the name of its time."""
    with pytest.raises(TypeError, match="after_commit takes a function, not int"):
        Hooks().add("after_commit", 5)  # type: ignore[arg-type]


async def test_no_hook_of_a_task_runs_once_it_is_doomed() -> None:
    """As those of a thread."""
    hooks, called = Hooks(), []
    doomed = [False, True]
    hooks.add("before_commit", lambda: called.append(1))
    hooks.add("before_commit", lambda: called.append(2))
    await hooks.run_before_commit_async(lambda: doomed.pop(0))

    assert [1] == called


class Failed:
    """A record that wasn't delivered."""

    topic = "orders"

    def exception(self, timeout: float) -> DeliveryError:
        """Why, at once."""
        assert timeout == 0
        return DeliveryError("message timed out")

    def keep_another(self) -> None:
        """Nothing is kept here."""


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (None, "the first: message timed out"),
        (Fault(FaultKind.OTHER, "timed out"), "the first: message timed out"),
        (Fault(FaultKind.OTHER, "no coordinator"), "the first: message timed out; no coordinator"),
    ],
)
def test_what_is_told_of_records_that_failed(reason: Fault | None, told: str) -> None:
    """What the producer knows besides is said, unless the record says it itself."""
    error = failures().undelivered([Failed()], reason)  # type: ignore[list-item]

    assert str(error).endswith(told)
    assert str(error).startswith("orders: 1 of 3 records weren't delivered, transaction t-0#1 was aborted; ")
