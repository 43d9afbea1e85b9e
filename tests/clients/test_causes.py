"""What explains why nothing works, and what only follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError

from tests.connections import connected
from tests.scripted import outcome
from wd_di._kafka import troubles
from wd_di._kafka.librdkafka import KafkaClient
from wd_di._kafka.lines import guess
from wd_di._kafka.port import Fault, FaultKind
from wd_di._records.delivery import Delivery, Ledger
from wd_di.testing import MockKafka

REFUSED = KafkaError._AUTHENTICATION, "sasl_ssl://b1:9093/1: SASL authentication error: wrong password"
NO_TOKEN = KafkaError._AUTHENTICATION, "Failed to acquire SASL OAUTHBEARER token: invalid_client"
HANDSHAKE = "sasl_ssl://b1:9093/1: SASL PLAIN mechanism handshake failed"
TOO_SOON = KafkaError._AUTHENTICATION, f"{HANDSHAKE}: Broker: Request not valid in current SASL state: broker's ..."
CUT = KafkaError._AUTHENTICATION, f"{HANDSHAKE}: Local: Broker transport failure: broker's supported mechanisms: "
UNTRUSTED = KafkaError._SSL, "ssl://b1:9093/1: SSL handshake failed: error:0A000086: certificate verify failed"
CLOSED = KafkaError._TRANSPORT, "ssl://b1:9093/1: Connect to b1:9093 failed: Connection refused"
DOWN = KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"


@pytest.fixture
def told() -> list[Exception]:
    """The errors that were told."""
    return []


@pytest.fixture
def client(told: list[Exception]) -> Iterator[KafkaClient]:
    """A client that has met no broker yet."""
    with MockKafka() as kafka:
        kafka.set_rtt(60_000)
        client = connected(
            lambda answers: KafkaClient(
                {"bootstrap.servers": kafka.bootstrap_servers}, None, answers, trouble=told.append
            )
        )
        yield client
        client.close()


def hear(client: KafkaClient, *errors: tuple[int, str]) -> None:
    """Have librdkafka tell these."""
    for code, text in errors:
        client._note(KafkaError(code, text))
    client.poll(0)


def test_what_follows_from_a_refusal(client: KafkaClient) -> None:
    """Who wasn't let in knows why, whatever fails afterwards, and for as long as it lives."""
    hear(client, REFUSED, DOWN)
    raised = outcome(lambda: client.probe(0.05))
    hear(client, CLOSED, DOWN)

    assert "wrong password" in str(client.last_error)
    assert "wrong password" in str(client.fault)
    assert isinstance(raised, Fault)


@pytest.mark.parametrize("error", [CUT, CLOSED])
def test_a_login_without_an_answer(client: KafkaClient, error: tuple[int, str]) -> None:
    """A connection that ends while one logs in is no refusal."""
    hear(client, error)

    assert client.fault is None
    assert error[1] in str(client.last_error)


@pytest.mark.parametrize("error", [NO_TOKEN, TOO_SOON])
@pytest.mark.parametrize("met", [True, False])
def test_a_login_that_ends(client: KafkaClient, told: list[Exception], error: tuple[int, str], *, met: bool) -> None:
    """Who was let in before goes on, while there is no new token or the broker is asked again too soon."""
    if met:
        client._answered()
    hear(client, error)

    assert met is (client.fault is None)
    assert [error[1]] == [str(each).split(" [")[0] for each in told]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test lets pass."""
    now = [1_000.0]
    monkeypatch.setattr(troubles.time, "monotonic", lambda: now[0])
    return now


def test_mistrust_that_lasts(client: KafkaClient, told: list[Exception], now: list[float]) -> None:
    """A certificate that isn't trusted ends the client when for a while nothing else was to be heard."""
    hear(client, UNTRUSTED, DOWN)
    now[0] += troubles.CAUSE_AFTER
    client.poll(0)
    patient = client.fault
    now[0] += 0.1
    client.poll(0)

    assert patient is None
    assert client.fault is not None
    assert FaultKind.DENIED is client.fault.kind
    assert "or is it out of date, or for another host" in str(client.fault)
    assert client.fault is told[-1]


@pytest.mark.parametrize("other", ["error", "answer", "sibling"])
def test_mistrust_of_one_among_others(client: KafkaClient, now: list[float], other: str) -> None:
    """Where another broker is down, and may be back soon, or has answered, the client goes on."""
    hear(client, UNTRUSTED)
    if other == "error":
        hear(client, CLOSED)
    elif other == "answer":
        client._answered()
        hear(client, UNTRUSTED)
    else:
        client.sibling_answered()
    now[0] += troubles.CAUSE_AFTER + 0.1
    client.poll(0)

    assert client.fault is None


def line(text: str, protocol: str = "") -> tuple[Any, ...]:
    """What librdkafka hands to a logger."""
    name = f"{protocol}://b1:9092/bootstrap" if protocol else "b1:9092/bootstrap"
    return 20, "%s [%s] %s", "FAIL", "orders-0#producer-1", f"[thrd:{name}]: {name}: {text}"


GONE = "Disconnected: connection closed by peer: receive 0 after POLLIN (after 1ms in state {state})"


@pytest.mark.parametrize(
    ("protocol", "state", "says"),
    [
        ("", "APIVERSION_QUERY", "does that port speak TLS? security.protocol is plaintext"),
        ("sasl_plaintext", "APIVERSION_QUERY", "does that port speak TLS? security.protocol is sasl_plaintext"),
        ("", "UP", "does that port want a login, by SASL? security.protocol is plaintext"),
        ("ssl", "UP", "does that port want a login, by SASL? security.protocol is ssl"),
        ("ssl", "APIVERSION_QUERY", None),
        ("sasl_ssl", "UP", None),
        ("", "CONNECT", None),
    ],
)
def test_a_guess(client: KafkaClient, protocol: str, state: str, says: str | None) -> None:
    """A connection that ends where another protocol would end it is a question, until a broker has answered."""
    said = line(GONE.format(state=state), protocol)
    found = guess(said)
    client._overhear(said)
    first = client.last_error
    client._answered()
    client._overhear(said)

    assert (None if says is None else f"; {says}") == (found and found[found.index(";") :])
    assert found == first
    assert client.last_error is None


def test_lines_that_say_nothing() -> None:
    """Other lines are none, and neither is what isn't a line of librdkafka's."""
    assert guess(line("Connect to b1:9092 failed: Connection refused (after 1ms in state CONNECT)")) is None
    assert guess((20, "something")) is None


def test_the_right_that_is_meant(client: KafkaClient) -> None:
    """Of one and the same code the right is another one where offsets are committed."""
    code = KafkaError.TOPIC_AUTHORIZATION_FAILED
    written = client._translator.fault(KafkaError(code, "Failed to add partition(s) to transaction"))
    read = client._translator.fault(KafkaError(code, "Failed to commit offsets to transaction"))

    assert ["Write on the topic", "Read on the topic"] == [written.right, read.right]


def test_an_end_that_has_a_name(client: KafkaClient) -> None:
    """The fatal error of librdkafka's says no more than that; what has led to it is said instead."""
    known = client._translator.fault(KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, "no PID"))
    fault = client._translator.fault(KafkaError(KafkaError._FATAL, "Fatal error"), known=known)

    assert "IdempotentWrite on the cluster" == fault.right
    assert "missing right: IdempotentWrite on the cluster" in str(fault)


def test_records_that_an_abort_gives_up() -> None:
    """Where nothing but the abort is the reason, asking for one begins no transaction."""
    with MockKafka() as kafka:
        kafka.create_topic("orders")
        config = {
            "bootstrap.servers": kafka.bootstrap_servers,
            "transactional.id": "t-0",
            "transaction.timeout.ms": 10_000,
            "linger.ms": 5_000,
        }
        client = connected(lambda answers: KafkaClient(config, "t-0", answers))
        client.init(10)
        for _ in range(2):
            client.begin()
            delivery = enqueued(client)
            client.abort(10)
            client.poll(0)

            assert "given up before the broker answered: Local: Purged in queue [_PURGE_QUEUE]" in str(delivery.failure)
            assert str(delivery.failure).endswith("]")
        client.close()


def enqueued(client: Any) -> Delivery:
    """A record that waits in the client's queue."""
    ledger = Ledger(client.connection, 1_000)
    client.connection.in_flight.ledgers.add(ledger)
    delivery = Delivery("orders", ledger)
    ledger.pending.add(delivery)
    client.produce("orders", b"x", None, delivery)
    return delivery
