"""How many Python calls the hot paths take: figures that no noise can blur, so that a slower shape shows at once."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from dependency_injector import containers

import wd_di
from tests import internals
from tests.pools import until
from tests.scripted import PATIENCE, make_pool, plain_pool
from wd_di import PoolResource, ProducerPool, Transaction, inject, injected
from wd_di._concurrency.workers import Poller
from wd_di._kafka.memory import MemoryClient
from wd_di._records.sender import SERVE_EVERY

OURS = str(Path(wd_di.__file__).parent)
IDS = {"deliver": False, "transactional_id": "c-{pool}-{index}-{pid}"}


class Container(containers.DeclarativeContainer):
    """A pool in memory."""

    orders = PoolResource(IDS)


@inject
def empty(tx: Transaction = injected(Container.orders.transaction)) -> None:
    """A transaction that sends nothing."""


def calls(fn: Callable[[], object]) -> Counter[str]:
    """The Python calls of ``fn``, by name, without its own; what is done once has been done before."""
    seen: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            seen[f"{frame.f_code.co_filename.removeprefix(OURS)}:{frame.f_code.co_qualname}"] += 1

    for _ in range(3):
        fn()
    gc.disable()  # the garbage of earlier tests calls back when it is collected
    sys.setprofile(note)
    try:
        fn()
    finally:
        sys.setprofile(None)
        gc.enable()
    seen.subtract([f"{fn.__code__.co_filename.removeprefix(OURS)}:{fn.__code__.co_qualname}"])
    return +seen


@pytest.fixture(autouse=True)
def _no_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where trio is loaded, as it is by plugins of pytest, each way in asks it whether it runs."""
    monkeypatch.delitem(sys.modules, "trio.lowlevel", raising=False)


@pytest.fixture
def pool() -> Iterator[ProducerPool]:
    """An open plain pool."""
    with plain_pool() as pool:
        yield pool


def test_an_idle_checkout_and_return(pool: ProducerPool) -> None:
    """Taking and giving back an idle producer is less than a dozen calls."""

    def checkout() -> None:
        with pool.producer():
            pass

    made = calls(checkout)

    assert made.total() <= 11, made


def test_produce_sync_in_an_open_checkout(pool: ProducerPool) -> None:
    """A record and its answer, the in-memory client included."""
    with pool.producer() as producer:
        made = calls(lambda: producer.produce_sync("orders", b"value"))

    assert made.total() <= 43, made


def test_produce_async_in_an_open_checkout(pool: ProducerPool) -> None:
    """A record without waiting for its answer."""
    with pool.producer() as producer:
        made = calls(lambda: producer.produce_async("orders", b"value"))

    assert made.total() <= 12, made


def test_an_empty_transaction() -> None:
    """What is needed by a first record only isn't made."""

    def transaction() -> None:
        with pool.transaction():
            pass

    with make_pool() as pool:
        made = calls(transaction)

    assert made.total() <= 39, made


def test_an_injected_empty_transaction() -> None:
    """With all that the container does for it."""
    container = Container()
    container.wire(modules=[__name__])
    try:
        made = calls(lambda: empty())  # noqa: PLW0108  (injected functions are looked up at the call)
    finally:
        container.shutdown_resources()
        container.unwire()

    assert made.total() <= 50, made


# -- who is woken ------------------------------------------------------------------------------------


@pytest.fixture
def poller(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Each time that a poller's nap is ended."""
    woken: list[object] = []
    wake = Poller.wake
    monkeypatch.setattr(Poller, "wake", lambda poller: (woken.append(poller), wake(poller)))
    return woken


def test_a_hand_over_wakes_only_who_is_next(poller: list[object]) -> None:
    """Neither who queues nor who gives back wakes the poller, while no producer is to be made."""
    inside, leave = threading.Event(), threading.Event()
    with plain_pool(size=1) as pool:

        def hold() -> None:
            with pool.producer():
                inside.set()
                leave.wait(PATIENCE)

        threads = [threading.Thread(target=hold) for _ in range(3)]
        threads[0].start()
        assert inside.wait(PATIENCE)
        poller.clear()
        for thread in threads[1:]:
            thread.start()
        until(lambda: pool.stats().waiting == 2)
        leave.set()
        for thread in threads:
            thread.join(PATIENCE)
        woken = list(poller)

    assert [] == woken


def test_a_record_that_is_waited_for_wakes_no_poller(pool: ProducerPool, poller: list[object]) -> None:
    """The holder serves the client itself."""
    with pool.producer() as producer:
        producer.produce_sync("orders", b"value")
        poller.clear()
        for _ in range(10):
            producer.produce_sync("orders", b"value")
        woken = list(poller)

    assert [] == woken


def test_whoever_sends_without_waiting_collects_answers(pool: ProducerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in a while, over all who send by it one after the other."""
    mine: list[threading.Thread] = []
    collect = MemoryClient.collect

    def noted(client: MemoryClient) -> None:
        mine.append(threading.current_thread())
        collect(client)

    monkeypatch.setattr(MemoryClient, "collect", noted)
    for _ in range(4):
        with pool.producer() as producer:
            for _ in range(SERVE_EVERY // 2):
                producer.produce_async("orders", b"value")

    assert [threading.current_thread()] * 2 == mine


def test_sending_takes_no_lock() -> None:
    """What a borrower sends by has none."""
    with plain_pool() as pool, pool.producer() as producer:
        producer.produce_async("orders", b"value")
        ledger = internals.ledger(producer)

    assert not any(isinstance(getattr(ledger, name), type(threading.RLock())) for name in ledger.__slots__)


async def test_awaited_records_share_one_timer() -> None:
    """On a shared producer none has one of its own."""
    async with plain_pool(size=1, share=100) as pool:
        timers: list[object] = []
        loop = asyncio.get_running_loop()
        later = loop.call_later
        async with pool.producer() as producer:
            await producer.produce_sync("orders", b"first")
            internals.client(producer).topics.answered.add("orders")  # as after an answer of librdkafka's
            loop.call_later = lambda *given: (timers.append(given), later(*given))[1]  # type: ignore[method-assign]
            await asyncio.gather(*(producer.produce_sync("orders", b"value") for _ in range(50)))

    assert len(timers) <= 3
