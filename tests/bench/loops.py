"""Whether tasks commit as much as threads do, and how late an event loop is meanwhile."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tests.bench.clients import RECORD, pool, topic
from tests.bench.comparing import turn
from tests.bench.turns import again, by_tasks
from tests.bench.workloads import MILLI, Target, Workload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from tests.bench.workloads import Place, Turn, Way
    from wd_di import ProducerPool

SLOTS, TASKS = 8, 64
RECORDS = 10
TICK_S = 0.001
"""What a task sleeps again and again, to see how late it wakes."""

THREADS_ALONE = "8 threads"
ON_LOOP = "64 tasks"
LAG = "loop lag p99, ms"


def committing(place: Place) -> Iterator[Workload]:
    """Give tasks of one loop against threads, over the same pool."""
    servers, to, seconds = place.kafka.bootstrap_servers, topic(place.kafka, "loops"), place.effort.seconds
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        ours = stack.enter_context(pool(servers, SLOTS, transactions=True))
        threads = partial(turn, SLOTS, seconds, lambda _: _on_thread(ours, to))
        ways: dict[str, Way] = {
            THREADS_ALONE: threads,
            ON_LOOP: lambda: runner.run(_watched(by_tasks(TASKS, seconds, lambda until: again(until, on_task)))),
            "8 threads beside a loop": lambda: runner.run(_watched(asyncio.to_thread(threads))),
        }

        async def on_task() -> None:
            async with ours.transaction() as tx:
                for _ in range(RECORDS):
                    tx.produce_async(to, RECORD)

        targets = [
            Target(ON_LOOP, "rate", 0.95, "at least", against=THREADS_ALONE),
            Target(ON_LOOP, LAG, 2.0, "at most"),
        ]
        title = f"transactions of {RECORDS} records over {SLOTS} slots, {place.brokers}"
        yield Workload(17, title, "transactions", ways, targets=targets)


def _on_thread(ours: ProducerPool, to: str) -> int:
    with ours.transaction() as tx:
        for _ in range(RECORDS):
            tx.produce_async(to, RECORD)
    return 1


async def _watched(working: Awaitable[Turn]) -> Turn:
    """Do the work, and measure beside it how late the loop is."""
    over = asyncio.Event()
    watching = asyncio.create_task(_lags(over))
    done = await working
    over.set()
    lags = sorted(await watching)
    return replace(done, also={LAG: MILLI * lags[int(0.99 * len(lags))]})


async def _lags(over: asyncio.Event) -> list[float]:
    found: list[float] = []
    while not found or not over.is_set():
        due = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        found.append(time.perf_counter() - due)
    return found
