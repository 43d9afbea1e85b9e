"""Before a plain producer is handed out it looks for its brokers; that keeps nobody from a deadline."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import internals
from tests.pools import plain
from tests.scripted import PATIENCE, Fault, FaultKind, FutureThread
from wd_di._concurrency.deadline import Deadline
from wd_di._kafka.librdkafka import KafkaClient
from wd_di._slots import making
from wd_di.errors import PoolOpenError
from wd_di.pool import ProducerPool
from wd_di.testing import MockKafka


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each client that was made is patient."""
    patience: list[bool] = []
    connect = KafkaClient.__init__

    def noted(self: KafkaClient, *given: Any, patient: bool = False, **more: Any) -> None:
        patience.append(patient)
        connect(self, *given, patient=patient, **more)

    monkeypatch.setattr(KafkaClient, "__init__", noted)
    return patience


@contextlib.contextmanager
def closed(pool: ProducerPool) -> Iterator[ProducerPool]:
    """The pool, which nobody opens, and which is closed whatever is held."""
    yield pool
    pool.close(timeout_ms=0, force=True)


@pytest.mark.parametrize("timeout_ms", [40, 150, 2000])
def test_a_short_deadline_at_a_dead_broker(dead: str, made: list[bool], timeout_ms: int) -> None:
    """A checkout waits for the answer for half of its own deadline at most, and then has a producer that is patient."""
    with closed(plain(dead)) as pool:
        started = time.monotonic()
        with pool.producer(timeout_ms=timeout_ms):
            took = time.monotonic() - started

    assert took < timeout_ms / 1000
    assert [False, True] == made


async def test_a_tasks_short_deadline_at_a_dead_broker(dead: str, made: list[bool]) -> None:
    """The same for a task."""
    with closed(plain(dead)) as pool:
        async with pool.producer(timeout_ms=150):
            assert [False, True] == made


def test_who_comes_while_it_is_asked(silent: str) -> None:
    """A second borrower with less time than the first isn't kept waiting by the first one's patience."""
    with closed(plain(silent, size=1, share=2, timeout_ms=60_000)) as pool:
        patient = FutureThread(lambda: pool.producer().__enter__())
        patient.start()
        until = time.monotonic() + PATIENCE
        while not pool.stats().creating:
            assert time.monotonic() < until
        with pool.producer(timeout_ms=100):
            assert 1 == pool.stats().size
        assert not isinstance(patient.outcome(), BaseException)


def test_opening_has_its_reason(dead: str) -> None:
    """Half of the time that open has is left to find out why no broker answers."""
    with closed(plain(dead)) as pool, pytest.raises(PoolOpenError, match=r"Connection refused|Timed out"):
        pool.open(timeout_ms=400)


def test_who_has_waited_long_already(made: list[bool]) -> None:
    """Half of what a borrower has left is time enough for a broker that is there: its producer isn't made twice."""
    with MockKafka() as kafka, closed(plain(kafka.bootstrap_servers, size=1)) as pool:
        pool.open()
        with pool.producer() as producer:
            producer.produce_sync("t", "v", timeout_ms=5000)
            reloading = FutureThread(lambda: pool.reload(timeout_ms=2000))
            reloading.start()
            waiting = FutureThread(lambda: pool.producer(timeout_ms=2000).__enter__())
            waiting.start()
            wait_for(lambda: pool.stats().waiting)
            threading.Event().wait(1.2)  # more than half of both times
        assert not isinstance(waiting.outcome(), BaseException)

    assert [False, False] == made


def test_an_interrupted_wait_leaves_no_hurry(monkeypatch: pytest.MonkeyPatch, made: list[bool]) -> None:
    """What a signal's handler raises while somebody waits for the pool hurries no later producer."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with MockKafka() as kafka, closed(plain(kafka.bootstrap_servers)) as pool:
        house = internals.house(pool)
        with monkeypatch.context() as patched:
            patched.setattr(house._changed, "notify_all", interrupt)
            with pytest.raises(KeyboardInterrupt):
                house.wait_until(lambda: False, Deadline(0))
        assert [] == house._awaited
        with pool.producer(), pool.producer():
            assert [False] == made[:1]


def test_one_that_answers_is_made_once(made: list[bool]) -> None:
    """With brokers that are there no second handle is made."""
    with MockKafka() as kafka, closed(plain(kafka.bootstrap_servers)) as pool, pool.producer() as producer:
        producer.produce_sync("t", "v", timeout_ms=5000)

    assert [False] == made


def test_a_slow_link(monkeypatch: pytest.MonkeyPatch, made: list[bool]) -> None:
    """An answer within the first second counts, if nobody is in a hurry."""
    probe = KafkaClient.probe

    def late(self: KafkaClient, seconds: float) -> None:
        threading.Event().wait(0.6)
        probe(self, seconds)

    monkeypatch.setattr(KafkaClient, "probe", late)
    with MockKafka() as kafka, closed(plain(kafka.bootstrap_servers)) as pool, pool.producer():
        assert [False] == made


@pytest.mark.parametrize(
    "failure",
    [pytest.param(Exception("scripted"), id="other"), pytest.param(Fault(FaultKind.RETRIABLE, "no"), id="fault")],
)
def test_no_handle_is_left(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    """Whatever a probe fails with, the client that it asked is closed; what isn't a broker's is told."""
    asked: list[KafkaClient] = []

    def fail(self: KafkaClient, seconds: float) -> None:
        asked.append(self)
        raise failure

    monkeypatch.setattr(KafkaClient, "probe", fail)
    with MockKafka() as kafka, closed(plain(kafka.bootstrap_servers, timeout_ms=200)) as pool:
        came = FutureThread(lambda: pool.producer().__enter__())
        came.start()
        came.outcome()
        wait_for(lambda: asked and asked[0].closed)
        told = internals.table(pool).last_error

    assert ("None" if isinstance(failure, Fault) else "scripted") == str(told).split(": ")[-1]


def test_who_is_not_let_in(monkeypatch: pytest.MonkeyPatch, silent: str, made: list[bool]) -> None:
    """A refusal is heard of while the question has no answer: nothing more is waited for, and no handle is left."""
    refused, polled = Fault(FaultKind.DENIED, "wrong password"), list[KafkaClient]()
    poll = KafkaClient.poll

    def hear(self: KafkaClient, seconds: float) -> None:
        poll(self, seconds)
        self.fault = refused
        polled.append(self)

    monkeypatch.setattr(KafkaClient, "poll", hear)
    started = time.monotonic()
    with closed(plain(silent, size=1)) as pool:
        with pytest.raises(PoolOpenError, match="wrong password"):
            pool.producer(timeout_ms=20_000).__enter__()
        took = time.monotonic() - started
        wait_for(lambda: polled[0].closed)

    assert took < 1
    assert [False] == made


def test_an_answer_that_comes_too_late(monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    """The thread that waits for it closes the client, which nobody else may while it is asked."""
    clients: list[KafkaClient] = []
    connect = making.KafkaClient.__init__
    monkeypatch.setattr(
        KafkaClient, "__init__", lambda self, *given, **more: (clients.append(self), connect(self, *given, **more))[1]
    )
    with closed(plain(silent)) as pool, pool.producer(timeout_ms=100):
        first, second = clients
        wait_for(lambda: first.closed)

        assert not second.closed


def wait_for(happened: Callable[[], object]) -> None:
    """Wait until it has happened."""
    until = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.001)
