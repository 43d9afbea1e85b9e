# ruff: noqa: PT012  (what a transaction's block does is the case)
"""When a transaction's hooks run, with what, and what comes of their errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.backends import Backend
from wd_di import ErrorOccurred, ProducerPool, PropagationError

if TYPE_CHECKING:
    from wd_di import Transaction


def hook_all(tx: Transaction, log: list[str]) -> None:
    """Note every hook that runs."""
    tx.after_completion(lambda outcome: log.append(f"completion 1 {outcome}"))
    tx.before_commit(lambda: log.append("before"))
    tx.after_commit(lambda: log.append("commit"))
    tx.after_abort(lambda: log.append("abort"))
    tx.after_completion(lambda outcome: log.append(f"completion 2 {outcome}"))


def test_hooks_of_a_commit(backend: Backend) -> None:
    """A commit runs before_commit, then after_commit and after_completion in the order of their registration."""
    pool, log = backend.pool(), []
    with pool.transaction() as tx:
        hook_all(tx, log)
        tx.produce_async(backend.topic(), "one")
        log.append("body")

    assert ["body", "before", "completion 1 committed", "commit", "completion 2 committed"] == log


def test_hooks_of_an_abort(backend: Backend) -> None:
    """An abort runs after_abort and after_completion only."""
    pool, log = backend.pool(), []
    with pytest.raises(ValueError, match="boom"), pool.transaction() as tx:
        hook_all(tx, log)
        tx.produce_async(backend.topic(), "never")
        raise ValueError("boom")

    assert ["completion 1 aborted", "abort", "completion 2 aborted"] == log


def test_after_hooks_stand_outside(backend: Backend) -> None:
    """When after_commit runs, the records are visible, the slot is back and no transaction is current."""
    pool, topic, seen = backend.pool(), backend.topic(), []
    with pool.transaction() as tx:
        tx.produce_async(topic, "one")
        tx.after_commit(lambda: seen.append((backend.values(topic), pool.stats().in_use, is_open(pool))))

    assert [(["one"], 0, False)] == seen


def test_before_commit_is_inside(backend: Backend) -> None:
    """What before_commit produces belongs to the transaction."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.before_commit(lambda: tx.produce_async(topic, "by the hook"))
        tx.produce_async(topic, "by the block")

    assert ["by the block", "by the hook"] == backend.values(topic)
    assert ["committed"] == backend.outcomes()


def test_an_error_before_the_commit_aborts(backend: Backend) -> None:
    """What before_commit raises aborts and comes out."""
    pool, error, log = backend.pool(), ValueError("not yet"), []
    with pytest.raises(ValueError, match="not yet") as caught, pool.transaction() as tx:
        tx.before_commit(raiser(error))
        tx.produce_async(backend.topic(), "never")
        hook_all(tx, log)

    assert error is caught.value
    assert ["completion 1 aborted", "abort", "completion 2 aborted"] == log


def test_an_error_after_the_commit_is_told(backend: Backend) -> None:
    """What after_commit raises is an event; the commit stands, and the other hooks run."""
    pool, topic, error, log = backend.pool(), backend.topic(), ValueError("too late"), []
    with pool.transaction() as tx:
        tx.produce_async(topic, "one")
        tx.after_commit(raiser(error))
        tx.after_commit(lambda: log.append("next"))

    assert ["one"] == backend.values(topic)
    assert ["next"] == log
    assert [("transaction.after_commit", error)] == [(event.where, event.error) for event in backend.of(ErrorOccurred)]


def raiser(error: Exception) -> object:
    """Return a hook that raises."""

    def hook() -> None:
        raise error

    return hook


def is_open(pool: ProducerPool) -> bool:
    """Whether this thread has a transaction open."""
    try:
        with pool.transaction(propagation="mandatory"):
            return True
    except PropagationError:
        return False
