from __future__ import annotations

import gc
import json
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition, cimpl
from pydantic import SecretStr

from tests.connections import connected
from tests.pools import until
from tests.scripted import in_thread, outcome
from wd_di._concurrency.deadline import Deadline
from wd_di._kafka import handle, librdkafka, nested
from wd_di._kafka.checking import check
from wd_di._kafka.ended import OneCall
from wd_di._kafka.librdkafka import KafkaClient
from wd_di._kafka.port import SLICE, Fault, FaultKind
from wd_di._kafka.translation import is_fatal, reveal
from wd_di._kafka.troubles import Siblings
from wd_di._records.connection import Connection, persist
from wd_di._records.delivery import Delivery, Ledger
from wd_di.errors import AuthorizationError, DeliveryError, ForkedPoolError, SettingsError
from wd_di.settings import SettingsWarning
from wd_di.testing import ApiKey, MockKafka, raise_fatal_error

SECRET = "s3cr3t-value"  # noqa: S105  (what must not be seen)
FENCED, INVALID_STATE = 47, 48


class MineError(Exception):
    """Raised by a program's own code."""


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    """A mock cluster with a topic."""
    with MockKafka() as kafka:
        kafka.create_topic("orders")
        yield kafka


def connect(
    kafka: MockKafka,
    transactional_id: str | None = "t-0",
    *,
    trouble: Any = None,
    siblings: Siblings | None = None,
    **given: object,
) -> KafkaClient:
    """A client of the mock cluster; keywords are settings with underscores."""
    config: dict[str, object] = {"bootstrap.servers": kafka.bootstrap_servers, "linger.ms": 0}
    if transactional_id is not None:
        config |= {"transactional.id": transactional_id, "transaction.timeout.ms": 10_000}
    config |= {key.replace("_", "."): value for key, value in given.items()}
    client: KafkaClient = connected(
        lambda answers: KafkaClient(config, transactional_id, answers, trouble=trouble, siblings=siblings)
    )
    return client


def made(config: dict[str, object]) -> KafkaClient:
    """A plain client of these settings."""
    return connected(lambda answers: KafkaClient(config, None, answers))


def begun(kafka: MockKafka) -> KafkaClient:
    """A client in an open transaction."""
    client = connect(kafka)
    client.init(5)
    client.begin()
    return client


def ended(call: Any, client: KafkaClient) -> None:
    """Commit or abort for as long as it takes, as a transaction does."""
    persist(lambda: call(5), client, lambda: True)


def produce(client: KafkaClient, topic: str = "orders", value: bytes = b"x") -> Delivery:
    """Enqueue one record as a borrower does."""
    connection: Connection = client.connection  # type: ignore[attr-defined]
    ledger = Ledger(connection, 1_000)
    connection.in_flight.ledgers.add(ledger)
    delivery = Delivery(topic, ledger)
    ledger.pending.add(delivery)
    client.produce(topic, value, None, delivery)
    return delivery


def answer(client: KafkaClient, delivery: Delivery) -> Delivery:
    """Flush until the record has its answer, or the client is lost."""
    deadline = Deadline(5)
    while not (delivery.done() or client.fault or deadline.passed):
        client.flush(0.1)
    return delivery


def kind(call: Any, *given: Any) -> FaultKind | None:
    """The kind of fault that a call ended in, if any."""
    result = outcome(lambda: call(*given))
    return result.kind if isinstance(result, Fault) else None


class Node:
    """Something that a weak reference can watch."""

    itself: Node


def garbage(callback: Any) -> weakref.ref[Node]:
    """A reference to a cycle that nothing else refers to; its callback is called when that is collected."""
    node = Node()
    node.itself = node
    return weakref.ref(node, callback)


def end(client: KafkaClient) -> int:
    """Dispose of a client within its time."""
    started = time.monotonic()
    lost = client.connection.dispose(Deadline(0.3), 0.2)
    assert time.monotonic() - started < 1
    return lost


# -- what the broker answers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected", "lost", "abortable"),
    [
        (KafkaError.INVALID_PRODUCER_EPOCH, FaultKind.FENCED, True, False),
        (KafkaError.PRODUCER_FENCED, FaultKind.FENCED, True, False),
        (KafkaError.INVALID_TXN_STATE, FaultKind.FATAL, True, False),
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, FaultKind.DENIED, True, False),
        (KafkaError.INVALID_PRODUCER_ID_MAPPING, FaultKind.ABORTABLE, False, True),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, FaultKind.DENIED, False, True),
    ],
)
def test_commit(kafka, code, expected, lost, abortable):
    """Each answer to a commit has its kind; the fatal ones are kept, the others leave a client that can abort."""
    client = begun(kafka)
    answer(client, produce(client))
    kafka.push_errors(ApiKey.END_TXN, code)
    refused = outcome(lambda: client.commit(5))

    assert expected is refused.kind
    assert lost is (client.fault is refused)
    assert [abortable] * 2 == [refused.requires_abort, kind(client.abort, 2) is None]


def test_transient_answers(kafka):
    """What librdkafka repeats by itself isn't told."""
    client = begun(kafka)
    answer(client, produce(client))
    kafka.push_errors(ApiKey.END_TXN, KafkaError.CONCURRENT_TRANSACTIONS, KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
    ended(client.commit, client)

    assert client.fault is None
    assert not client.in_transaction


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (KafkaError.INVALID_PRODUCER_EPOCH, FaultKind.FENCED),
        (KafkaError.PRODUCER_FENCED, FaultKind.FENCED),
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, FaultKind.DENIED),
    ],
)
def test_init(kafka, code, expected):
    """What ends an initialisation for good is kept as the client's fault."""
    client = connect(kafka)
    kafka.push_errors(ApiKey.INIT_PRODUCER_ID, code)

    assert expected is kind(client.init, 5)
    assert expected is client.fault.kind


def test_unreachable_init(kafka):
    """An initialisation without a broker may be repeated on the same handle, and succeeds when there is one."""
    client = connect(kafka)
    kafka.broker_down(1)
    first = kind(client.init, 0.1)
    kafka.broker_up(1)
    client.init(5)

    assert FaultKind.RETRIABLE is first
    assert client.fault is None


def test_fenced_while_producing(kafka):
    """A client that is fenced by a produce request knows it without being asked, and never calls it retriable."""
    client = begun(kafka)
    kafka.push_errors(ApiKey.PRODUCE, KafkaError.INVALID_PRODUCER_EPOCH)
    answer(client, produce(client))

    assert FaultKind.FENCED is client.fault.kind
    assert [FaultKind.FENCED] * 3 == [kind(client.commit, 0.1), kind(client.abort, 0.1), kind(client.begin)]


def test_commit_in_slices(kafka):
    """A commit that has timed out is asked again with the same call, which gives the real answer."""
    client = begun(kafka)
    answer(client, produce(client))
    kafka.set_rtt(200)
    first, open_ = kind(client.commit, 0.05), client.in_transaction
    ended(client.commit, client)

    assert FaultKind.RETRIABLE is first
    assert (True, False) == (open_, client.in_transaction)


def test_an_abort_in_slices(kafka):
    """An abort that has timed out is asked again with the same call, and nothing else can be done meanwhile."""
    client = begun(kafka)
    answer(client, produce(client))
    kafka.set_rtt(200)
    first, other = kind(client.abort, 0.05), outcome(lambda: client.commit(5))
    ended(client.abort, client)

    assert [FaultKind.RETRIABLE, FaultKind.RETRIABLE] == [first, other.kind]
    assert "abort_transaction has no answer yet" in str(other)
    assert not client.in_transaction


@pytest.mark.parametrize("where", ["main", "thread", "main, empty"])
@pytest.mark.parametrize("name", ["commit", "abort"])
def test_the_call_that_ends_a_transaction(kafka, monkeypatch, name, where):
    """It is one, with all the time that there is; where a Ctrl-C may come a thread makes it, awaited in slices."""
    client = begun(kafka)
    if where != "main, empty":
        answer(client, produce(client))
    kafka.set_rtt(250)
    made: list[tuple[int, float]] = []
    make = client._calls.make

    def note(call: Any, kept: Any, seconds: float) -> Any:
        if f"{name}_transaction" in repr(call):
            made.append((threading.get_ident(), seconds))
        return make(call, kept, seconds)

    waits: list[float] = []
    answered = OneCall.answered

    def waiting(one: OneCall, seconds: float) -> bool:
        waits.append(seconds)
        return answered(one, seconds)

    monkeypatch.setattr(nested.Calls, "make", lambda _, *given: note(*given))
    monkeypatch.setattr(OneCall, "answered", waiting)

    def end_it() -> int:
        ended(getattr(client, name), client)
        return threading.get_ident()

    here = in_thread(end_it) if where == "thread" else end_it()
    [(thread, seconds)] = made

    assert not client.in_transaction
    assert (where == "main") == (thread != here)
    assert 5 == seconds
    assert SLICE >= max(waits, default=0)


def test_interrupted_commit(kafka):
    """After a Ctrl-C that took a commit's answer away the same call still finds out that it was yes."""
    client = begun(kafka)
    answer(client, produce(client))
    kafka.set_rtt(60)
    threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        client.commit(5)
    ended(client.commit, client)
    committed = not client.in_transaction
    client.begin()
    answer(client, produce(client))
    ended(client.commit, client)

    assert committed
    assert not client.in_transaction
    assert FaultKind.OTHER is kind(client.commit, 1)


def test_close_while_a_commit_goes_on(kafka):
    """Who was interrupted may give the commit up; close waits for nothing of it, and nothing can be asked any more."""
    client = begun(kafka)
    answer(client, produce(client))
    kafka.set_rtt(400)
    late = kind(client.commit, 0.05)
    client.connection.doubtful = True

    assert FaultKind.RETRIABLE is late
    assert 0 == end(client)
    assert FaultKind.CLOSED is kind(client.commit, 5)


@pytest.mark.parametrize("state", ["Ready", "BeginCommit", "CommittingTransaction", "CommitNotAcked", "ReadyNotAcked"])
def test_what_state_says_that_a_commit_is_done(kafka, monkeypatch, state):
    """Where its answer was taken away: only that in which another one may begin. In the others one is under way."""
    client = begun(kafka)
    answer(client, produce(client))

    def interrupted(_: object, *_given: object) -> None:
        raise KeyboardInterrupt

    def told(_: object, *_given: object) -> None:
        error = KafkaError(KafkaError._STATE, f"Operation not valid in state {state}")
        raise client._translator.fault(error) from KafkaException(error)

    with monkeypatch.context() as patch:
        patch.setattr(KafkaClient, "_call", interrupted)
        first = in_thread(partial(client.commit, 5))
        patch.setattr(KafkaClient, "_call", told)
        refused = in_thread(partial(client.commit, 5))

    assert isinstance(first, KeyboardInterrupt)
    assert (state == "Ready") == (refused is None)
    assert (state == "Ready") == (not client.in_transaction)


def test_wrong_state(kafka):
    """A call out of order is neither retriable nor abortable."""
    client = connect(kafka)
    before_init = kind(client.begin)
    client.init(5)
    client.begin()

    assert [FaultKind.OTHER, FaultKind.OTHER] == [before_init, kind(client.begin)]


# -- records -----------------------------------------------------------------------------------------


def test_delivered(kafka):
    """A record that was stored has its place."""
    client = connect(kafka, None)
    report = answer(client, produce(client)).result(0)

    assert ("orders", 0, 0) == (report.topic, report.partition, report.offset)
    assert report.latency_ms > 0
    assert report.timestamp_ms > 0


@pytest.mark.parametrize(
    ("code", "error", "text"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, AuthorizationError, "no right to write to 'orders'"),
        (KafkaError.MSG_SIZE_TOO_LARGE, DeliveryError, "'orders' wasn't delivered: .*MSG_SIZE_TOO_LARGE"),
    ],
)
def test_refused_record(kafka, code, error, text):
    """A record that the broker refuses has the reason as its error."""
    client = connect(kafka, None)
    kafka.push_errors(ApiKey.PRODUCE, code)
    delivery = answer(client, produce(client))

    assert "failed" == delivery.outcome
    with pytest.raises(error, match=text):
        delivery.result(0)


def test_purged_record(kafka):
    """A record that was purged says so."""
    client = connect(kafka, None, linger_ms=5_000)
    delivery = produce(client)
    client.purge()
    client.poll(1)

    assert "purged" == delivery.outcome


def test_reason(kafka):
    """The reason why a transaction can only abort is told while it is open and doomed, and asking changes nothing."""
    client = begun(kafka)
    healthy = client.reason()
    kafka.push_errors(ApiKey.ADD_PARTITIONS_TO_TXN, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    answer(client, produce(client))
    doomed = client.reason()
    client.abort(5)
    after = client.reason()

    assert "missing right: Write on the topic" in str(doomed)
    assert [None, None] == [healthy, after]
    assert client.last_error is None


def test_unknown_topic(kafka):
    """A topic that doesn't exist is asked after in the error."""
    error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    result, told = connect(kafka, None).verdict(error, "ordres")[:2]

    assert "failed" == result
    assert "'ordres' wasn't delivered" in str(told)
    assert "does the topic exist?" in str(told)


def test_full_queue(kafka):
    """A full queue is a kind of its own, and what it owes is counted."""
    client = connect(kafka, None, linger_ms=5_000, queue_buffering_max_messages=2)
    produce(client)
    produce(client)

    assert FaultKind.QUEUE_FULL is kind(produce, client)
    assert 2 == client.owes()


def test_refused_record_explains_nothing(kafka):
    """A record that the client didn't take isn't the last thing that went wrong with the connection."""
    client = connect(kafka, None, message_max_bytes=1_000)
    with pytest.raises(Fault):
        produce(client, value=b"x" * 2_000)

    assert client.last_error is None
    end(client)


def test_too_large(kafka):
    """What librdkafka itself refuses leaves the transaction as it was."""
    client = begun(kafka)
    refused = kind(produce, client, "orders", b"x" * 2_000_000)
    answer(client, produce(client))
    client.commit(5)

    assert FaultKind.OTHER is refused
    assert client.fault is None


# -- errors that concern no call ---------------------------------------------------------------------


@pytest.mark.parametrize(("code", "expected"), [(FENCED, FaultKind.FENCED), (INVALID_STATE, FaultKind.FATAL)])
def test_fatal_error(kafka, code, expected):
    """A fatal error, which a poll raises once, is kept; poll goes on serving, and all other calls tell its kind."""
    client = connect(kafka, None, enable_idempotence=True)
    raise_fatal_error(client._kept[0], code, "scripted")
    client.poll(0.1)
    client.poll(0)

    assert expected is client.fault.kind
    assert "scripted" in str(client.fault)
    assert expected is kind(produce, client)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("transactional_id", ["t-0", None])
def test_fatal_error_while_garbage_is_collected(kafka, transactional_id):
    """Since 3.12 Python loses a fatal error if a weak reference tells of its end just then: it is no less fatal."""
    in_full = transactional_id is not None or sys.version_info < (3, 12)
    client = begun(kafka) if transactional_id else connect(kafka, None, enable_idempotence=True)
    if transactional_id:
        kafka.push_errors(ApiKey.ADD_PARTITIONS_TO_TXN, KafkaError.PRODUCER_FENCED)
        client._kept[0].produce("orders", b"x")
        until(lambda: is_fatal(outcome(client._kept[0].begin_transaction)))
    else:
        raise_fatal_error(client._kept[0], FENCED, "scripted")
    called: list[object] = []

    def poll(producer):
        gc.enable()
        return producer.poll(0)

    thresholds = gc.get_threshold()
    gc.collect()
    gc.disable()
    try:
        watched = garbage(called.append)
        gc.set_threshold(1)
        client._serve(poll, 0)
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()

    assert [watched] == called
    assert (FaultKind.FENCED if in_full else FaultKind.FATAL) is client.fault.kind
    assert client.fault.kind is kind(produce, client)


def test_first_fault_stays(kafka):
    """The first fault is the one that counts."""
    client = begun(kafka)
    raise_fatal_error(client._kept[0], FENCED, "the first")
    client.poll(0.1)
    kind(client.abort, 0.1)
    kind(client.begin)

    assert "the first" in str(client.fault)


def test_denied_in_the_background(kafka):
    """A refused login, which librdkafka would repeat for ever, is kept as a fault and told."""
    told: list[Exception] = []
    client = connect(kafka, None, trouble=told.append)
    client._note(KafkaError(KafkaError._AUTHENTICATION, "SASL authentication error: no such user"))
    client.poll(0)

    assert FaultKind.DENIED is client.fault.kind
    assert [client.fault] == told
    assert "no such user" in client.last_error


def test_brokers_down(kafka):
    """Brokers that are down are told and remembered, but no fault."""
    told: list[Exception] = []
    client = connect(kafka, None, trouble=told.append)
    kafka.broker_down(1)
    deadline = Deadline(5)
    while not told and not deadline.passed:
        client.poll(0.1)

    assert any(each in client.last_error for each in ("_TRANSPORT", "_ALL_BROKERS_DOWN", "Disconnected"))
    assert client.fault is None


@pytest.mark.parametrize("on_main", [True, False])
def test_a_commit_that_goes_on_elsewhere(kafka, monkeypatch, on_main):
    """A commit from inside of a callback that had no answer in time has committed, if the next one finds it done."""
    monkeypatch.setattr(nested, "PATIENCE", 0)
    client, handle, free = begun(kafka), None, threading.Event()
    answer(client, produce(client))

    class Blocked:
        def commit_transaction(self, seconds: float) -> None:
            free.wait(5)
            handle.commit_transaction(seconds + 5)

        def __getattr__(self, name: str) -> Any:
            return getattr(handle, name)

    handle, client._kept[0] = client._kept[0], Blocked()
    in_callback = partial(client._calls.make, lambda _: kind(client.commit, 0.05), [None], 1)
    late = in_callback() if on_main else in_thread(in_callback)
    client._kept[0] = handle
    free.set()
    if not on_main:
        client._calls._left.join(5)
    finish = partial(ended, client.commit, client)
    finish() if on_main else in_thread(finish)

    assert FaultKind.RETRIABLE is late
    assert not client.in_transaction


def handles() -> int:
    """How many of confluent-kafka's clients live in this process."""
    gc.collect()
    return sum(isinstance(each, cimpl.Producer) for each in gc.get_objects())


@pytest.mark.parametrize("what", ["produce", "commit", "abort", "send_offsets", "init", "full"])
def test_a_kept_error_keeps_no_client(kafka, what):
    """The frames of an error that is logged or compared later don't keep the client's threads and connections alive."""
    before = handles()
    settings = {"queue_buffering_max_messages": 1, "linger_ms": 1000} if what == "full" else {}
    client = connect(kafka, None if what == "full" else f"kept-{what}", **settings)
    if what in ("produce", "commit", "abort", "send_offsets"):
        client.init(5)
        client.begin()
    if what != "full":
        raise_fatal_error(client._kept[0], FENCED, "scripted")

    def produce() -> None:
        for _ in range(3):
            client.produce("orders", b"v", None, lambda *_: None)

    calls = {
        "produce": produce,
        "commit": lambda: client.commit(1),
        "abort": lambda: client.abort(1),
        "send_offsets": lambda: client.send_offsets([TopicPartition("orders", 0, 1)], b"CGMD", 1),
        "init": lambda: client.init(1),
        "full": produce,
    }
    with pytest.raises((Fault, ValueError)) as kept:
        calls[what]()
    client.connection.dispose(Deadline(0), 0)

    assert before == handles()
    assert kept.value.__traceback__ is not None


def test_statistics(kafka):
    """Statistics are off unless somebody listens."""
    heard: list[str] = []
    config = {"bootstrap.servers": kafka.bootstrap_servers, "statistics.interval.ms": 10}
    silent = connect(kafka, None, statistics_interval_ms=10)
    client = connected(lambda answers: KafkaClient(config, None, answers, statistics=heard.append))
    deadline = Deadline(5)
    while not heard and not deadline.passed:
        client.poll(0.05)

    assert heard[0].startswith("{")
    assert 0 == silent.owes()


def statistics(client: KafkaClient) -> dict[str, Any]:
    """What librdkafka next counts of a client that was connected with a listener."""
    client._statistics.clear()
    deadline = Deadline(5)
    while not client._statistics and not deadline.passed:
        client._kept[0].poll(0.05)
    return json.loads(client._statistics[0])


def listening(kafka: MockKafka) -> KafkaClient:
    """A plain client whose statistics somebody hears."""
    config = {"bootstrap.servers": kafka.bootstrap_servers, "statistics.interval.ms": 50}
    client: KafkaClient = connected(lambda answers: KafkaClient(config, None, answers, statistics=lambda _: None))
    return client


def test_a_probe_leaves_nothing_to_ask_for(kafka):
    """The proof of a connection knows of no topic that librdkafka would ask the brokers for every second."""
    client = listening(kafka)
    client.probe(5)

    assert {} == statistics(client)["topics"]


def test_a_later_proof_is_a_new_one(monkeypatch):
    """That brokers were there once proves nothing: a later probe asks them again."""
    with MockKafka() as kafka:
        client = connect(kafka, None)
        client.probe(5)
        client.probe(0)  # no need to ask
    monkeypatch.setattr(librdkafka, "PROOF_FRESH", 0.0)

    assert kind(client.probe, 0.3) is not None


def test_a_cluster_without_an_id(kafka):
    """Where metadata bring no id at once, a connection is proved by asking for all topics."""
    client, asked = listening(kafka), []
    nothing = KafkaException(KafkaError(KafkaError._TIMED_OUT, "Failed to retrieve cluster id"))
    handle = client._kept[0]

    class WithoutId:
        def cluster_id(self, seconds: float) -> None:  # noqa: ARG002
            raise nothing

        def list_topics(self, timeout: float) -> None:
            asked.append("all topics")
            handle.list_topics(timeout=timeout)

        def __getattr__(self, name: str) -> Any:
            return getattr(handle, name)

    client._kept[0] = WithoutId()
    late = kind(client.probe, 0)
    client.probe(5)
    client._kept[0] = handle

    assert ["all topics"] == asked
    assert FaultKind.RETRIABLE is late


def test_a_busy_broker_is_asked_again(kafka, monkeypatch):
    """A broker that doesn't answer at once for a new partition is asked again, for as long as the call may take."""
    client, slices = connect(kafka, None), []

    def ask(topic: str, seconds: float) -> bool:
        slices.append(round(seconds, 1))
        if len(slices) == 4:
            client.topics.learn(topic, dict.fromkeys(range(3), SimpleNamespace(leader=1, isrs=[1], replicas=[1])), None)
        return len(slices) == 4

    monkeypatch.setattr(client, "ask", ask)

    assert client.renew("orders", 2, Deadline(30))
    assert [0.2, 0.4, 0.8, 1.6] == slices


def test_a_new_partition_of_a_silent_broker(kafka, monkeypatch):
    """No call waits for that longer than it may, nor longer than two seconds."""
    client = connect(kafka, None)
    monkeypatch.setattr(client, "ask", lambda _, seconds: time.sleep(seconds))
    took = []
    for seconds, topic in ((0.3, "short"), (30, "long")):
        started = time.monotonic()
        assert not client.renew(topic, 2, Deadline(seconds))
        took.append(time.monotonic() - started)

    assert 0.3 <= took[0] < 0.6
    assert 2 <= took[1] < 2.6


def test_closing_does_not_wait_for_an_answer():
    """A producer whose brokers are being asked for a topic closes at once."""
    with MockKafka() as kafka:
        client = connect(kafka, None)
    asks = threading.Thread(target=lambda: client.ask("oders", 2.0))
    asks.start()
    while not client._asking:
        pass
    started = time.monotonic()
    client.close()
    took = time.monotonic() - started
    asks.join()

    assert took < 0.5


def note(client: KafkaClient, code: int, text: str) -> None:
    """Let librdkafka tell of an error that concerns no call."""
    client._note(KafkaError(code, text))


REFUSED, DOWN = (KafkaError._TRANSPORT, "Connection refused"), (KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")
NO_HOST, NO_LOGIN = (KafkaError._RESOLVE, "Failed to resolve 'h:1'"), (KafkaError._AUTHENTICATION, "no such user")


@pytest.mark.parametrize(
    ("errors", "kept"),
    [
        ([NO_HOST, DOWN], NO_HOST),
        ([NO_LOGIN, REFUSED, DOWN], NO_LOGIN),
        ([REFUSED, NO_HOST], NO_HOST),
        ([DOWN, REFUSED], REFUSED),
    ],
)
def test_last_error_is_the_telling_one(kafka, errors, kept):
    """A summary never takes the place of its cause, nor a lost connection that of a refused login."""
    client = connect(kafka, None)
    for error in errors:
        note(client, *error)
        client.poll(0)

    assert kept[1] in client.last_error


def test_success_ends_an_error(kafka):
    """A record that was stored since, or a call that a broker answered, ends what went wrong before."""
    client = connect(kafka, None)
    note(client, *REFUSED)
    client.poll(0)
    before = client.last_error
    answer(client, produce(client))
    by_record = client.last_error
    note(client, *REFUSED)
    client.poll(0)
    client.probe(5)

    assert "Connection refused" in before
    assert [None, None] == [by_record, client.last_error]


def two(kafka: MockKafka, transactional_id: str | None = None, **given: Any) -> tuple[KafkaClient, KafkaClient]:
    """Two clients of one pool and cluster; the keywords are the second one's."""
    siblings = Siblings()
    return connect(kafka, None, siblings=siblings), connect(kafka, transactional_id, siblings=siblings, **given)


@pytest.mark.parametrize("how", ["record", "probe", "ask", "init", "commit"])
def test_a_success_ends_the_error_of_an_idle_sibling(kafka, how):
    """Whatever a broker did for one client of a pool ends what went wrong before with those that nobody uses."""
    idle, busy = two(kafka, "t-0" if how in ("init", "commit") else None)
    if how == "commit":
        busy.init(5)
        busy.begin()
        answer(busy, produce(busy))
    note(idle, *REFUSED)
    idle.poll(0)
    before = idle.last_error
    if how == "record":
        answer(busy, produce(busy))
    else:
        {"probe": busy.probe, "ask": lambda _: busy.ask("orders", 5), "init": busy.init, "commit": busy.commit}[how](5)

    assert "Connection refused" in before
    assert idle.last_error is None
    assert idle.last_error_since(time.monotonic()) is None


def test_an_error_after_a_siblings_success_stands(kafka):
    """What goes wrong later is told, and what went wrong during a call explains that call."""
    idle, busy = two(kafka)
    note(idle, *REFUSED)
    idle.poll(0)
    busy.probe(5)
    started = time.monotonic()
    note(idle, *NO_HOST)
    idle.poll(0)
    before = idle.last_error
    busy.ask("orders", 5)

    assert "Failed to resolve" in before
    assert "Failed to resolve" in idle.last_error_since(started)
    assert idle.last_error is None


@pytest.mark.parametrize("how", ["record", "transaction", "init"])
def test_who_waits_hears_of_no_sibling(kafka, how):
    """A client that waits for an answer may wait for a broker that is still away, whatever another one did."""
    busy, waiting = two(kafka, None if how == "record" else "t-0", linger_ms=60_000)
    if how == "record":
        produce(waiting)
    if how == "transaction":
        waiting.init(5)
        waiting.begin()
    note(waiting, *REFUSED)
    waiting.poll(0)
    busy.probe(5)

    assert "Connection refused" in waiting.last_error
    end(waiting)


@pytest.mark.parametrize("lasting", ["login", "right"])
def test_what_lasts_hears_of_no_sibling(kafka, lasting):
    """A sibling's success proves neither a login nor a right, and gives back nothing that is lost."""
    busy, denied = two(kafka, "t-0")
    denied.init(5)
    if lasting == "login":
        note(denied, *NO_LOGIN)
        denied.poll(0)
    else:
        kafka.push_errors(ApiKey.ADD_PARTITIONS_TO_TXN, KafkaError.TOPIC_AUTHORIZATION_FAILED)
        denied.begin()
        answer(denied, produce(denied))
        kind(denied.commit, 5)
        denied.abort(5)
    before = denied.last_error
    busy.probe(5)

    assert before is not None
    assert before == denied.last_error


def test_a_summary_ends_with_a_siblings_success(kafka, monkeypatch):
    """Brokers that were down when nobody used a client aren't told of later, if they have answered another since."""
    told: list[Exception] = []
    busy, idle = two(kafka, linger_ms=60_000, trouble=told.append)
    note(idle, *DOWN)
    idle.poll(0)
    busy.probe(5)
    produce(idle)
    monkeypatch.setattr("wd_di._kafka.troubles.CAUSE_AFTER", 0.0)
    idle.poll(0)

    assert [] == told
    end(idle)


def test_a_closed_client_is_nobodys_sibling(kafka):
    """A client that was closed in trouble isn't kept by those that go on."""
    siblings = Siblings()
    client = connect(kafka, None, siblings=siblings)
    note(client, *REFUSED)
    client.poll(0)
    end(client)

    assert set() == siblings._troubled


@pytest.mark.parametrize(("first", "expected"), [("error", None), ("record", "Connection refused [_TRANSPORT]")])
def test_errors_and_answers_keep_their_order(kafka, first, expected):
    """Of an error and an answer that one poll brings, the later one counts."""
    client = connect(kafka, None)
    if first == "error":
        note(client, *REFUSED)
    delivery = produce(client)
    client._kept[0].flush(5)  # the answer has arrived, and isn't settled yet
    if first == "record":
        note(client, *REFUSED)
    client.poll(0)

    assert delivery.done()
    assert expected == client.last_error


def test_an_error_during_the_call_explains_it(kafka):
    """What went wrong while a call waited is told by it, although another broker answered since; later it is not."""
    client, started = connect(kafka, None), time.monotonic()
    note(client, *REFUSED)
    client.poll(0)
    answer(client, produce(client))

    assert "Connection refused" in client.last_error_since(started)
    assert client.last_error_since(time.monotonic()) is None


def test_an_old_error_explains_nothing(kafka, monkeypatch):
    """What went wrong long ago is no cause of what fails today."""
    client = connect(kafka, None)
    note(client, *REFUSED)
    client.poll(0)
    monkeypatch.setattr("wd_di._kafka.troubles.FRESH", 0.0)

    assert client.last_error is None


def test_a_summary_alone_is_not_told_at_once(kafka, monkeypatch):
    """All brokers down, without a cause, is an idle connection that was closed, unless records stay unanswered."""
    told: list[Exception] = []
    client = connect(kafka, None, trouble=told.append, linger_ms=5_000)
    monkeypatch.setattr("wd_di._kafka.troubles.CAUSE_AFTER", 0.0)
    note(client, *DOWN)
    client.poll(0)
    client.poll(0)
    idle = list(told)
    delivery = produce(client)
    note(client, *DOWN)
    client.poll(0)
    client.poll(0)

    assert [] == idle
    [error] = told
    assert re.fullmatch(r"1/1 brokers are down \[_ALL_BROKERS_DOWN\]; no broker has answered yet at .*", str(error))
    assert not delivery.done()
    end(client)


# -- topics ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 4_000),
        ({"message.timeout.ms": 3_000}, 1_500),
        ({"message.timeout.ms": 0}, 4_000),
        ({"transaction.timeout.ms": 6_000}, 3_000),
        ({"message.timeout.ms": "wrong"}, 4_000),
        ({"default.topic.config": {"message.timeout.ms": 3_000}}, 1_500),
        ({"message.timeout.ms": 60_000, "default.topic.config": {"message.timeout.ms": 3_000}}, 1_500),
    ],
)
def test_a_topics_time_to_appear(given, expected):
    """An unknown topic's records fail before they expire, and after 4 s."""
    assert expected == handle._propagation_ms(given)


def test_ask(kafka):
    """Asking for a topic tells how many partitions it has; with no broker nothing is learnt."""
    client = connect(kafka, None)
    answered = client.ask("orders", 5)
    count = client.topics.answer_for("orders").partitions
    kafka.broker_down(1)
    client.topics = type(client.topics)()

    assert answered
    assert count >= 1
    assert not client.ask("orders", 0.2)
    assert client.topics.answer_for("orders") is None
    end(client)
    assert not client.ask("orders", 0.2)


def test_renew(kafka):
    """A partition that isn't there is asked for thrice, and then not again within a second; one that is, once."""
    client, asked = connect(kafka, None), []
    ask = client.ask
    client.ask = lambda topic, seconds: asked.append(topic) or ask(topic, seconds)
    found = client.renew("orders", 0, Deadline(5))
    lost = [client.renew("orders", 99, Deadline(5)) for _ in range(2)]

    assert [True, False, False] == [found, *lost]
    assert 1 + len(librdkafka.RENEWALS) == len(asked)


def test_an_unknown_partition_says_which_there_are(kafka):
    """A record for a partition that isn't there is refused with the number of those that are."""
    client = connect(kafka, None)
    client.ask("orders", 5)
    last = client.topics.answer_for("orders").partitions - 1
    _, told = client.verdict(KafkaError(KafkaError._UNKNOWN_PARTITION), "orders")[:2]

    assert (f"0 to {last}" if last else "only partition 0") in str(told)


# -- secrets -----------------------------------------------------------------------------------------


def test_secrets_in_errors():
    """A secret in librdkafka's text is replaced, also in the traceback, and where one secret begins another."""
    config = {
        "bootstrap.servers": "nowhere:1",
        "sasl.password": SecretStr(SECRET),
        "ssl.key.password": SecretStr(f"{SECRET}-longer"),
        "compression.type": f"{SECRET}-longer",
    }
    with pytest.raises(Fault, match=r'Invalid value "\*\*\*" for configuration property') as caught:
        connected(lambda answers: KafkaClient(config, None, answers))

    assert FaultKind.SETTINGS is caught.value.kind
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_secrets_in_deliveries(kafka):
    """A secret in the text of a record's or the client's error is replaced."""
    client = connect(kafka, None, sasl_password=SecretStr(SECRET))
    _, told = client.verdict(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, f"said {SECRET}"), "orders")[:2]
    client._note(KafkaError(KafkaError._TRANSPORT, f"said {SECRET}"))
    client.poll(0)

    assert "said ***" in str(told)
    assert "said ***" in client.last_error


def test_reveal():
    """Only librdkafka sees the values of secrets."""
    assert {"a": SECRET, "b": 1} == reveal({"a": SecretStr(SECRET), "b": 1})


# -- check -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"no.such": "1"}, 'No such configuration property: "no.such"'),
        ({"compression.type": "foo"}, 'Invalid value "foo" for configuration property "compression.codec"'),
        ({"acks": "1", "enable.idempotence": "true"}, "`acks` must be set to `all` when `enable.idempotence` is true"),
        ({"message.timeout.ms": 5, "linger.ms": 900}, "`message.timeout.ms` must be greater than `linger.ms`"),
        ({"security.protocol": "ssl", "ssl.ca.location": "/nowhere"}, "ssl.ca.location failed"),
    ],
)
def test_check(wrong, text, caplog):
    """Unknown keys, wrong values and contradictions are found without a broker, by the pool's name, and not logged."""
    with caplog.at_level(logging.DEBUG), pytest.raises(SettingsError) as caught:
        check("orders", {"bootstrap.servers": "nowhere:1", **wrong})

    assert str(caught.value).startswith("orders: librdkafka refuses the kafka settings: ")
    assert text in str(caught.value)
    assert [] == caplog.messages


@pytest.mark.parametrize(
    ("given", "default"), [({}, ", without which it is GSSAPI,"), ({"sasl.mechanism": "GSSAPI"}, "")]
)
def test_a_mechanism_that_is_not_built_in(given, default):
    """Who sets sasl_ssl and forgets the mechanism is told to set it, not to compile librdkafka."""
    with pytest.raises(SettingsError, match=rf"No provider .*GSSAPI.*\. Set kafka\.sasl_mechanism{default} to one"):
        check("orders", {"security.protocol": "sasl_ssl", **given})


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("retires", "retries"),
        ("LINGER.MS", "linger.ms"),
        ("lingerMs", "linger.ms"),
        ("sasl-password", "sasl.password"),
        (" linger.ms\n", "linger.ms"),
        ("kafka.linger.ms", "linger.ms"),
        ("TRANSACTIONAL.ID", "transactional.id"),
        ("value.serializer", None),
        ("no.such", None),
    ],
)
def test_check_of_a_misspelt_name(name: str, near: str | None) -> None:
    """The setting that was meant is asked for, if there is one."""
    with pytest.raises(SettingsError) as caught:
        check("orders", {"bootstrap.servers": "nowhere:1", name: "5"})

    assert str(caught.value).endswith(f'"{name}"' + (f", did you mean {near}?" if near else ""))


def test_check_of_good_settings():
    """Good settings pass, callables and a transactional id included."""
    check("orders", {"bootstrap.servers": "nowhere:1", "transactional.id": "t", "oauth_cb": print, "linger.ms": 5})


def test_check_tells_of_consumer_settings(caplog):
    """A setting that only consumers have is one warning that names it: librdkafka would ignore it."""
    config = {"bootstrap.servers": "nowhere:1", "group.id": "g", "auto.offset.reset": "earliest", "debug": "all"}
    with caplog.at_level(logging.DEBUG), pytest.warns(SettingsWarning, match="orders: a producer ignores") as caught:
        check("orders", config)

    [warning] = caught
    assert all(name in str(warning.message) for name in ("group.id", "auto.offset.reset", "leave it out"))
    assert [] == caplog.messages


def test_check_hides_secrets():
    """What check says shows no secret."""
    config = {"sasl.password": SecretStr(SECRET), "compression.type": SECRET}
    with pytest.raises(SettingsError) as caught:
        check("orders", config)

    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("refuse", [partial(check, "orders"), made])
def test_variables_hide_secrets(refuse):
    """Error trackers show the variables of every frame, so none of them holds a revealed secret."""
    with pytest.raises((SettingsError, Fault)) as caught:
        refuse({"sasl.password": SecretStr(SECRET), "no.such.key": 1})

    frames = [frame for frame, _ in traceback.walk_tb(caught.tb)]
    assert SECRET not in repr([dict(frame.f_locals) for frame in frames])


# -- the end -----------------------------------------------------------------------------------------


def test_dispose_of_a_new_client(kafka):
    """A client that was never initialised goes at once."""
    assert 0 == end(connect(kafka))


def test_dispose_while_initialising(kafka):
    """A client whose initialisation goes on in the background goes at once."""
    client = connect(kafka)
    kafka.broker_down(1)
    kind(client.init, 0.05)

    assert 0 == end(client)


def test_dispose_flushes(kafka):
    """What a healthy client still has is sent first."""
    client = connect(kafka, None, linger_ms=5_000)
    delivery = produce(client)

    assert (0, "delivered") == (end(client), delivery.outcome)


def test_dispose_of_an_open_transaction(kafka):
    """An open transaction is aborted, and its records have an answer."""
    client = begun(kafka)
    delivery = produce(client)
    end(client)

    assert not client.in_transaction
    assert delivery.done()


def test_dispose_in_doubt(kafka):
    """A client in doubt is dropped, for it answers nothing but the same commit."""
    client = begun(kafka)
    answer(client, produce(client))
    kafka.set_rtt(3_000)
    assert FaultKind.RETRIABLE is kind(client.commit, 0.05)
    client.connection.doubtful = True

    assert 0 == end(client)
    assert client.in_transaction


@pytest.mark.parametrize("transactional_id", ["t-0", None])
def test_dispose_after_a_fatal_error(kafka, transactional_id):
    """After a fatal error nothing is waited for; the records are given up."""
    client = begun(kafka) if transactional_id else connect(kafka, None, linger_ms=5_000)
    delivery = produce(client)
    raise_fatal_error(client._kept[0], FENCED, "scripted")
    client.poll(0.1)
    end(client)

    assert delivery.done()
    assert isinstance(delivery.exception(0), DeliveryError)


def test_dispose_with_dead_brokers(kafka):
    """With dead brokers the deadline counts, and what wasn't sent is given up."""
    client = connect(kafka, None)
    answer(client, produce(client))
    kafka.broker_down(1)
    delivery = produce(client)

    assert (1, "purged") == (end(client), delivery.outcome)


def test_dispose_after_a_lost_report(kafka, monkeypatch):
    """A report that was lost, in a callback that somebody has wrapped, isn't waited for."""

    def fail(*_: object) -> None:
        raise MineError

    client = connect(kafka, None)
    answer(client, produce(client))
    monkeypatch.setattr(Delivery, "__call__", fail)
    delivery = produce(client)
    with pytest.raises(MineError):
        client.flush(5)
    started = time.monotonic()
    lost = client.connection.dispose(Deadline(5), 1)

    assert (1, "purged") == (lost, delivery.outcome)
    assert time.monotonic() - started < 1


def test_dispose_twice(kafka):
    """A client that is gone is gone."""
    client = connect(kafka, None)

    assert [0, 0] == [end(client), end(client)]


def test_after_the_end(kafka):
    """A closed client says so to every call."""
    client = connect(kafka)
    client.close()
    calls = [client.begin, lambda: client.poll(0), lambda: client.commit(0), lambda: produce(client), client.purge]

    assert [FaultKind.CLOSED] * 5 == [kind(call) for call in calls]
    assert 0 == client.owes()


def test_collected(kafka):
    """A client that is forgotten is forgotten by the registry of live ones, too."""
    client = connect(kafka, None)
    known = client in handle._live
    address = id(client)
    end(client)
    del client
    gc.collect()

    assert known
    assert address not in {id(other) for other in handle._live}


def test_pinned(kafka):
    """After a fork the child's copy is inert: it says what to do, and is never closed."""
    client = connect(kafka, None)
    handle = client._kept[0]
    client.pin()
    with pytest.raises(ForkedPoolError, match="the child must ask the pool for another one"):
        produce(client)
    client.close()

    assert 0 == len(handle)
    handle.close()


def test_a_record_whose_topic_went_away(kafka, monkeypatch):
    """A record that was queued for a partition of a deleted topic fails with the same hint as any other."""
    client = connect(kafka, None)
    monkeypatch.setattr(client, "ask", lambda topic, _: client.topics.learn_missing(topic))
    outcome_, error = client.verdict(KafkaError(KafkaError._DESTROY), "gone")[:2]

    assert "failed" == outcome_
    assert "the brokers know no topic 'gone': does the topic exist?" in str(error)
