"""The fault proxy before a broker that repeats what it is asked: what it does is what a test has told it."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tests.faults.proxy import FaultProxy
from tests.faults.rules import Action, Api
from tests.pools import until
from wd_di.testing._kraft import HOST

BROKER = 7
SOON_S = 0.3
ENOUGH_S = 10


class Repeater(socketserver.ThreadingTCPServer):
    """Answers each request by its correlation id alone, and knows what came."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__((HOST, 0), Repeats)
        self.came: list[int] = []


class Repeats(socketserver.StreamRequestHandler):
    """One connection to it."""

    server: Repeater

    def handle(self) -> None:
        while length := self.rfile.read(4):
            request = self.rfile.read(int.from_bytes(length))
            self.server.came.append(int.from_bytes(request[4:8]))
            self.wfile.write(struct.pack(">i4s", 4, request[4:8]))


class Client:
    """Asks by hand."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=ENOUGH_S)

    def ask(self, correlation: int, api: int = Api.METADATA, name: str = "orders-0", *, size: int = 0) -> None:
        """Send a request without waiting."""
        header = struct.pack(f">hhih{len(name)}s", api, 9, correlation, len(name), name.encode())
        self.socket.sendall(struct.pack(">i", len(header) + size) + header + bytes(size))

    def hear(self, *, within_s: float = ENOUGH_S) -> int | None:
        """Return the correlation id of the next reply, or ``None`` if there is none in time."""
        self.socket.settimeout(within_s)
        try:
            reply = self.socket.recv(8, socket.MSG_WAITALL)
        except TimeoutError:
            return None
        if len(reply) < 8:
            raise ConnectionResetError
        return int.from_bytes(reply[4:])

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def repeater() -> Iterator[Repeater]:
    """What stands behind the proxy."""
    with Repeater() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    """A proxy that ends with its test."""
    with FaultProxy() as proxy:
        yield proxy


@pytest.fixture
def address(proxy: FaultProxy, repeater: Repeater) -> str:
    """Where clients find the broker."""
    return proxy.advertise(BROKER, repeater.server_address[1])


@pytest.fixture
def connect(address: str) -> Iterator[Callable[[], Client]]:
    """Makes clients."""
    clients: list[Client] = []

    def make() -> Client:
        clients.append(Client(address))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[[], Client]) -> Client:
    """A connected client."""
    return connect()


def test_all_passes_and_is_counted(proxy: FaultProxy, client: Client) -> None:
    """Without a rule requests and replies pass in order, and are counted by broker and API key."""
    for number in range(3):
        client.ask(number, Api.PRODUCE)
    client.ask(3, Api.END_TXN)

    assert [0, 1, 2, 3] == [client.hear() for _ in range(4)]
    assert {(BROKER, Api.PRODUCE): 3, (BROKER, Api.END_TXN): 1} == proxy.requests
    assert (1, 1) == (proxy.connections[BROKER], proxy.open_connections())


def test_a_swallowed_request_never_arrives(proxy: FaultProxy, client: Client, repeater: Repeater) -> None:
    """Of a request that is swallowed the broker hears nothing; the next one passes."""
    rule = proxy.on(Api.END_TXN, "swallow request")
    client.ask(1, Api.END_TXN)
    client.ask(2, Api.END_TXN)

    assert 2 == client.hear()
    assert [2] == repeater.came
    assert 1 == rule.hits


def test_a_swallowed_reply_was_a_request(proxy: FaultProxy, client: Client, repeater: Repeater) -> None:
    """Of a reply that is swallowed the client hears nothing, though the broker had the request."""
    proxy.on(Api.END_TXN, "swallow reply")
    client.ask(1, Api.END_TXN)
    client.ask(2)

    assert 2 == client.hear()
    assert [1, 2] == repeater.came


def test_a_silent_connection_is_one_for_good(proxy: FaultProxy, connect: Callable[[], Client], client: Client) -> None:
    """On a connection that has gone silent nothing comes back any more; another one isn't concerned."""
    rule = proxy.on(Api.END_TXN, "go silent")
    client.ask(1, Api.END_TXN)
    rule.wait()
    client.ask(2)
    other = connect()
    other.ask(3)

    assert (3, None) == (other.hear(), client.hear(within_s=SOON_S))


@pytest.mark.parametrize("action", ["cut before", "cut after"])
def test_a_cut_ends_the_connection(proxy: FaultProxy, client: Client, repeater: Repeater, action: Action) -> None:
    """A connection is cut before the broker hears of the request, or after it has answered."""
    rule = proxy.on(Api.END_TXN, action)
    client.ask(1, Api.END_TXN)

    with pytest.raises(ConnectionResetError):
        client.hear()
    rule.wait()
    assert [1] * (action == "cut after") == repeater.came


def test_what_was_sent_arrives(proxy: FaultProxy, repeater: Repeater, client: Client) -> None:
    """A delayed request reaches the broker also when its client has gone meanwhile, as one in a frozen socket does."""
    rule = proxy.on(Api.METADATA, "delay request", ms=SOON_S * 1000)
    client.ask(1)
    rule.wait()
    client.close()

    until(lambda: repeater.came)
    assert [1] == repeater.came


@pytest.mark.parametrize("action", ["delay request", "delay reply"])
def test_a_delay_holds_up_what_comes_behind(proxy: FaultProxy, client: Client, action: Action) -> None:
    """A request or a reply that is delayed comes later, and all in order."""
    proxy.on(Api.END_TXN, action, ms=SOON_S * 1000)
    started = time.monotonic()
    client.ask(1, Api.END_TXN)
    client.ask(2)

    assert [1, 2] == [client.hear(), client.hear()]
    assert SOON_S <= time.monotonic() - started


def test_a_rule_is_for_whom_it_is_made(proxy: FaultProxy, client: Client) -> None:
    """A rule knows API keys, brokers and clients, skips as many as it is told, and is spent after its times."""
    proxy.on(Api.END_TXN, "swallow reply", times=None, client="clicks")
    proxy.on(Api.END_TXN, "swallow reply", times=None, broker=BROKER + 1)
    rule = proxy.on((Api.END_TXN, Api.PRODUCE), "swallow reply", times=2, skip=1)
    for number in range(5):
        client.ask(number, Api.END_TXN)

    assert [0, 3, 4] == [client.hear() for _ in range(3)]
    rule.wait(2)


def test_any_request(proxy: FaultProxy, client: Client) -> None:
    """A rule without a key takes any request, and the first rule goes before the second."""
    first, second = proxy.on((), "swallow reply"), proxy.on((), "swallow reply")
    client.ask(1, Api.FETCH)
    first.wait()

    assert (1, 0) == (first.hits, second.hits)


def test_a_lifted_rule_is_not_obeyed(proxy: FaultProxy, client: Client) -> None:
    """A rule ends with its block, and all of them by a reset."""
    with proxy.on((), "swallow reply", times=None) as rule:
        client.ask(1)
        rule.wait()
    proxy.on((), "swallow reply", times=None)
    proxy.reset()
    client.ask(2)

    assert 2 == client.hear()


def test_waiting_for_a_rule_has_a_deadline(proxy: FaultProxy) -> None:
    """Who waits for a rule that nobody meets is told which one it is."""
    rule = proxy.on(Api.END_TXN, "cut after")

    with pytest.raises(TimeoutError, match="Rule cut after of END_TXN: 0 hits> after 10 ms, not 1"):
        rule.wait(timeout_ms=10)


def test_a_frozen_broker_keeps_everything_for_later(
    proxy: FaultProxy, connect: Callable[[], Client], client: Client
) -> None:
    """A frozen broker accepts connections and answers nobody, until it thaws: then nothing is lost."""
    client.ask(1)
    assert 1 == client.hear()
    proxy.freeze(BROKER)
    other = connect()
    client.ask(2)
    other.ask(3)
    heard = client.hear(within_s=SOON_S), other.hear(within_s=SOON_S)
    proxy.thaw(BROKER)

    assert (None, None) == heard
    assert (2, 3) == (client.hear(), other.hear())


def test_a_broker_that_refuses(proxy: FaultProxy, connect: Callable[[], Client], client: Client) -> None:
    """A broker that refuses takes no new connection, serves the old ones, and accepts again when it should."""
    client.ask(0)
    assert 0 == client.hear()
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    client.ask(1)
    assert 1 == client.hear()

    proxy.accept()
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.hear()
    again = connect()
    again.ask(2)
    assert 2 == again.hear()


def test_lag_is_added_both_ways(proxy: FaultProxy, client: Client) -> None:
    """Of a round trip that takes longer half is on the way there; requests needn't wait for each other."""
    proxy.lag(1000 * SOON_S)
    started = time.monotonic()
    for number in range(10):
        client.ask(number)

    assert list(range(10)) == [client.hear() for _ in range(10)]
    assert SOON_S <= time.monotonic() - started < 5 * SOON_S


def test_a_slow_link(proxy: FaultProxy, client: Client) -> None:
    """Of a large request no more passes in a second than it should."""
    proxy.throttle(1_000_000)
    started = time.monotonic()
    client.ask(1, Api.PRODUCE, size=500_000)

    assert 1 == client.hear()
    assert 0.4 <= time.monotonic() - started


def test_a_dead_broker_ends_its_connections(proxy: FaultProxy, client: Client, repeater: Repeater) -> None:
    """Where nobody listens behind the proxy, whoever connects is cut off; a broker that is elsewhere now is found."""
    with closing(socket.socket()) as unused:
        unused.bind((HOST, 0))
        address = proxy.advertise(BROKER, unused.getsockname()[1])
        nobody = Client(address)
        with closing(nobody), pytest.raises(ConnectionResetError):
            nobody.hear()
    found = Client(proxy.advertise(BROKER, repeater.server_address[1]))
    with closing(found):
        found.ask(1)
        assert 1 == found.hear()
