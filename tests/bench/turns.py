"""How a turn is measured that isn't one of threads: so many records at once, or tasks on an event loop."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tests.bench.workloads import Turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Work = Callable[[float], Awaitable[list[float]]]
    """What one task does until then, of which it returns how long each call took."""


def whole(units: int, do: Callable[[], object]) -> Turn:
    """Do so many units in one call: what is only queued costs most of its time later, on other threads."""
    began, used = time.perf_counter(), time.process_time()
    do()
    return Turn(units, time.perf_counter() - began, cpu=time.process_time() - used)


async def by_tasks(tasks: int, seconds: float, work: Work) -> Turn:
    """Let each task work until the time is over; each call is one unit."""
    began, used = time.perf_counter(), time.process_time()
    done = await asyncio.gather(*(work(began + seconds) for _ in range(tasks)))
    lasted, spent = time.perf_counter() - began, time.process_time() - used
    calls = [each for took in done for each in took]
    return Turn(len(calls), lasted, calls, spent)


async def again(until: float, do: Callable[[], Awaitable[object]]) -> list[float]:
    """Await it again and again until then, at least once, and return how long each took."""
    took: list[float] = []
    began = time.perf_counter()
    while not took or began < until:
        await do()
        ended = time.perf_counter()
        took.append(ended - began)
        began = ended
    return took
