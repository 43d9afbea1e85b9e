"""With a broker that is dead or frozen: whoever keeps the errors keeps no client, once the pools are closed."""

from __future__ import annotations

import gc
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.handles import handles, threads
from tests.pools import Recorder, plain, pool, until
from wd_di import WdDiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di import ProducerPool
    from wd_di.testing import LocalKafka

ENDS = ("abort_timeout_ms", "commit_timeout_ms", "resolve_timeout_ms")
SHORT: dict[str, Any] = {"timeout_ms": 500, **dict.fromkeys(ENDS, 300)}


def metadata(servers: str) -> bytes:
    """What a member of a group sends along."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "kept", "log_level": 0})
    try:
        return bytes(consumer.consumer_group_metadata())
    finally:
        consumer.close()


class Program:
    """Keeps every error of its pools, and every event."""

    def __init__(self, servers: str, topic: str) -> None:
        self.recorder = Recorder()
        self.errors: list[BaseException] = []
        self._servers, self._topic, self._group = servers, topic, metadata(servers)
        self._clicks = plain(servers, size=2, observer=self.recorder, timeout_ms=500)
        self._orders = [pool(servers, size=1, observer=self.recorder, **SHORT) for _ in range(3)]
        self.pools: list[ProducerPool] = [self._clicks, *self._orders]

    def meet(self, call: Callable[[], object]) -> None:
        """Keep what it raises."""
        with pytest.raises(BaseException) as caught:  # noqa: PT011  (whatever it is)
            call()
        self.errors.append(caught.value)

    def work(self, die: Callable[[], object]) -> None:
        """Make all calls that can fail; the broker dies in the first one."""
        with suppress(WdDiError), self._orders[0].transaction() as tx:
            tx.produce_sync(self._topic, "x")
            die()
        for call in (self.send_offsets, self.abort, self.flush, self.produce_sync, self.check_out):
            self.meet(call)
        for make in (plain, pool):
            self.pools.append(make(self._servers, observer=self.recorder))
            self.meet(partial(self.pools[-1].open, timeout_ms=500))

    def send_offsets(self) -> None:
        """A group's offsets."""
        with self._orders[1].transaction() as tx:
            tx.send_offsets([TopicPartition(self._topic, 0, 5)], self._group, timeout_ms=300)

    def abort(self) -> None:
        """A transaction whose block fails."""
        with self._orders[2].transaction() as tx:
            tx.produce_async(self._topic, "x")
            raise ZeroDivisionError

    def flush(self) -> None:
        """A record, and then all of them."""
        with self._clicks.producer() as producer:
            producer.produce_async(self._topic, "x")
            producer.flush(timeout_ms=300)

    def produce_sync(self) -> None:
        """A record and its answer."""
        with self._clicks.producer() as producer:
            producer.produce_sync(self._topic, "x", timeout_ms=300)

    def check_out(self) -> None:
        """A producer that must be made first."""
        with self._orders[0].producer():
            pass


def ours(there: set[threading.Thread]) -> list[str]:
    """The names of the pools' threads that have begun since."""
    return [each.name for each in set(threading.enumerate()) - there if each.name.startswith("wd_di-")]


@pytest.mark.parametrize("death", ["killed", "paused"])
def test_kept_errors_keep_no_client(own_kafka: LocalKafka, own_topic: str, death: str) -> None:
    """Of calls that were under way, of an open, and of a checkout that waited."""
    [broker] = own_kafka.brokers
    program = Program(own_kafka.bootstrap_servers, own_topic)
    gc.collect()
    before, started, there = handles(), threads(), set(threading.enumerate())
    for each in program.pools:
        each.open(timeout_ms=20_000)
    program.work(broker.kill if death == "killed" else broker.pause)
    for each in program.pools:
        each.close(timeout_ms=300, force=True)
    broker.resume() if death == "paused" else broker.start()

    assert 7 == len(program.errors)
    until(lambda: threads() <= started)
    with suppress(TimeoutError):
        until(lambda: not ours(there))
    assert [] == ours(there)
    assert handles() <= before
