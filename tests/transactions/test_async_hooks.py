from __future__ import annotations

import asyncio

import anyio
import pytest

from wd_di.testing import FakePool


async def test_a_cancelled_hook_stops_no_other() -> None:
    """Cancelled in a coroutine hook, a task calls the hooks after it, too, and then is cancelled."""
    inside, told = asyncio.Event(), []

    async def wait() -> None:
        inside.set()
        await asyncio.Event().wait()

    async def work(pool: FakePool) -> None:
        async with pool.transaction() as tx:
            tx.after_commit(wait)
            tx.after_completion(told.append)

    with FakePool() as pool:
        task = asyncio.create_task(work(pool))
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert ["committed"] == told


async def test_plain_hooks_run_in_a_cancelled_scope() -> None:
    """A cancel scope of anyio, which cancels every await again, keeps only coroutine hooks from their end."""
    told: list[str] = []

    with FakePool() as pool, anyio.CancelScope() as scope:
        async with pool.transaction() as tx:
            tx.after_completion(lambda _: asyncio.sleep(0))
            tx.after_completion(told.append)
            tx.before_commit(scope.cancel)

    assert scope.cancelled_caught
    assert ["committed"] == told


async def test_a_hook_that_ends_its_task_stops_no_other() -> None:
    """What no ``except Exception`` catches comes out when the others have run, and beats a cancellation."""
    told: list[str] = []

    async def fail() -> None:
        raise asyncio.CancelledError

    def leave(_: str) -> None:
        raise GeneratorExit("at last")

    async def work(pool: FakePool) -> None:
        async with pool.transaction() as tx:
            tx.after_commit(fail)
            tx.after_completion(leave)
            tx.after_completion(told.append)

    with FakePool() as pool, pytest.raises(GeneratorExit, match="at last"):
        await work(pool)

    assert ["committed"] == told
