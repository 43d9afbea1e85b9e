"""How the benchmarks' turns on a loop count. What they measure needs a broker."""

from __future__ import annotations

import asyncio
from functools import partial

from tests.bench.loops import LAG, _watched
from tests.bench.turns import again, by_tasks, whole


async def test_each_task_calls_at_least_once():
    """Each call is a unit, also of a turn that has no time."""
    took = await by_tasks(3, 0, partial(again, do=lambda: asyncio.sleep(0)))

    assert (3, 3) == (took.units, len(took.calls))
    assert took.rate == 3 / took.seconds


async def test_a_task_goes_on_until_then():
    """All tasks end together, so a turn is as long as it should be."""
    took = await by_tasks(2, 0.05, partial(again, do=lambda: asyncio.sleep(0)))

    assert took.units > 2
    assert took.seconds >= 0.05


async def test_a_loop_is_watched():
    """A task that blocks the loop makes it late."""

    async def blocks():
        await asyncio.sleep(0.01)
        return whole(1, lambda: sum(range(1_000_000)))

    took = await _watched(blocks())

    assert took.also[LAG] > 1000 * took.seconds / 2


def test_a_whole_is_one_call_of_many_units():
    """What is only queued costs most of its time later."""
    took = whole(1_000, lambda: sum(range(100_000)))

    assert (1_000, ()) == (took.units, took.calls)
    assert took.cpu > 0
