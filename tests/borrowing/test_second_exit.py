"""Who leaves a block twice, by an exit stack or by hand, ends nothing else: not a hook, nor what others have open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from dependency_injector import containers

from tests.scripted import committed, in_thread, make_pool
from wd_di import PoolResource, ProducerPool, lifespan, running

Exit = Callable[..., Any]
WELL = (None, None, None)
FAILED = (ValueError, ValueError("mine"), None)


class Container(containers.DeclarativeContainer):
    """A pool in memory."""

    orders = PoolResource({"deliver": False})


def here(leave: Exit, how: Any) -> Any:
    """Leave in the same thread."""
    return leave(*how)


def elsewhere(leave: Exit, how: Any) -> Any:
    """Leave in another one."""
    return in_thread(lambda: leave(*how))


@pytest.fixture
def pool(kept: Callable[[ProducerPool], ProducerPool]) -> ProducerPool:
    """A pool of one transactional producer in memory."""
    return kept(make_pool())


@pytest.mark.parametrize("where", [here, elsewhere])
@pytest.mark.parametrize("second", [WELL, FAILED], ids=["well", "failed"])
@pytest.mark.parametrize("first", [WELL, FAILED], ids=["well", "failed"])
def test_a_transaction(pool: ProducerPool, first: Any, second: Any, where: Any) -> None:
    """The outcome stands, and its hooks were called once."""
    told: list[str] = []
    scope = pool.transaction()
    tx = scope.__enter__()
    tx.produce_async("orders", "one")
    tx.after_completion(told.append)
    ends = [scope.__exit__(*first), where(scope.__exit__, second)]

    assert [False, False] == ends
    assert ["committed" if first is WELL else "aborted"] == told
    assert (["one"] if first is WELL else []) == committed(pool)
    assert 0 == pool.stats().in_use


@pytest.mark.parametrize("second", [WELL, FAILED], ids=["well", "failed"])
async def test_a_tasks_transaction(second: Any) -> None:
    """So it is for tasks."""
    told: list[str] = []
    async with make_pool() as pool:
        scope = pool.transaction()
        tx = await scope.__aenter__()
        tx.produce_async("orders", "one")
        tx.after_completion(told.append)
        await scope.__aexit__(*WELL)

        assert not await scope.__aexit__(*second)
        assert not await asyncio.create_task(scope.__aexit__(*second))
        assert (["committed"], ["one"]) == (told, committed(pool))


@pytest.mark.parametrize("second", [WELL, FAILED], ids=["well", "failed"])
def test_a_joined_transaction(pool: ProducerPool, second: Any) -> None:
    """The one around it is none of its business any more."""
    with pool.transaction() as outer:
        inner = pool.transaction()
        inner.__enter__()
        inner.__exit__(*WELL)
        outer.produce_async("orders", "one")

        assert not inner.__exit__(*second)
    assert ["one"] == committed(pool)


def test_a_transaction_on_a_held_producer(pool: ProducerPool) -> None:
    """Nor is the next one on the same producer, or the next borrower's."""
    with pool.producer() as producer:
        first = producer.transaction()
        first.__enter__()
        first.__exit__(*WELL)
        with producer.transaction() as tx:
            tx.produce_async("orders", "one")
            first.__exit__(*FAILED)
    with pool.transaction() as tx:
        tx.produce_async("orders", "two")
        first.__exit__(*FAILED)

    assert ["one", "two"] == committed(pool)


def test_a_transaction_that_was_ended_for_it(pool: ProducerPool) -> None:
    """Whoever has given up the scope's transaction has called its hooks; its exit doesn't again."""
    told: list[str] = []
    scope = pool.transaction()
    tx = scope.__enter__()
    tx.after_completion(told.append)
    pool.close(timeout_ms=0, force=True)
    for _ in range(2):
        with suppress(Exception):
            scope.__exit__(*WELL)

    assert ["aborted"] == told


@pytest.mark.parametrize("where", [here, elsewhere])
@pytest.mark.parametrize("second", [WELL, FAILED], ids=["well", "failed"])
def test_a_producer(pool: ProducerPool, second: Any, where: Any) -> None:
    """The slot was given back once, and its next borrower keeps it."""
    checkout = pool.producer()
    checkout.__enter__()
    checkout.__exit__(*WELL)
    with pool.transaction() as tx:
        where(checkout.__exit__, second)
        tx.produce_async("orders", "one")

    assert ["one"] == committed(pool)


async def test_a_tasks_producer() -> None:
    """So it is for tasks."""
    async with make_pool() as pool:
        checkout = pool.producer()
        await checkout.__aenter__()
        await checkout.__aexit__(*WELL)
        async with pool.transaction() as tx:
            await checkout.__aexit__(*FAILED)
            tx.produce_async("orders", "one")

        assert ["one"] == committed(pool)


@pytest.mark.parametrize("make", [make_pool, lambda: running(Container())], ids=["pool", "running"])
@pytest.mark.parametrize("second", [WELL, FAILED], ids=["well", "failed"])
def test_what_opens_pools(make: Any, second: Any) -> None:
    """What is closed is closed."""
    opened = make()
    opened.__enter__()
    opened.__exit__(*WELL)

    assert not opened.__exit__(*second)


@pytest.mark.parametrize(
    ("make", "second"),
    [
        (make_pool, WELL),
        (make_pool, FAILED),
        (lambda: running(Container()), WELL),
        (lambda: running(Container()), FAILED),
        (lambda: lifespan(Container())(None), WELL),  # a failure would be contextlib's own affair
    ],
)
async def test_what_opens_pools_on_a_loop(make: Any, second: Any) -> None:
    """So it is on an event loop."""
    opened = make()
    await opened.__aenter__()
    await opened.__aexit__(*WELL)

    assert not await opened.__aexit__(*second)


@pytest.mark.parametrize("name", ["producer", "transaction"])
def test_what_was_never_entered(pool: ProducerPool, name: str) -> None:
    """Leaving it does nothing."""
    assert not getattr(pool, name)().__exit__(*WELL)
