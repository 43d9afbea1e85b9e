"""The page's consumer and producer as a service of two processes: each order is billed once, whatever happens."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

from tests.kafka.readers import committed, log_ends, read
from tests.pools import unique, until
from tests.programs import PATIENCE_S, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wd_di.testing import LocalKafka

PARTITIONS = 4
SOME = 50
"""Orders after which a service counts as working."""
BACKLOG = 5_000
"""Orders that a service has at hand, and more than it bills before the broker is gone."""
ENOUGH_MS = 60_000

pytestmark = pytest.mark.timeout(180)


class Service:
    """One process of it."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self._log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "tests.kafka.billers", *arguments],
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )

    def said(self, word: str) -> list[str]:
        """Return what it has said after this word."""
        return re.findall(rf"^{word} (.+)$", self._log.read_text(), re.MULTILINE)

    def until_billed(self, count: int = SOME) -> None:
        """Return when it has billed so many more."""
        wanted = self._billed() + count
        until(lambda: self._billed() >= wanted or self.process.poll() is not None, timeout_ms=ENOUGH_MS)
        assert self.process.poll() is None, self._log.read_text()

    def stop(self) -> str:
        """Ask it to end; the last that it says."""
        self.process.send_signal(signal.SIGTERM)
        assert 0 == self.process.wait(PATIENCE_S), self._log.read_text()
        return self._log.read_text().splitlines()[-1]

    def _billed(self) -> int:
        return sum(map(int, self.said("billed")))


class Shop:
    """Somebody who has ordered a lot, and goes on to do so until told to stop."""

    def __init__(self, servers: str, topic: str) -> None:
        self._producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "log_level": 0})
        self._topic = topic
        self._stop = threading.Event()
        self.orders = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let orders come in while the block runs; all of them have arrived at its end."""
        for _ in range(BACKLOG):
            self._order()
        assert 0 == self._producer.flush(PATIENCE_S)
        thread = threading.Thread(target=self._go_on)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
        assert 0 == self._producer.flush(PATIENCE_S)

    def _go_on(self) -> None:
        while not self._stop.wait(0.005):
            self._order()

    def _order(self) -> None:
        self._producer.produce(self._topic, str(self.orders), partition=self.orders % PARTITIONS)
        self._producer.poll(0)
        self.orders += 1


@pytest.fixture
def services(tmp_path: Path) -> Iterator[list[Service]]:
    """Those of the test; they are gone at its end."""
    services: list[Service] = []
    yield services
    for service in services:
        service.process.kill()
        service.process.wait(PATIENCE_S)


def test_each_order_is_billed_once(own_kafka: LocalKafka, services: list[Service], tmp_path: Path) -> None:
    """While the broker is killed and restarted, a second process joins, and the first is asked to end."""
    servers, [broker] = own_kafka.bootstrap_servers, own_kafka.brokers
    orders, bills, group = own_kafka.create_topic(unique("orders"), PARTITIONS), unique("bills"), unique("billing")
    own_kafka.create_topic(bills)
    shop = Shop(servers, orders)

    def start() -> Service:
        services.append(Service(tmp_path / f"log-{len(services)}", servers, orders, bills, group))
        return services[-1]

    with shop.open():
        first = start()
        first.until_billed()
        broker.kill()
        until(lambda: first.said("aborted"))
        broker.start()
        first.until_billed()
        second = start()
        second.until_billed()
        first.until_billed()
        assert "drained: True" == first.stop()
        second.until_billed(PARTITIONS * SOME)
    ends = log_ends(servers, orders)
    until(lambda: [committed(servers, group, orders, each) for each in ends] == list(ends.values()))
    assert "drained: True" == second.stop()

    found = Counter(int(record.value or b"") for record in read(servers, bills))
    assert dict.fromkeys(range(shop.orders), 1) == found
