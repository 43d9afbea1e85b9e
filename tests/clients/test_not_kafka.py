"""What a pool says where no Kafka answers: in few words, for how long, at which address, and what to do."""

from __future__ import annotations

import asyncio
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import containers, providers
from pydantic import ValidationError

import wd_di
from tests.pools import pool as on_brokers
from wd_di import (
    DeliveryTimeoutError,
    PoolOpenError,
    PoolResource,
    PoolTimeoutError,
    Producer,
    ProducerPool,
    SettingsError,
    inject,
    injected,
    open_pools,
    running,
)
from wd_di._kafka.port import Fault, FaultKind
from wd_di._slots.making import Maker

Server = Callable[[bytes], str]

IDS = {"transactional_id": "t-{instance}-{index}", "instance": "7"}
# A TLS server's alert is too short for librdkafka to look at.
TLS_ALERT = bytes([21, 3, 3, 0, 2, 2, 80])


@pytest.fixture
def server() -> Iterator[Server]:
    """Start something that answers each connection with these bytes; gives its address."""
    listening: list[tuple[socket.socket, threading.Thread]] = []
    accepted: list[socket.socket] = []

    def answer(own: socket.socket, said: bytes) -> None:
        while True:
            try:
                connection, _ = own.accept()
                accepted.append(connection)
                connection.sendall(said)
            except OSError:  # the test is over, or librdkafka has gone already
                if own.fileno() < 0:
                    return

    def start(said: bytes) -> str:
        own = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=answer, args=(own, said), daemon=True)
        thread.start()
        listening.append((own, thread))
        return f"127.0.0.1:{own.getsockname()[1]}"

    yield start
    for own, thread in listening:
        own.shutdown(socket.SHUT_RDWR)  # ends accept
        own.close()
        thread.join()
    for each in accepted:
        each.close()


def pool(servers: str, **options: Any) -> ProducerPool:
    """A small pool, not open yet."""
    return on_brokers(servers, **{"size": 1, "transactional_id": None, **options})


def refused(*, transactional: bool, servers: str = "127.0.0.1:1", timeout_ms: int = 1_500) -> PoolOpenError:
    """What an open fails with."""
    ids = IDS if transactional else {}
    with pytest.raises(PoolOpenError) as caught:
        pool(servers, **ids).open(timeout_ms=timeout_ms)
    return caught.value


@pytest.mark.parametrize("transactional", [False, True])
def test_a_failed_open(transactional: bool) -> None:  # noqa: FBT001
    """It says for how long it has tried, where, what went wrong last and how to start all the same."""
    error = refused(transactional=transactional)

    what = "0 of 1 producers could be connected" if transactional else "no broker has answered"
    way_out = '(to start without a broker and go on connecting, set open_policy="background")'
    assert str(error).startswith(f"orders: {what} within 1.5 s {way_out}; last error: 127.0.0.1:1/bootstrap: Connect")


@pytest.mark.parametrize("transactional", [False, True])
def test_the_traceback_of_a_failed_open(transactional: bool) -> None:  # noqa: FBT001
    """It is one error, with a single frame of ours below the call."""
    error = refused(transactional=transactional)

    frames = traceback.extract_tb(error.__traceback__)
    assert [frame.name for frame in frames] == ["refused", "open"]
    assert "direct cause" not in "".join(traceback.format_exception(error))
    assert "During handling" not in "".join(traceback.format_exception(error))


def test_the_traceback_of_a_failed_open_in_a_task() -> None:
    """It has no frames of the worker thread that has opened."""

    async def main() -> None:
        await pool("127.0.0.1:1").aopen(timeout_ms=500)

    with pytest.raises(PoolOpenError) as caught:
        asyncio.run(main())

    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[names.index("main") :] == ["main", "aopen"]


SETTINGS = {"size": 1, "open_timeout_ms": 100, "kafka": {"bootstrap.servers": "127.0.0.1:1"}}


class Shop(containers.DeclarativeContainer):
    """A shop whose broker is away."""

    orders = PoolResource(SETTINGS)


@inject
def place(producer: Producer = injected(Shop.orders.producer)) -> None:
    """Sell something."""
    producer.flush()


def block(of: Any) -> None:
    """A plain block."""
    with of:
        pass


def block_in_a_task(of: Any) -> None:
    """A block of a task's."""

    async def main() -> None:
        async with of:
            pass

    asyncio.run(main())


def ours(error: BaseException) -> list[str]:
    """The functions of wd_di that its traceback shows."""
    package = str(Path(wd_di.__file__).parent)
    return [each.name for each in traceback.extract_tb(error.__traceback__) if each.filename.startswith(package)]


@pytest.mark.parametrize("ids", [{}, IDS])
@pytest.mark.parametrize(
    "start",
    [
        lambda shop: block(running(shop)),
        lambda shop: block(running(shop, modules=[__name__])),
        lambda shop: block_in_a_task(running(shop)),
        lambda shop: block_in_a_task(wd_di.lifespan(shop)(None)),
        open_pools,
        lambda shop: shop.init_resources(),
        lambda shop: shop.orders(),
        lambda shop: shop.orders.init(),
        lambda shop: (shop.wire([__name__]), place()),
        lambda shop: block(ProducerPool(shop.orders.args[0])),
        lambda shop: block_in_a_task(ProducerPool(shop.orders.args[0])),
        lambda shop: wd_di.setup(settings={**shop.orders.args[0], "open_policy": "fail"}),
    ],
)
def test_the_traceback_of_whatever_opens_a_pool(start: Callable[[Any], None], ids: dict[str, Any]) -> None:
    """Wherever a pool is opened, between the user's line and the error there are at most two frames of ours."""
    shop = Shop()
    shop.orders.set_args({**SETTINGS, **ids})
    try:
        with pytest.raises(PoolOpenError) as caught:
            start(shop)
    finally:
        shop.unwire()

    assert len(ours(caught.value)) <= 2, ours(caught.value)
    assert caught.value.__cause__ is None


def test_the_traceback_of_settings_that_a_container_refuses() -> None:
    """What its pools can't be made of shows as shortly."""
    shop = Shop()
    shop.orders.set_args({"sise": 1})
    with pytest.raises(SettingsError, match="sise") as caught:
        block(running(shop))

    assert ours(caught.value) == []


class OfTheShop(wd_di.Settings):
    """What the shop reads from the environment."""

    orders: wd_di.PoolSettings


@pytest.mark.parametrize("variables", [{}, {"ORDERS__SIZE": "many"}])
@pytest.mark.parametrize(
    "start",
    [
        lambda shop: block(running(shop)),
        lambda shop: block_in_a_task(running(shop)),
        open_pools,
        lambda shop: shop.init_resources(),
        lambda shop: shop.orders(),
        lambda shop: (shop.wire([__name__]), place()),
    ],
)
def test_the_traceback_of_an_applications_settings(
    start: Callable[[Any], None], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that is missing or wrong shows as shortly, though it is pydantic's error."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    shop = Shop()
    shop.orders.set_args(providers.Singleton(OfTheShop).provided.orders)
    try:
        with pytest.raises(ValidationError, match="ORDERS__") as caught:
            start(shop)
    finally:
        shop.unwire()

    assert len(ours(caught.value)) <= 2, ours(caught.value)
    assert "Singleton" not in "".join(traceback.format_tb(caught.value.__traceback__))


@pytest.mark.parametrize("wrong", [{"kafka": {}}, {"size": 0}])
@pytest.mark.parametrize(
    "start",
    [
        ProducerPool,
        lambda settings: wd_di.setup(settings=settings),
        lambda settings: on_brokers("127.0.0.1:1").reload(settings),
        lambda settings: asyncio.run(on_brokers("127.0.0.1:1").areload(settings)),
    ],
)
def test_the_traceback_of_settings_that_a_pool_refuses(start: Callable[[Any], None], wrong: dict[str, Any]) -> None:
    """Settings that clash show where they were given, with two frames of ours at most."""
    with pytest.raises(SettingsError) as caught:
        start(wrong)

    assert len(ours(caught.value)) <= 2, ours(caught.value)


def test_the_traceback_of_what_setup_reads_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong variable shows as shortly in ``setup``."""
    monkeypatch.setenv("WD_DI__SIZE", "many")
    with pytest.raises(ValidationError, match="WD_DI__SIZE") as caught:
        wd_di.setup()

    assert len(ours(caught.value)) <= 2, ours(caught.value)


def test_a_failed_open_keeps_the_frames_of_its_users() -> None:
    """Only ours are left out: who has a function that makes the pool sees it, with its line."""

    def make(settings: Any, **options: Any) -> ProducerPool:
        made = ProducerPool(settings, **options)
        made.open()
        return made

    shop = Shop()
    shop.orders.set_provides(make)
    with pytest.raises(PoolOpenError) as caught:
        block(running(shop))

    frames = traceback.extract_tb(caught.value.__traceback__)
    assert [(each.name, each.line) for each in frames[-2:]] == [("block", "with of:"), ("make", "made.open()")]


def test_the_cause_of_an_open_that_can_never_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waiting doesn't cure has its cause, without our frames, and no advice to wait."""

    def denied(*_: object, **__: object) -> None:
        raise Fault(FaultKind.DENIED, "no right")

    monkeypatch.setattr(Maker, "_connect", denied)
    error = refused(transactional=False)

    assert str(error) == "orders: 0 of 1 producers could be connected; last error: producer 0: no right"
    cause = error.__cause__
    while cause is not None:
        assert cause.__traceback__ is None
        cause = cause.__cause__


def test_an_error_of_a_users_code_keeps_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that aren't ours stay: a class that replaces confluent-kafka's may have failed."""

    def users() -> None:
        raise KeyError("mine")

    def connect(*_: object, **__: object) -> None:
        users()

    monkeypatch.setattr(Maker, "_connect", connect)
    error = refused(transactional=False)

    assert 'raise KeyError("mine")' in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"", "no broker has answered yet at {servers}: is it Kafka, and does it speak plaintext?"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "; that isn't Kafka, but something whose answer begins with 'HTTP'"),
        (b"\x7f\xfd\x18\xff\xfd\x20\xff\xfd", "; that isn't Kafka"),
        (TLS_ALERT, "no broker has answered yet at {servers}: is it Kafka, and does it speak plaintext?"),
    ],
)
def test_a_port_that_is_not_kafkas(server: Server, said: bytes, told: str) -> None:
    """The address is named, and who answers there as far as can be seen."""
    servers = server(said)
    error = refused(transactional=False, servers=servers)

    assert str(error).endswith(told.format(servers=servers))
    assert servers in str(error)


def test_a_checkout_at_a_port_that_is_not_kafkas(server: Server) -> None:
    """A checkout that comes too late names the address, too."""
    servers = server(b"")
    orders = pool(servers, **IDS)
    with pytest.raises(PoolTimeoutError, match=f"no broker has answered yet at {servers}: is it Kafka"):
        orders.producer(timeout_ms=500).__enter__()
    orders.close(timeout_ms=0, force=True)


def test_a_record_at_a_port_that_is_not_kafkas(server: Server) -> None:
    """So does a record of a pool that was opened without a broker."""
    servers = server(b"")
    orders = pool(servers, open_policy="background", close_timeout_ms=0)
    told = f"no broker has answered yet at {servers}: is it Kafka"
    with orders, orders.producer() as producer, pytest.raises(DeliveryTimeoutError, match=told):
        producer.produce_sync("t", "v", timeout_ms=1_500)
