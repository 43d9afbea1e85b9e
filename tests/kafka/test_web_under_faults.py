"""The FastAPI service, whose broker goes away under load: every reply is the truth, and the server serves on."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.examples.servers import serving
from tests.faults.rules import Api
from tests.kafka.readers import read
from tests.pools import unique, until
from wd_di.testing import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.proxy import FaultProxy
    from wd_di.testing import LocalKafka

CLIENTS = 8
"""Twice as many as the service has producers for orders."""
PATIENCE_S = 20
"""How long a client waits: longer than a checkout, a commit and the search for its outcome may take together."""
CREATED = (201, "")
NOT_DONE = (503, "not done, please repeat it")
DOUBT = (500, "not known whether it was done: look before you repeat it")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the service give up soon."""
    for limit in ("TIMEOUT_MS", "COMMIT_TIMEOUT_MS", "ABORT_TIMEOUT_MS", "RESOLVE_TIMEOUT_MS"):
        monkeypatch.setenv(f"ORDERS__{limit}", "1500")


class Clients:
    """Clients that place one order after the other, and write down what they are told."""

    def __init__(self, url: str) -> None:
        self.replies: dict[str, tuple[int, str]] = {}
        self._failures: list[BaseException] = []
        self._url = url
        self._run = unique("order")
        self._stop = threading.Event()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep them at work while the block runs; all have their replies at its end."""
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        assert [] == self._failures

    def told(self, *replies: tuple[int, str]) -> set[str]:
        """Return the orders that were answered so."""
        return {name for name, reply in tuple(self.replies.items()) if reply in replies}

    def until_more(self, count: int, *replies: tuple[int, str]) -> None:
        """Return when so many further orders were answered so."""
        wanted = len(self.told(*replies)) + count
        until(lambda: len(self.told(*replies)) >= wanted or bool(self._failures))

    def found(self, servers: str) -> Counter[str]:
        """Return how often readers see each of their orders."""
        keys = ((record.key or b"").decode() for record in read(servers, "orders"))
        return Counter(key for key in keys if key.startswith(self._run))

    def _work(self, client: int) -> None:
        number = 0
        try:
            with httpx.Client(base_url=self._url, timeout=PATIENCE_S) as session:
                while not self._stop.is_set():
                    name = f"{self._run}-{client}-{number}"
                    reply = session.post("/orders", json={"id": name, "sku": "tea", "quantity": 1})
                    self.replies[name] = reply.status_code, reply.json().get("detail", "")
                    number += 1
        except BaseException as error:  # noqa: BLE001  (the test looks at it)
            self._failures.append(error)


def outlived(kafka: LocalKafka, away: Callable[[Clients], None]) -> Clients:
    """Serve before, while and after something is the matter with the broker; check each reply against what is there."""
    for name in ("orders", "inventory"):
        with suppress(ClusterError):  # it is there already
            kafka.create_topic(name)
    with serving("examples.fastapi_orders", kafka.bootstrap_servers) as server:
        clients = Clients(server.url)
        with clients.working():
            clients.until_more(5 * CLIENTS, CREATED)
            away(clients)
            clients.until_more(5 * CLIENTS, CREATED)
        server.stop()
    found, doubt = clients.found(kafka.bootstrap_servers), clients.told(DOUBT)

    assert {CREATED, NOT_DONE, DOUBT} >= set(clients.replies.values())
    assert dict.fromkeys(clients.told(CREATED), 1) == {name: found[name] for name in found.keys() - doubt}
    assert {1} >= {found[name] for name in doubt & found.keys()}
    assert len(read(kafka.bootstrap_servers, "orders")) == len(read(kafka.bootstrap_servers, "inventory"))
    return clients


def test_replies_while_the_broker_is_down(own_kafka: LocalKafka) -> None:
    """What was created is there once and what wasn't done isn't there, with a broker that is killed and restarted."""
    [broker] = own_kafka.brokers

    def away(clients: Clients) -> None:
        broker.kill()
        clients.until_more(2 * CLIENTS, NOT_DONE)
        broker.start()

    assert outlived(own_kafka, away).told(NOT_DONE)


def test_replies_while_the_broker_is_frozen(own_kafka: LocalKafka) -> None:
    """The same with a broker that hangs for a while, and then does what it was asked for."""
    [broker] = own_kafka.brokers

    def away(clients: Clients) -> None:
        broker.pause()
        clients.until_more(2 * CLIENTS, NOT_DONE, DOUBT)
        broker.resume()

    assert outlived(own_kafka, away).told(NOT_DONE)


def test_replies_when_nobody_can_know(proxied_kafka: LocalKafka, proxy: FaultProxy) -> None:
    """A commit whose answer is lost, and whose records can't be read, is a 500 that says so, and no other reply."""

    def away(clients: Clients) -> None:
        proxy.on(Api.END_TXN, "swallow reply", times=None, client="orders")
        proxy.on(Api.FETCH, "swallow request", times=None, client="orders")
        clients.until_more(CLIENTS, DOUBT)
        proxy.reset()

    clients = outlived(proxied_kafka, away)

    assert clients.told(DOUBT) <= clients.found(proxied_kafka.bootstrap_servers).keys()
