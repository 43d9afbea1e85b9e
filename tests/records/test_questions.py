"""What brokers are asked before a call can send: nobody waits for it beyond its own deadline, or once called off."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from functools import partial

import pytest

from tests import internals
from tests.pools import bounded, until
from tests.scripted import PATIENCE, FutureThread, Script, committed, fault, make_pool, plain_pool
from wd_di._concurrency.errands import Errand
from wd_di._concurrency.workers import Workers
from wd_di._kafka.port import FaultKind
from wd_di.errors import DeliveryError, DeliveryTimeoutError
from wd_di.pool import ProducerPool

SHORT_MS = 50
LONG_MS = int(PATIENCE * 1000)
QUESTIONS = pytest.mark.parametrize("question", ["reach", "renew"])


@pytest.fixture
def pool(script: Script, kept: Callable[[ProducerPool], ProducerPool]) -> ProducerPool:
    """A plain pool of one producer that reaches no broker, and gets no answers to its records."""
    return cut_off(kept(plain_pool()), script)


def cut_off(pool: ProducerPool, script: Script) -> ProducerPool:
    """Open the pool, and let all brokers be away from then on."""
    thread = FutureThread(pool.open)
    thread.start()
    thread.outcome()
    for client in script.clients:
        client.cut_off = True
    return pool


def asked(script: Script) -> int:
    """How often a broker was asked whether it is there."""
    return script.calls.count("reach")


# -- by its own deadline -----------------------------------------------------------------------------


async def test_a_task_is_late_for_no_other(pool: ProducerPool, script: Script) -> None:
    """However many tasks have more time, one with less is told at its deadline."""
    script.silent = True
    async with pool.producer() as producer:
        others = [asyncio.create_task(producer.produce_sync("orders", timeout_ms=LONG_MS)) for _ in range(5)]
        await asyncio.sleep(0)
        with bounded(SHORT_MS), pytest.raises(DeliveryTimeoutError):
            await producer.produce_sync("orders", timeout_ms=SHORT_MS)
        for each in others:
            each.cancel()
        await asyncio.wait(others)


def test_a_thread_is_late_for_no_other(pool: ProducerPool, script: Script) -> None:
    """Nor is a thread."""
    script.silent = True
    with pool.producer() as producer:
        other = FutureThread(lambda: producer.produce_sync("orders", timeout_ms=LONG_MS))
        other.start()
        until(lambda: asked(script))
        with bounded(SHORT_MS), pytest.raises(DeliveryTimeoutError):
            producer.produce_sync("orders", timeout_ms=SHORT_MS)


async def test_a_transactions_end_is_late_for_no_question(
    script: Script, kept: Callable[[ProducerPool], ProducerPool]
) -> None:
    """The end of a transaction waits for nothing that was asked on behalf of its records, or of another's."""
    pool = cut_off(kept(make_pool(size=2)), script)
    with bounded(0):
        async with pool.transaction() as tx, pool.transaction(propagation="new") as other:
            asks = [each.produce_sync("orders", timeout_ms=LONG_MS) for each in (tx, other) for _ in range(5)]
            tasks = [asyncio.create_task(each) for each in asks]
            await asyncio.sleep(0)
            other.abort_only()
    for each in tasks:
        each.cancel()
    await asyncio.wait(tasks)


def lead_to(question: str, script: Script) -> None:
    """Let the next record lead to this question."""
    if question == "renew":
        script.clients[0].cut_off = False
        script.on("produce", fault(FaultKind.OUTDATED))


@QUESTIONS
async def test_a_cancellation_goes_on_at_once(pool: ProducerPool, script: Script, question: str) -> None:
    """A task that is cancelled while the brokers are asked has its producer given back, whatever they answer."""
    lead_to(question, script)

    async def work() -> None:
        async with pool.producer() as producer:
            await producer.produce_sync("orders", timeout_ms=LONG_MS)

    task = asyncio.create_task(work())
    await asyncio.to_thread(until, lambda: question in script.calls)
    task.cancel()
    with bounded(0):
        await asyncio.wait([task])

    assert task.cancelled()
    assert 0 == pool.stats().in_use


@QUESTIONS
def test_ctrl_c_comes_out_at_once(pool: ProducerPool, script: Script, question: str) -> None:
    """So it is with Ctrl-C, which librdkafka would see only when the question has ended."""
    lead_to(question, script)
    interrupts(script, question)
    with bounded(0), pytest.raises(KeyboardInterrupt), pool.producer() as producer:
        producer.produce_sync("orders", timeout_ms=LONG_MS)

    assert 0 == pool.stats().in_use


def interrupts(script: Script, question: str) -> None:
    """Let Ctrl-C come to the main thread as soon as another one puts this question."""
    main = threading.main_thread().ident or 0
    script.on(question, lambda: signal.pthread_kill(main, signal.SIGINT))


@pytest.mark.parametrize("step", ["run_on", "submit"])
def test_ctrl_c_leaves_no_question_that_nobody_puts(
    pool: ProducerPool, script: Script, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Interrupted before a worker has taken the question, a call leaves it to the next one to put it."""
    owner = {"run_on": Errand, "submit": Workers}[step]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pool.producer() as producer:
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                producer.produce_sync("orders", timeout_ms=LONG_MS)
        script.there.set()
        with bounded(0):
            producer.produce_sync("orders", timeout_ms=LONG_MS)

    assert asked(script) == 1


# -- the answer ----------------------------------------------------------------------------------------


async def test_one_question_for_all(pool: ProducerPool, script: Script) -> None:
    """All who wait for a broker ask it once, and all send when it answers."""
    async with pool.producer() as producer:
        calls = [producer.produce_sync("orders", str(number), timeout_ms=LONG_MS) for number in range(20)]
        tasks = [asyncio.ensure_future(each) for each in calls]
        await asyncio.to_thread(until, lambda: asked(script))
        assert [] == committed(pool)
        script.there.set()
        await asyncio.gather(*tasks)

    assert 20 == len(committed(pool))
    assert asked(script) == 1


def test_it_is_asked_again(pool: ProducerPool, script: Script) -> None:
    """A question that has ended without an answer is put again for whoever comes then."""
    script.silent = True
    with pool.producer() as producer:
        for _ in range(2):
            with pytest.raises(DeliveryTimeoutError):
                producer.produce_sync("orders", timeout_ms=SHORT_MS)
            until(lambda: internals.questions(producer)._reaching is None)

    assert 2 == asked(script)


def test_who_has_more_time_has_it(pool: ProducerPool, script: Script) -> None:
    """Who joins a question that somebody less patient has put waits for as long as its own deadline lasts."""
    with pool.producer() as producer:
        impatient, patient = (
            FutureThread(partial(producer.produce_sync, "orders", name, timeout_ms=timeout_ms))
            for name, timeout_ms in (("short", SHORT_MS), ("long", LONG_MS))
        )
        impatient.start()
        until(lambda: asked(script))
        patient.start()
        impatient.outcome()
        until(lambda: "short" in committed(pool))
        assert ["short"] == committed(pool)
        script.there.set()
        patient.outcome()

    assert ["short", "long"] == committed(pool)
    assert asked(script) == 1


async def test_an_unknown_topic_without_an_answer(pool: ProducerPool, script: Script) -> None:
    """A record for a topic that the client doesn't know is refused at the deadline, if no broker says what there is."""
    script.clients[0].cut_off = False
    script.always("produce", fault(FaultKind.OUTDATED))
    async with pool.producer() as producer:
        with bounded(SHORT_MS), pytest.raises(DeliveryError):
            await producer.produce_sync("orders", timeout_ms=SHORT_MS)
