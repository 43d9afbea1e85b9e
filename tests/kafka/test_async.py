"""Tasks on a real broker: what is awaited is stored, and what a cancellation meant is what readers see."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.kafka.readers import values
from tests.pools import Recorder, plain, pool, unique
from tests.storm import Options, on_kafka
from wd_di import AbortTransaction, Delivery, TransactionFinished

if TYPE_CHECKING:
    from wd_di import ProducerPool
    from wd_di.testing import Cluster

LAG = 0.25
"""Seconds that a loop may be late while other processes of the test use the machine."""


async def place(orders: ProducerPool, topic: str, value: str) -> None:
    """Commit one record."""
    async with orders.transaction() as tx:
        tx.produce_async(topic, value)


def test_tasks_commit_and_abort(servers: str, topic: str) -> None:
    """Of the transactions of many tasks a read_committed reader sees exactly the committed ones."""

    async def work(orders: ProducerPool, number: int) -> None:
        async with orders.transaction() as tx:
            await tx.produce_sync(topic, f"{number}-a")
            tx.produce_async(topic, f"{number}-b")
            if number % 3 == 0:
                raise AbortTransaction

    async def main(orders: ProducerPool) -> None:
        await asyncio.gather(*(work(orders, number) for number in range(20)))

    with pool(servers, size=3) as orders:
        asyncio.run(main(orders))

    assert sorted(f"{number}-{part}" for number in range(20) if number % 3 for part in "ab") == values(servers, topic)


def test_deliveries_are_awaited(servers: str, topic: str) -> None:
    """Thousands of deliveries are awaited at once; awaited calls don't wait out linger.ms."""

    async def answer(delivery: Delivery) -> int | None:
        return (await delivery).offset

    async def main(clicks: ProducerPool) -> tuple[list[int | None], float]:
        async with clicks.producer() as producer:
            deliveries = [producer.produce_async(topic, str(number)) for number in range(5_000)]
            await producer.flush()
            offsets = await asyncio.gather(*map(answer, deliveries))
            started = time.monotonic()
            await producer.produce_sync(topic, "last")
            return offsets, time.monotonic() - started

    with plain(servers, size=1, kafka={"linger.ms": 2_000}) as clicks:
        offsets, took = asyncio.run(main(clicks))

    assert list(range(5_000)) == offsets
    assert took < 1.5
    assert 5_001 == len(values(servers, topic))


def test_cancelled_during_commit(servers: str, topic: str) -> None:
    """Whatever its task was told when, a transaction's event says what readers see."""
    recorder = Recorder()

    async def main(orders: ProducerPool) -> int:
        tasks = [asyncio.create_task(place(orders, topic, str(number))) for number in range(60)]
        for number, task in enumerate(tasks):
            asyncio.get_running_loop().call_later(number * 0.005, task.cancel)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        return sum(isinstance(end, asyncio.CancelledError) for end in ends)

    with pool(servers, size=3, observer=recorder) as orders:
        cancelled = asyncio.run(main(orders))
        stats = orders.stats()

    committed = [event for event in recorder.of(TransactionFinished) if event.outcome == "committed"]
    assert cancelled > 0
    assert (3, 0) == (stats.idle, stats.in_use)
    assert len(committed) == len(values(servers, topic))


def test_loop_goes_on(servers: str, topic: str) -> None:
    """The loop is never late while its tasks open a pool, produce, commit and abort."""

    async def main(orders: ProducerPool) -> float:
        worst, done = 0.0, asyncio.gather(*(place(orders, topic, str(number)) for number in range(30)))
        while not done.done():
            before = time.monotonic()
            await asyncio.sleep(0.001)
            worst = max(worst, time.monotonic() - before)
        await done
        return worst

    orders = pool(servers, size=2)
    try:
        worst = asyncio.run(main(orders))
    finally:
        orders.close()

    assert worst < LAG
    assert 30 == len(values(servers, topic))


@pytest.mark.timeout(120)
def test_storm(local_kafka: Cluster, servers: str) -> None:
    """Threads and cancelled tasks on one pool: exactly what was reported as committed is read back, once."""
    topic = local_kafka.create_topic(unique("storm"), 3)
    figures = on_kafka(servers, topic, Options(seconds=5.0, pace=0.03))

    assert figures.right, figures
    assert figures.committed > 10
