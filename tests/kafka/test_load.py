"""What happens to a pool that is reloaded or closed while others work with it."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.kafka.readers import read, values
from tests.pools import Recorder, plain, pool, until
from wd_di import (
    ConnectionPoolReloaded,
    PoolClosedError,
    ProducerClosed,
    ProducerCreated,
    ProducerPool,
    TransactionAbortedError,
    TransactionClosedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

THREADS = 4


class Load:
    """Threads that publish one transaction after the other until they are told to stop."""

    def __init__(self, orders: ProducerPool, topic: str) -> None:
        self.orders, self.topic = orders, topic
        self.committed: list[str] = []
        self.failures: list[BaseException] = []
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep the threads at work while the block runs."""
        threads = [threading.Thread(target=self._work, args=(worker,)) for worker in range(THREADS)]
        for thread in threads:
            thread.start()
        yield
        self._stop.set()
        for thread in threads:
            thread.join()

    def more(self, count: int) -> None:
        """Return when ``count`` further transactions were committed."""
        wanted = len(self.committed) + count
        until(lambda: len(self.committed) >= wanted or bool(self.failures))

    def _work(self, worker: int) -> None:
        number = 0
        try:
            while not self._stop.is_set():
                self._publish(f"{worker}-{number}")
                number += 1
        except BaseException as error:  # noqa: BLE001  (the test looks at it)
            self.failures.append(error)

    def _publish(self, name: str) -> None:
        with self.orders.transaction() as tx:
            tx.produce_async(self.topic, f"{name}:a")
            tx.produce_async(self.topic, f"{name}:b")
        self.committed.append(name)


def test_reload_under_load_loses_nothing(servers: str, topic: str) -> None:
    """Two reloads beside four busy threads replace every producer under its own id; each record is there once."""
    recorder = Recorder()
    with pool(servers, size=THREADS, observer=recorder) as orders:
        load = Load(orders, topic)
        with load.running():
            for _ in range(2):
                load.more(20)
                orders.reload()
            load.more(20)
        stats = orders.stats()

    assert [] == load.failures
    assert sorted(f"{name}:{part}" for name in load.committed for part in "ab") == values(servers, topic)
    assert (2, 3 * THREADS) == (stats.generation, stats.totals.created)
    assert {3} == set(Counter(event.transactional_id for event in recorder.of(ProducerCreated)).values())
    assert [1, 2] == [event.generation for event in recorder.of(ConnectionPoolReloaded)]


def test_close_under_load_ends_cleanly(servers: str, topic: str) -> None:
    """Close lets transactions that run finish and refuses new ones; what was committed is there, nothing else."""
    recorder = Recorder()
    with pool(servers, size=THREADS, observer=recorder) as orders:
        load = Load(orders, topic)
        with load.running():
            load.more(20)
            report = orders.close()
            until(lambda: len(load.failures) == THREADS)

    assert report.clean
    assert [PoolClosedError] * THREADS == [type(error) for error in load.failures]
    assert sorted(f"{name}:{part}" for name in load.committed for part in "ab") == values(servers, topic)
    assert THREADS == len(recorder.of(ProducerClosed))


def test_close_sends_the_backlog_and_says_so(servers: str, topic: str) -> None:
    """Close doesn't wait for linger.ms: it flushes what was left behind and reports how much that was."""
    clicks = plain(servers, size=1, kafka={"linger.ms": 30_000})
    with clicks.producer() as producer:
        producer.produce_sync(topic, "first")
        deliveries = [producer.produce_async(topic, f"{number}") for number in range(500)]
    report = clicks.close(timeout_ms=10_000)

    assert (500, 0, True) == (report.flushed, report.purged, report.clean)
    assert {"delivered"} == {delivery.outcome for delivery in deliveries}
    assert 501 == len(read(servers, topic))


def test_a_forced_close_aborts_what_is_open(servers: str, topic: str) -> None:
    """What close takes from its holder by force is aborted, so that readers aren't held up; the holder learns of it."""
    orders = pool(servers, size=1)
    scope = orders.transaction()
    tx = scope.__enter__()
    tx.produce_sync(topic, "never")
    report = orders.close(timeout_ms=200, force=True)

    assert ((), ()) == (report.held, report.abandoned)
    with pytest.raises(TransactionClosedError):
        tx.produce_async(topic, "nor this")
    with pytest.raises(TransactionAbortedError, match="closed"):
        scope.__exit__(None, None, None)
    assert [] == values(servers, topic, timeout_ms=5_000)


def test_who_outlives_a_close_still_commits(servers: str, topic: str) -> None:
    """A close whose deadline passes reports the holder and leaves it alone: its transaction can still be committed."""
    orders = pool(servers, size=2)
    begun, closed = threading.Event(), threading.Event()

    def hold() -> None:
        with orders.transaction() as tx:
            tx.produce_async(topic, "first")
            begun.set()
            closed.wait(10)
            tx.produce_async(topic, "second")

    holder = threading.Thread(target=hold, name="slow")
    holder.start()
    begun.wait(10)
    report = orders.close(timeout_ms=100)
    closed.set()
    holder.join()

    assert ["thread 'slow'"] == [held.owner for held in report.held]
    assert ["first", "second"] == values(servers, topic)
    until(lambda: orders.stats().in_use + orders.stats().retiring == 0)
