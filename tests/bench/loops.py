"""Whether tasks commit as much as threads do, and how late an event loop is meanwhile.

On few cores a loop is late whoever commits beside it: so it is watched beside producers by hand, too.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tests.bench.clients import RECORD, TIMEOUT_S, pool, topic, transactional
from tests.bench.comparing import turn
from tests.bench.turns import again, by_tasks
from tests.bench.workloads import MILLI, Target, Workload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from confluent_kafka import Producer

    from tests.bench.workloads import Place, Turn, Way
    from wd_di import ProducerPool

SLOTS, TASKS = 8, 64
RECORDS = 10
TICK_S = 0.001
"""What a task sleeps again and again, to see how late it wakes."""

ON_THREADS = "8 threads"
ON_LOOP = "64 tasks"
LAG = "loop lag p99, ms"


def committing(place: Place) -> Iterator[Workload]:
    """Give tasks of one loop against threads, over the same pool."""
    servers, to, seconds = place.kafka.bootstrap_servers, topic(place.kafka, "loops"), place.effort.seconds
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        ours = stack.enter_context(pool(servers, SLOTS, transactions=True))
        idle = deque(stack.enter_context(each) for each in transactional(servers, SLOTS))
        executor = stack.enter_context(ThreadPoolExecutor(SLOTS))
        ways: dict[str, Way] = {
            ON_THREADS: partial(turn, SLOTS, seconds, lambda _: _on_thread(ours, to)),
            ON_LOOP: lambda: runner.run(_watched(_tasks(seconds, on_task))),
            "64 tasks, by hand in an executor": lambda: runner.run(_watched(_tasks(seconds, in_executor))),
        }

        async def on_task() -> None:
            async with ours.transaction() as tx:
                for _ in range(RECORDS):
                    tx.produce_async(to, RECORD)

        async def in_executor() -> None:
            await asyncio.get_running_loop().run_in_executor(executor, _by_hand, idle, to)

        targets = [
            Target(ON_LOOP, "rate", 0.95, "at least", against=ON_THREADS),
            Target(ON_LOOP, LAG, 2.0, "at most"),
        ]
        title = f"transactions of {RECORDS} records over {SLOTS} slots, {place.brokers}"
        yield Workload(17, title, "transactions", ways, targets=targets)


def _on_thread(ours: ProducerPool, to: str) -> int:
    with ours.transaction() as tx:
        for _ in range(RECORDS):
            tx.produce_async(to, RECORD)
    return 1


def _by_hand(idle: deque[Producer], to: str) -> None:
    producer = idle.popleft()  # as many as there are threads
    producer.begin_transaction()
    for _ in range(RECORDS):
        producer.produce(to, RECORD)
    producer.commit_transaction(TIMEOUT_S)
    idle.append(producer)


async def _tasks(seconds: float, commit: Callable[[], Awaitable[object]]) -> Turn:
    return await by_tasks(TASKS, seconds, partial(again, do=commit))


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
