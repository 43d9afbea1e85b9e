"""What a checkout costs by itself, when nobody waits and when eight do: no record is sent.

Where nobody waits it is counted in processor time, which other programs of the machine disturb least.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

from tests.bench.comparing import START_TIMEOUT_S
from tests.bench.rivals import (
    PSYCOPG,
    AsyncBorrowed,
    AsyncIdle,
    Barging,
    Borrowed,
    BorrowedAsync,
    Fair,
    Idle,
    Lent,
    Lifo,
    psycopg_pool,
    queue_pool,
)
from tests.bench.workloads import Target, Turn, Workload
from wd_di import Event, PoolSettings, ProducerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from tests.bench.rivals import Lend
    from tests.bench.workloads import Place, Way

SLOTS, THREADS = 4, 8
HOLDS = ((0.0002, 0.85, 8.0), (0.002, 0.95, 3.0))
"""Seconds of a hold; the least throughput that is asked, and the most that one in a hundred waits, in fair turns."""
OURS, BASE = "wd_di", "a deque and a lock"
POOREST, WAITED = "poorest share", "p99 wait, turns"
AT_ONCE = 500
"""Checkouts between two looks at the clock."""
ALL_S = 0.5
"""A turn needn't be longer where nobody waits."""
FLAT = 1.5


def memory(size: int) -> ProducerPool:
    """Return an open pool without Kafka; close it."""
    opened = ProducerPool(PoolSettings(deliver=False, size=size), name=f"bench-{uuid.uuid4().hex[:8]}")
    opened.open()
    return opened


def idle(place: Place) -> Iterator[Workload]:
    """Give one thread, and then one task, that takes and gives back what nobody else wants."""
    seconds = min(place.effort.seconds, ALL_S)
    with ExitStack() as stack:
        pool = stack.enter_context(memory(SLOTS))
        lends: dict[str, Lend] = {BASE: partial(Borrowed, Idle(range(SLOTS))), OURS: pool.producer}
        lends |= stack.enter_context(psycopg_pool(SLOTS)) | stack.enter_context(queue_pool(SLOTS))
        asked = [Target(OURS, "cpu", 2.5, "at most", against=BASE)]
        if PSYCOPG in lends:
            asked.append(Target(OURS, "cpu", 0.5, "at most", against=PSYCOPG))
        ways: dict[str, Way] = {name: partial(taking, seconds, lend) for name, lend in lends.items()}
        yield Workload(1, "checkout and return, idle pool, one thread", "checkouts", ways, "cpu", asked)
        ways = {
            BASE: partial(_awaiting, seconds, partial(BorrowedAsync, Idle(range(SLOTS)))),
            "a deque and futures, for one loop only": partial(
                _awaiting, seconds, partial(AsyncBorrowed, AsyncIdle(range(SLOTS)))
            ),
            OURS: partial(_awaiting, seconds, pool.producer),
        }
        asked = [Target(OURS, "cpu", 3.5, "at most", against=BASE)]
        yield Workload(1, "checkout and return, idle pool, one task", "checkouts", ways, "cpu", asked)


def waiting(place: Place) -> Iterator[Workload]:
    """Give eight threads over four items, which they hold for a while."""
    for hold, least, most in HOLDS:
        with ExitStack() as stack:
            items = range(SLOTS)
            lends: dict[str, Lend] = {
                "a condition, barging": partial(Lent, Barging(items)),
                "a LIFO queue": partial(Lent, Lifo(items)),
                "a fair queue by hand": partial(Lent, Fair(items)),
                OURS: stack.enter_context(memory(SLOTS)).producer,
            }
            lends |= stack.enter_context(psycopg_pool(SLOTS)) | stack.enter_context(queue_pool(SLOTS))
            asked = (
                Target(OURS, "rate", least, "at least", against="a condition, barging"),
                Target(OURS, POOREST, 0.5, "at least"),
                Target(OURS, WAITED, most, "at most"),
            )
            ways: dict[str, Way] = {
                name: partial(_handing, place.effort.seconds, lend, hold, THREADS, SLOTS)
                for name, lend in lends.items()
            }
            title = f"{THREADS} threads over {SLOTS}, each holds for {1000 * hold:g} ms"
            yield Workload(2, title, "checkouts", ways, targets=asked)


def growth(place: Place) -> Iterator[Workload]:
    """Give the same with more of everything: each way is a size, and the first is the base."""
    yield from _of_slots(place)
    yield from _of_waiting_threads(place)
    yield from _of_waiting_tasks(place)


def _of_slots(place: Place) -> Iterator[Workload]:
    seconds = min(place.effort.seconds, ALL_S)
    with ExitStack() as stack:
        pools = {count: stack.enter_context(memory(count)) for count in (1, 10, 100)}
        heard = stack.enter_context(memory(1))
        for _ in range(1000):
            heard.observer.subscribe(Event, lambda _: None)
        many = cycle([stack.enter_context(memory(1)) for _ in range(100)])
        ways: dict[str, Way] = {
            _counted(count, "slot"): partial(taking, seconds, each.producer) for count, each in pools.items()
        }
        ways["1 slot, 1,000 subscribers"] = partial(taking, seconds, heard.producer)
        ways["100 pools of 1 slot, in turn"] = partial(taking, seconds, lambda: next(many).producer())
        yield Workload(15, "checkout and return, idle pool, as it grows", "checkouts", ways, "cpu", _flat(ways))


def _of_waiting_threads(place: Place) -> Iterator[Workload]:
    with memory(SLOTS) as pool:
        fair: Lend = partial(Lent, Fair(range(SLOTS)))

        def ways_of(lend: Lend, counts: tuple[int, ...]) -> Iterator[tuple[str, Way]]:
            for count in counts:
                yield (
                    _counted(count, "waiting thread"),
                    partial(_handing, min(place.effort.seconds, 1.0), lend, HOLDS[0][0], SLOTS + count, SLOTS),
                )

        ways = dict(ways_of(pool.producer, (1, 10, 100, 1000)))
        by_hand = {f"a fair queue by hand, {name}": way for name, way in ways_of(fair, (1, 1000))}
        title = f"checkouts from {SLOTS} slots, held for 0.2 ms, as more threads wait"
        yield Workload(15, title, "checkouts", ways | by_hand, "cpu", _flat(ways))


def _of_waiting_tasks(place: Place) -> Iterator[Workload]:
    with memory(SLOTS) as pool:
        ways: dict[str, Way] = {
            _counted(count, "waiting task"): partial(
                _handing_to_tasks, min(place.effort.seconds, ALL_S), pool.producer, SLOTS + count
            )
            for count in (1, 10, 100, 1000)
        }
        title = f"checkouts from {SLOTS} slots, as more tasks wait"
        yield Workload(15, title, "checkouts", ways, "cpu", _flat(ways))


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _flat(ways: dict[str, Way]) -> list[Target]:
    first, *others = ways
    return [Target(each, "cpu", FLAT, "at most", against=first) for each in others]


def taking(seconds: float, lend: Lend) -> Turn:
    """Take and give back until the time is over."""
    taken, each = 0, range(AT_ONCE)
    began, used = time.perf_counter(), time.process_time()
    while (lasted := time.perf_counter() - began) < seconds or not taken:
        for _ in each:
            with lend():
                pass
        taken += AT_ONCE
    return Turn(taken, lasted, cpu=time.process_time() - used)


def _awaiting(seconds: float, lend: Callable[[], AbstractAsyncContextManager[Any]]) -> Turn:
    async def take() -> Turn:
        taken, each = 0, range(AT_ONCE)
        began, used = time.perf_counter(), time.process_time()
        while (lasted := time.perf_counter() - began) < seconds or not taken:
            for _ in each:
                async with lend():
                    pass
            taken += AT_ONCE
        return Turn(taken, lasted, cpu=time.process_time() - used)

    return asyncio.run(take())


def _handing(seconds: float, lend: Lend, hold: float, threads: int, slots: int) -> Turn:
    """Let threads take, hold and give back; a wait counts from the wish to the item."""
    together = threading.Barrier(threads + 1)

    def work(_: int) -> list[float]:
        waits: list[float] = []
        together.wait(START_TIMEOUT_S)
        end = time.perf_counter() + seconds
        while not waits or time.perf_counter() < end:
            began = time.perf_counter()
            with lend():
                waits.append(time.perf_counter() - began)
                time.sleep(hold)
        return waits

    with ThreadPoolExecutor(threads) as executor:
        working = executor.map(work, range(threads))
        together.wait(START_TIMEOUT_S)
        began, used = time.perf_counter(), time.process_time()
        done = list(working)
        lasted, spent = time.perf_counter() - began, time.process_time() - used
    waits = sorted(each for waited in done for each in waited)
    fair_turn = hold * (threads - slots) / slots
    also = {
        POOREST: min(map(len, done)) * threads / len(waits),
        WAITED: waits[int(0.99 * len(waits))] / fair_turn,
    }
    return Turn(len(waits), lasted, cpu=spent, also=also)


def _handing_to_tasks(seconds: float, lend: Callable[[], AbstractAsyncContextManager[Any]], tasks: int) -> Turn:
    """Let tasks take, let others run, and give back."""

    async def work(end: float) -> int:
        taken = 0
        while not taken or time.perf_counter() < end:
            async with lend():
                await asyncio.sleep(0)
            taken += 1
        return taken

    async def together() -> Turn:
        began, used = time.perf_counter(), time.process_time()
        taken = await asyncio.gather(*(work(began + seconds) for _ in range(tasks)))
        return Turn(sum(taken), time.perf_counter() - began, cpu=time.process_time() - used)

    return asyncio.run(together())
