from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.scripted import FaultKind, Script, aborted, committed, fault, make_pool
from wd_di import Retry
from wd_di._borrowing import scopes
from wd_di._transactions import options
from wd_di.errors import (
    AbortTransaction,
    CommitOutcomeUnknownError,
    DeliveryError,
    FencedError,
    PoolClosedError,
    TransactionAbortedError,
    UnexpectedAbortError,
)
from wd_di.pool import ProducerPool

SOON = Retry(backoff_ms=0)


class Flaky:
    """Produces one record, and fails as often as there are errors."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.runs = 0

    def __call__(self, tx: Any) -> str:
        self.runs += 1
        tx.produce_async("orders", f"run {self.runs}")
        if self.errors:
            raise self.errors.pop(0)
        return f"result {self.runs}"


@pytest.fixture
def pool(script: Script) -> Iterator[ProducerPool]:
    """An open pool of two scripted producers."""
    with make_pool(size=2, commit_timeout_ms=200, abort_timeout_ms=200) as pool:
        yield pool


def test_run(pool):
    """Run calls the function in a transaction, with its arguments, and returns what it returned."""

    def place(tx: Any, value: str, *, key: str) -> str:
        tx.produce_async("orders", value, key)
        return tx.id

    assert pool.run(place, "one", key="k").startswith("t-test-0#")
    assert ["one"] == committed(pool)


def test_run_without_retry(pool):
    """Without a retry the first error is the last."""
    fn = Flaky(DeliveryError("failed"))
    with pytest.raises(DeliveryError):
        pool.run(fn)

    assert 1 == fn.runs


def test_own_errors(pool):
    """The function is called again for the errors it is to be called again for."""
    fn = Flaky(ConnectionError("a"), ConnectionError("b"))
    result = pool.run(fn, retry=Retry(backoff_ms=0, on=(OSError,)))

    assert "result 3" == result
    assert (["run 3"], ["run 1", "run 2"]) == (committed(pool), aborted(pool))


def test_other_errors(pool):
    """Other errors of the function come out at once."""
    fn = Flaky(ValueError("boom"))
    with pytest.raises(ValueError, match="boom"):
        pool.run(fn, retry=Retry(backoff_ms=0, on=(OSError,)))

    assert 1 == fn.runs


def test_attempts(pool):
    """After the last attempt its error comes out."""
    fn = Flaky(*(DeliveryError(str(number)) for number in range(5)))
    with pytest.raises(DeliveryError, match="2"):
        pool.run(fn, retry=SOON)

    assert 3 == fn.runs


def test_aborted_commit(pool, script):
    """A commit that was refused and aborted is tried again, as is a producer that couldn't begin."""
    script.on("begin", fault(FaultKind.OTHER))
    script.on("commit", fault(FaultKind.ABORTABLE))
    fn = Flaky()

    assert "result 2" == pool.run(fn, retry=SOON)
    assert ["run 2"] == committed(pool)


def test_failed_delivery(pool, script):
    """Failed deliveries are tried again, too."""
    script.failing.add("orders")
    fn = Flaky()
    with pytest.raises(DeliveryError):
        pool.run(fn, retry=SOON)

    assert 3 == fn.runs


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (FaultKind.FATAL, CommitOutcomeUnknownError),
        (FaultKind.FENCED, FencedError),
        (FaultKind.RETRIABLE, CommitOutcomeUnknownError),
    ],
)
def test_doubt(pool, script, kind, error):
    """A commit in doubt is never run again, whatever the retry says."""
    script.always("commit", fault(kind))
    fn = Flaky()
    with pytest.raises(error):
        pool.run(fn, retry=Retry(backoff_ms=0, on=(Exception,)))

    assert 1 == fn.runs


def test_unconfirmed_abort(pool, script):
    """Nothing is run again when the abort before it wasn't confirmed."""
    script.on("abort", fault(FaultKind.OTHER))
    fn = Flaky(DeliveryError("failed"))
    with pytest.raises(DeliveryError):
        pool.run(fn, retry=SOON)

    assert 1 == fn.runs


def test_after_a_commit(pool):
    """An error that commits isn't run again although the retry lists it."""

    def fail(tx: Any) -> None:
        tx.produce_async("orders", "once")
        raise KeyError("k")

    recipe = pool.transaction(commit_on=(KeyError,), retry=Retry(backoff_ms=0, on=(KeyError,)))
    with pytest.raises(KeyError):
        scopes.run(recipe, fail)

    assert ["once"] == committed(pool)


def test_outermost_only(pool):
    """Inside another transaction nothing is run again: the outer one is doomed already."""
    fn = Flaky(DeliveryError("failed"))
    with pytest.raises(UnexpectedAbortError), pool.transaction(), pytest.raises(DeliveryError):
        pool.run(fn, retry=SOON)

    assert 1 == fn.runs


def test_hooks_start_anew(pool):
    """Hooks of a run that was aborted don't run after a later commit."""
    log: list[str] = []
    errors = [DeliveryError("failed")]

    def place(tx: Any) -> None:
        tx.after_commit(lambda: log.append(f"committed {tx.id}"))
        tx.after_abort(lambda: log.append(f"aborted {tx.id}"))
        ids.append(tx.id)
        if errors:
            raise errors.pop()

    ids: list[str] = []
    pool.run(place, retry=SOON)

    assert [f"aborted {ids[0]}", f"committed {ids[1]}"] == log


def test_signal(pool):
    """A function that aborts by signal returns None and isn't called again."""
    fn = Flaky(AbortTransaction())

    assert pool.run(fn, retry=SOON) is None
    assert 1 == fn.runs


def test_interrupts(pool):
    """Ctrl-C is never run again."""
    fn = Flaky(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pool.run(fn, retry=SOON)

    assert 1 == fn.runs


def test_closed_pool(pool):
    """A pool that is closed between two runs ends them."""
    fn = Flaky(DeliveryError("failed"))

    def close(tx: Any) -> None:
        tx.after_abort(lambda: pool.close(timeout_ms=100))
        fn(tx)

    with pytest.raises(PoolClosedError):
        pool.run(close, retry=SOON)


def test_pauses(pool, monkeypatch):
    """Between two runs there is a pause that doubles up to its limit, with jitter, and none after the last."""
    pauses: list[float] = []
    monkeypatch.setattr(scopes, "time", SimpleNamespace(sleep=pauses.append))  # the pool's own threads sleep, too
    monkeypatch.setattr(options.random, "uniform", lambda _low, high: high)
    fn = Flaky(*(DeliveryError("failed") for _ in range(5)))
    with pytest.raises(DeliveryError):
        pool.run(fn, retry=Retry(attempts=5, backoff_ms=100, max_backoff_ms=300))

    assert [0.1, 0.2, 0.3, 0.3] == pauses


def test_what_a_retry_does_by_default(monkeypatch):
    """Three runs in all, a tenth of a second before the second, five seconds at most; for no error of the caller's."""
    monkeypatch.setattr(options.random, "uniform", lambda _low, high: high)

    assert Retry(3, 100, 5_000, ()) == Retry()
    assert [0.1, 0.2, 5.0] == [Retry().pause(attempt) for attempt in (1, 2, 9)]


def test_the_least_that_a_retry_does():
    """One run, without a pause; one class needs no tuple."""
    assert (1, 0, 0, (KeyError,)) == dataclasses.astuple(Retry(1, 0, 0, KeyError))


def test_jitter():
    """A pause is between half of its nominal length and all of it."""
    pauses = [Retry(backoff_ms=1000).pause(1) for _ in range(200)]

    assert 0.5 <= min(pauses) < 0.6
    assert 0.9 < max(pauses) <= 1.0


def test_many_attempts():
    """The pause before a late attempt is the limit, not an overflow."""
    assert Retry(attempts=5_000, max_backoff_ms=10).pause(4_000) <= 0.01


def test_aborted_error_is_covered():
    """An aborted transaction is covered unless its error says that it isn't safe."""
    safe, unsafe = TransactionAbortedError("x"), TransactionAbortedError("x")
    unsafe.safe_to_retry = False

    assert (True, False) == (Retry().covers(safe), Retry().covers(unsafe))


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"backoff_ms": -1}, {"max_backoff_ms": -1}])
def test_wrong_retry(wrong):
    """A retry that makes no sense is refused by the field's name."""
    with pytest.raises(ValueError, match=f"Retry.{next(iter(wrong))} is"):
        Retry(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"attempts": True}, {"backoff_ms": 1.5}, {"max_backoff_ms": "1"}, {"on": KeyError("x")}]
)
def test_what_no_retry_takes(wrong):
    """A field of another type is refused by its name."""
    with pytest.raises(TypeError, match=f"^Retry.{next(iter(wrong))} "):
        Retry(**wrong)


def test_run_of_a_generator_function(pool):
    """What only makes a generator has done nothing when its transaction commits, so it is refused."""

    def lazy(tx: Any) -> Iterator[None]:
        tx.produce_async("orders")
        yield

    with pytest.raises(TypeError, match="not a generator function"):
        pool.run(lazy)
