from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests import internals
from tests.scripted import PATIENCE, FutureThread, Script, in_thread, outcome, plain_pool, watch
from wd_di import DeliveryReport
from wd_di._kafka.nested import Calls
from wd_di._records.delivery import report_of
from wd_di.errors import DeliveryError, DeliveryTimeoutError
from wd_di.events import MessageAcknowledged, MessageFailed, MessagePurged
from wd_di.pool import ProducerPool


class Acknowledgement:
    """What librdkafka says of a record whose details it doesn't know."""

    def partition(self) -> None:
        return None

    def offset(self) -> int:
        return -1001

    def timestamp(self) -> tuple[int, int]:
        return 0, -1

    def latency(self) -> None:
        return None


@pytest.fixture
def pool(script: Script) -> Iterator[ProducerPool]:
    """An open pool of one scripted producer without transactions."""
    with plain_pool(produce_timeout_ms=100) as pool:
        yield pool


def called(delivery: Any) -> list[Any]:
    """What a callback of the delivery got: the delivery, its outcome and the thread, when it has run."""
    done, got = threading.Event(), []

    def note(told: Any) -> None:
        got.extend((told, told.outcome, threading.current_thread().name))
        done.set()

    delivery.add_done_callback(note)
    assert done.wait(PATIENCE)
    return got


# -- asking ------------------------------------------------------------------------------------------


def test_delivered(pool):
    """A delivered record has a report, no error, and says so."""
    with pool.producer() as producer:
        delivery = producer.produce_async("orders")
        producer.flush()

    assert (True, "delivered", None) == (delivery.done(), delivery.outcome, delivery.exception(0))
    assert delivery.result(0) is delivery.result()
    assert "<Delivery to 'orders': delivered>" == repr(delivery)


def test_failed(pool, script):
    """A failed record raises its error from result, and returns it from exception."""
    script.failing.add("broken")
    with pool.producer() as producer:
        delivery = producer.produce_async("broken")
        error = delivery.exception()
    with pytest.raises(DeliveryError, match="broken is broken") as caught:
        delivery.result()

    assert error is caught.value
    assert (True, "failed") == (delivery.done(), delivery.outcome)


@pytest.mark.parametrize("ask", ["result", "exception"])
@pytest.mark.parametrize("timeout_ms", [0, 10, None])
def test_pending(pool, script, ask, timeout_ms):
    """Without an answer in time both ways of asking raise, and the record may still be delivered."""
    script.silent = True
    with pool.producer() as producer:
        delivery = producer.produce_async("orders")
        with pytest.raises(DeliveryTimeoutError, match="no answer for a record to 'orders' in time; it may still be"):
            getattr(delivery, ask)(timeout_ms)

    assert (False, "pending") == (delivery.done(), delivery.outcome)


def test_negative_timeout(pool, script):
    """There is no for ever."""
    script.silent = True
    with pool.producer() as producer, pytest.raises(ValueError, match="timeout_ms is -1: it can't be negative"):
        producer.produce_async("orders").result(-1)


def test_waiting_in_several_threads(pool, script):
    """Every thread that waits for a record is woken by its answer."""
    script.silent = True
    with pool.producer() as producer:
        delivery = producer.produce_async("orders")
        threads = [FutureThread(partial(delivery.result, 5_000)) for _ in range(3)]
        for thread in threads:
            thread.start()
        script.silent = False
        reports = [thread.outcome() for thread in threads]

    assert [delivery.result(0)] * 3 == reports


def test_purged(pool, script):
    """A record that its pool gave up at the close says that it was purged."""
    purged = watch(pool, MessagePurged)
    script.silent = True
    with pool.producer() as producer:
        delivery = producer.produce_async("orders")
    report = pool.close(timeout_ms=0)
    with pytest.raises(DeliveryError, match="closed before the broker had answered"):
        delivery.result(5_000)

    assert "purged" == delivery.outcome
    assert ["orders"] == [event.topic for event in purged]
    assert 1 == report.purged


# -- callbacks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [True, False])
def test_callback(pool, early):
    """A callback runs on a worker, not on the poller or the caller, whether it was added before or after the answer."""
    with pool.producer() as producer:
        delivery = producer.produce_async("orders")
        if not early:
            producer.flush()
        told, outcome, thread = called(delivery)

    assert (delivery, "delivered", "wd_di-orders-callback") == (told, outcome, thread)


def test_callback_of_a_failure(pool, script):
    """A callback hears of failures, too."""
    script.failing.add("broken")
    with pool.producer() as producer:
        _, outcome, _ = called(producer.produce_async("broken"))

    assert "failed" == outcome


def test_failing_callback(pool, caplog):
    """What a callback raises is logged, and the next one runs."""

    def fail(_delivery: Any) -> None:
        raise ValueError("of the callback")

    with caplog.at_level(logging.ERROR, logger="wd_di"), pool.producer() as producer:
        delivery = producer.produce_async("orders")
        delivery.add_done_callback(fail)
        called(delivery)

    assert "orders: a delivery callback raised: ValueError('of the callback')" in caplog.text


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_callback_that_exits(script, caplog, kind):
    """A callback that raises something else than an Exception is logged as any other, and the next one runs."""

    def leave(_delivery: Any) -> None:
        raise kind

    with plain_pool(name=f"exits-{kind.__name__}") as pool, pool.producer() as producer:
        delivery = producer.produce_async("orders")
        delivery.add_done_callback(leave)
        called_by = []
        done = threading.Event()
        delivery.add_done_callback(lambda each: (called_by.append(each), done.set()))
        assert done.wait(PATIENCE)

    assert f"exits-{kind.__name__}: a delivery callback raised: {kind()!r}" in caplog.text
    assert [delivery] == called_by


def test_callback_once(pool):
    """A callback that is added while the answer comes runs exactly once."""
    counts: list[int] = []
    with pool.producer() as producer:
        for _ in range(200):
            delivery = producer.produce_async("orders")
            ran: list[Any] = []
            thread = FutureThread(partial(delivery.add_done_callback, ran.append))
            thread.start()
            producer.flush(timeout_ms=5_000)
            thread.outcome()
            called(delivery)  # the worker is one thread: what was handed to it before has run
            counts.append(len(ran))

    assert {1} == set(counts)


# -- events ------------------------------------------------------------------------------------------


def test_acknowledged(pool):
    """Each answer is an event with what the broker said."""
    events = watch(pool, MessageAcknowledged)
    with pool.producer() as producer:
        producer.produce_sync("orders", partition=2, timestamp_ms=7)
    event = events[0]

    assert ("orders", 0, "orders", 2, 0) == (event.pool, event.index, event.topic, event.partition, event.offset)
    assert (7, 0.0) == (event.timestamp_ms, event.latency_ms)


def test_failed_event(pool, script):
    """Each failure is an event with its error."""
    events = watch(pool, MessageFailed)
    script.failing.add("broken")
    with pool.producer() as producer:
        error = producer.produce_async("broken").exception()

    assert [("broken", error)] == [(event.topic, event.error) for event in events]


def test_listener_that_produces(pool):
    """A listener may produce in turn: it never runs inside the client's call."""
    with pool.producer() as producer:

        def echo(event: MessageAcknowledged) -> None:
            if event.topic == "orders":
                echoes.append(producer.produce_async("echo"))

        echoes: list[Any] = []
        pool.observer.subscribe(MessageAcknowledged, echo)
        producer.produce_sync("orders")
        producer.flush()

    assert ["delivered"] == [delivery.outcome for delivery in echoes]


@pytest.mark.parametrize(("watched", "given_up"), [(False, False), (False, True), (True, False)])
def test_lost_after_the_return(script, caplog, watched, given_up):
    """A record that fails after its producer went back is logged, unless somebody still waits for it."""
    pool = plain_pool(name=f"lost-{watched}-{given_up}")  # such lines are rate-limited by pool
    pool.open()
    script.silent = True
    script.failing.add("broken")
    failed = threading.Event()
    with caplog.at_level(logging.ERROR, logger="wd_di"):
        with pool.producer() as producer:
            delivery = producer.produce_async("broken")
            if watched:
                delivery.add_done_callback(lambda _: failed.set())
            if given_up:
                outcome(partial(delivery.result, 1))
            pool.observer.subscribe(MessageFailed, lambda _: failed.set())
        script.silent = False
        failed.wait(PATIENCE)
        pool.close()

    assert watched is not ("a record was lost after its producer went back" in caplog.text)


def test_nothing_remembered(pool):
    """A borrower that went away is forgotten with its last record."""
    with pool.producer() as producer:
        delivery = producer.produce_async("orders")
    delivery.result(5_000)
    in_thread(pool.close)

    assert set() == delivery._ledger.way.in_flight.ledgers


# -- reports -----------------------------------------------------------------------------------------


def test_report_without_details():
    """What the broker didn't say is None."""
    assert DeliveryReport("", 0, None, None, None) == report_of("", (None, -1001, (0, -1), None))


@pytest.mark.parametrize("heard", [True, False], ids=["noted", "decided at once"])
def test_foreign_exception(heard: bool):  # noqa: FBT001
    """A callback in which librdkafka has an exception pending has done its work, whichever call of C says so."""
    pool, fatal = plain_pool(), ZeroDivisionError()
    pool.open()

    class Broken(list[Any]):
        """Does its work, and then finds the exception."""

        def append(self, item: Any) -> None:
            super().append(item)
            raise SystemError("returned a result with an exception set") from fatal

    class Pending(Acknowledgement):
        """Finds it at the second question."""

        def offset(self) -> int:
            raise SystemError("returned a result with an exception set") from fatal

    with pool.producer() as producer:
        delivery = producer.produce_async("orders")
        connection = internals.lease(producer).connection
        noted, connection.noted = connection.noted, Broken()  # type: ignore[assignment]
        connection.heard = (MessageAcknowledged,) if heard else ()
        ack = Acknowledgement() if heard else Pending()
        hidden = outcome(lambda: Calls().make(lambda _: delivery(None, ack), [None], 0))
        noted.extend((who, error, Acknowledgement()) for who, error, _ in connection.noted)
        connection.noted = noted
        connection.in_flight.take_in(connection.client.verdict)
    pool.close()

    assert ("delivered", fatal) == (delivery.outcome, hidden)
