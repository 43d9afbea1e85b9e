"""What an awaited publish costs: of one task alone, and of many that share one producer."""

from __future__ import annotations

import asyncio
import importlib.util
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from confluent_kafka.aio import AIOProducer

from tests.bench.clients import RECORD, delivered, pool, raw, topic
from tests.bench.turns import again, by_tasks
from tests.bench.workloads import Target, Workload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.bench.turns import Work
    from tests.bench.workloads import Place, Turn
    from wd_di import ProducerPool

SHARE = 1_000
CROWDS = ((64, 1.2, 16), (SHARE, 1.0, 64))
"""How many tasks; how many times what aiokafka does is asked of a pool; and `AIOProducer`'s best batch, of 4 to all."""
LINGER_MS, LONGER_MS = 0.2, 1
"""For how long a shared producer collects records. 64 tasks that all wait can't do more than 64 in each such time and a
round trip; with 0, most records would be a request of their own."""
BATCH_BYTES = 1_000_000
"""What librdkafka puts into a batch at most; with the 16 KB of aiokafka's own, many tasks wait for one another."""

EXECUTOR = "produce and flush, in an executor"
EACH = "wd_di: a checkout each"
ONE = "wd_di: one checkout for each task"
LONGER = "the same, linger.ms=1"
AIOKAFKA = "aiokafka, batches of 1 MB"
AIO = "AIOProducer"
AIO_TUNED = "AIOProducer, its best batch, 10 ms"


def alone(place: Place) -> Iterator[Workload]:
    """Give one task that awaits each of its records."""
    servers, to = place.kafka.bootstrap_servers, topic(place.kafka, "alone")
    with _loop() as (runner, clients), raw(servers) as producer, pool(servers, 5) as ours:
        aio = runner.run(_aio(clients, servers))

        async def in_executor() -> None:
            await asyncio.get_running_loop().run_in_executor(None, delivered, producer, to)

        publishes: dict[str, Callable[[], Awaitable[object]]] = {
            EXECUTOR: in_executor,
            EACH: lambda: _by_pool(ours, to),
            AIO: lambda: _by_aio(aio, to),
        }
        ways = {name: partial(_turn, runner, place, 1, _each(publish)) for name, publish in publishes.items()}
        targets = [
            Target(EACH, "time", 1.0, "at most", against=EXECUTOR),
            Target(EACH, "time", 0.05, "at most", against=AIO),
        ]
        title = f"one task that awaits each of its records, {place.brokers}"
        yield Workload(9, title, "records", ways, "time", targets)


def crowds(place: Place) -> Iterator[Workload]:
    """Give many tasks that await each of their records, on one producer."""
    servers, to = place.kafka.bootstrap_servers, topic(place.kafka, "crowds")
    for tasks, asked, batch in CROWDS:
        with (
            _loop() as (runner, clients),
            pool(servers, 1, share=SHARE, linger_ms=LINGER_MS) as ours,
            pool(servers, 1, share=SHARE, linger_ms=LONGER_MS) as longer,
        ):
            work = runner.run(_others(clients, servers, to, batch))
            work[EACH] = _each(lambda: _by_pool(ours, to))
            work[ONE] = partial(_in_one, ours, to)
            work[LONGER] = partial(_in_one, longer, to)
            ways = {name: partial(_turn, runner, place, tasks, each) for name, each in work.items()}
            targets = [
                Target(ONE, "rate", asked, "at least", against=AIOKAFKA),
                Target(EACH, "rate", 0.8, "at least", against=AIOKAFKA),
                *(Target(own, "cpu", 1.0, "at most", against=AIOKAFKA) for own in (ONE, EACH)),
                *(Target(own, "rate", 1.0, "at least", against=AIO_TUNED) for own in (ONE, EACH)),
            ]
            title = f"{tasks:,} tasks that await each of their records, {place.brokers}"
            there = [each for each in targets if each.against in ways]
            yield Workload(10, title, "records", ways, targets=there)


# -- how they publish ------------------------------------------------------------------------------


async def _by_pool(ours: ProducerPool, to: str) -> None:
    async with ours.producer() as producer:
        await producer.produce_sync(to, RECORD)


async def _by_aio(aio: AIOProducer, to: str) -> None:
    await (await aio.produce(to, RECORD))


async def _in_one(ours: ProducerPool, to: str, until: float) -> list[float]:
    async with ours.producer() as producer:
        return await again(until, lambda: producer.produce_sync(to, RECORD))


def _each(publish: Callable[[], Awaitable[object]]) -> Work:
    return partial(again, do=publish)


def _turn(runner: asyncio.Runner, place: Place, tasks: int, work: Work) -> Turn:
    return runner.run(by_tasks(tasks, place.effort.seconds, work))


# -- other clients ---------------------------------------------------------------------------------


async def _others(clients: AsyncExitStack, servers: str, to: str, batch: int) -> dict[str, Work]:
    """Return the ways of other clients; of aiokafka, which comes first, if it is installed."""
    work: dict[str, Work] = {}
    for name, options in ((AIOKAFKA, {"max_batch_size": BATCH_BYTES}), ("aiokafka", {})):
        if producer := await _aiokafka(clients, servers, **options):
            work[name] = _each(partial(producer.send_and_wait, to, RECORD))
    work[AIO] = _each(partial(_by_aio, await _aio(clients, servers), to))
    tuned = await _aio(clients, servers, batch_size=batch, buffer_timeout=0.01)
    work[AIO_TUNED] = _each(partial(_by_aio, tuned, to))
    return work


async def _aiokafka(clients: AsyncExitStack, servers: str, **options: Any) -> Any:
    if not importlib.util.find_spec("aiokafka"):
        return None
    from aiokafka import AIOKafkaProducer

    producer = AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True, **options)
    return await clients.enter_async_context(producer)


async def _aio(clients: AsyncExitStack, servers: str, **options: Any) -> AIOProducer:
    settings = {"bootstrap.servers": servers, "enable.idempotence": True, "log_level": 0}
    return await clients.enter_async_context(AIOProducer(settings, **options))


@contextmanager
def _loop() -> Iterator[tuple[asyncio.Runner, AsyncExitStack]]:
    """Give a loop, and what closes on it at the end."""
    with asyncio.Runner() as runner:
        clients = AsyncExitStack()
        try:
            yield runner, clients
        finally:
            runner.run(clients.aclose())
