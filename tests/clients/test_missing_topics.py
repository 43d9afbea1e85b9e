from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.scripted import PATIENCE, Script, make_pool, outcome, plain_pool, watch
from wd_di._concurrency.deadline import Deadline
from wd_di._kafka import topics as _topics
from wd_di._kafka.memory import MemoryClient
from wd_di._kafka.port import Fault, FaultKind
from wd_di._kafka.topics import Topics
from wd_di._records.record import Message
from wd_di.errors import DeliveryError, DeliveryTimeoutError, TransactionAbortedError
from wd_di.events import ErrorOccurred

HINT = "the brokers know no topic 'oders': does the topic exist?"


def send(topics: Topics, topic: str, outcome: str = "pending") -> None:
    """A record for the topic, with this outcome."""
    first = topics.first(topic, lambda *_: None)
    if first is not None:
        topics.watch(topic, first)
        if outcome != "pending":
            first(None if outcome == "delivered" else outcome, None)


def partition(leader: int = 1, in_sync: int = 1, replicas: int = 1) -> Any:
    """What stands for a partition's metadata."""
    return SimpleNamespace(leader=leader, isrs=[1] * in_sync, replicas=[1] * replicas)


# -- what is asked -----------------------------------------------------------------------------------


def test_an_answered_topic_is_never_asked_for(monkeypatch):
    """A topic whose first record was answered in time is watched no more."""
    topics = Topics()
    send(topics, "orders", "delivered")
    watched = topics.watched
    monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + 2)
    due = topics.due()
    send(topics, "orders")

    assert [True, [], False] == [watched, due, topics.watched]


@pytest.mark.parametrize("fate", ["failed", "purged"])
def test_a_record_that_was_not_stored_proves_nothing(monkeypatch, fate):
    """A topic whose first record had another end is watched again."""
    topics = Topics()
    send(topics, "oders", fate)
    monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + 2)
    due = topics.due()
    send(topics, "oders")

    assert [[], True] == [due, topics.watched]


def test_an_unanswered_topic_is_asked_for_again_and_again(monkeypatch):
    """A first record without an answer has its topic asked for after a second, and then twice in a second."""
    topics, now = Topics(), 100.0
    monkeypatch.setattr(_topics, "time", SimpleNamespace(monotonic=lambda: now))
    send(topics, "oders")
    asked = []
    while now < 103:
        for topic in topics.due():
            asked.append(now - 100)
            topics.asked(topic, answered=True)
        now += 0.25

    assert [1.0, 1.5, 2.0, 2.5] == asked


# -- what it explains --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("partitions", "error", "hint"),
    [
        (
            {0: partition(in_sync=3, replicas=3), 1: partition(in_sync=1, replicas=3)},
            None,
            "1 of 3 .* partition 1 are in",
        ),
        ({0: partition(), 1: partition(leader=-1)}, None, "partition 1 of 'oders' has no leader"),
        ({}, "Broker: Leader not available", "of 'oders' the brokers say: Broker: Leader not available"),
        ({}, None, "no partitions yet"),
    ],
)
def test_hints(partitions, error, hint):
    """What the brokers say of a topic is told in words."""
    topics = Topics()
    topics.learn("oders", partitions, error)

    with pytest.raises(ValueError, match=hint):
        raise ValueError(topics.hint("oders"))
    assert not topics.missing("oders")


def test_an_old_answer_explains_nothing(monkeypatch):
    """What the brokers said a while ago may be wrong by now."""
    topics = Topics()
    topics.learn_missing("oders")
    fresh = topics.hint("oders")
    monkeypatch.setattr(_topics, "FRESH", 0.0)

    assert f"; {HINT}" == fresh
    assert ["", False] == [topics.hint("oders"), topics.missing("oders")]


def test_in_vain_from_half_of_the_deadline_on():
    """A call gives up at half of its deadline, and not before, nor where the settings give the topic more time.

    What was said before the call doesn't count: the topic may have been made since.
    """
    patient, topics, earlier = Topics(patient=True), Topics(), Topics()
    earlier.learn_missing("oders")
    long, over = Deadline(10), Deadline(0)
    for each in (patient, topics):
        each.learn_missing("oders")

    assert [False, True] == [topics.in_vain("oders", long), topics.in_vain("oders", over)]
    assert not patient.in_vain("oders", over)
    assert not earlier.in_vain("oders", over)
    assert not topics.in_vain("orders", over)


def test_in_vain_once_a_topic_had_its_time(monkeypatch):
    """However long the deadline, a call gives up when its topic was missing for as long as one may take to appear.

    That time begins with the first such answer, not with the record: no broker may have been there to ask.
    """
    topics, now = Topics(), 100.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(_topics, "time", clock)
    monkeypatch.setattr("wd_di._concurrency.deadline.time", clock)
    deadline, vain = Deadline(60), []
    for now in (110.0, 111.0, 112.0, 113.0, 114.0):  # noqa: B007  (the clock shows it)
        topics.learn_missing("oders")
        vain.append(topics.in_vain("oders", deadline))
    topics.learn("oders", {0: partition()}, None)
    topics.learn_missing("oders")

    assert [False, False, False, False, True] == vain
    assert not topics.in_vain("oders", deadline)


def test_not_in_vain_at_the_first_answer(monkeypatch):
    """A broker that was away until after half of the deadline, and then says no, may be about to create the topic."""
    topics, now = Topics(), 100.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(_topics, "time", clock)
    monkeypatch.setattr("wd_di._concurrency.deadline.time", clock)
    deadline, vain = Deadline(30), []
    for now in (117.0, 117.5, 118.0, 118.5):  # noqa: B007  (the clock shows it)
        topics.learn_missing("oders")
        vain.append(topics.in_vain("oders", deadline))

    assert [False, False, False, True] == vain


def test_a_silent_broker_gets_more_time(monkeypatch):
    """After each silence a question may wait longer for its answer, up to a limit; after an answer as at first."""
    topics, slices = Topics(), []
    for answered in (False, False, False, True):
        slices.append(topics.slice)
        topics.asked("oders", answered=answered)

    assert [0.6, 1.2, 2.4, 2.4, 0.6] == [*slices, topics.slice]


# -- in a pool ---------------------------------------------------------------------------------------


@pytest.fixture
def missing(script: Script, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Brokers that are silent, and know no topic."""
    script.silent = True
    monkeypatch.setattr(_topics, "ASK_AFTER", 0.05)
    monkeypatch.setattr(_topics, "ASK_AGAIN", 0.05)

    def ask(client: MemoryClient, topic: str, seconds: float) -> bool:
        client.topics.learn_missing(topic)
        return True

    monkeypatch.setattr(MemoryClient, "ask", ask)
    produce = MemoryClient.produce

    def sent(client: MemoryClient, topic: str, *given: Any) -> None:
        value, key, on_delivery, rest = given
        first = client.topics.first(topic, on_delivery)
        produce(client, topic, value, key, first or on_delivery, rest)
        if first is not None:
            client.topics.watch(topic, first)

    monkeypatch.setattr(MemoryClient, "produce", sent)
    return script


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("share", [1, 4])
def test_a_missing_topic_ends_waiting_early(share):
    """Each way of waiting ends at half of its deadline, with the hint; one event tells of it."""
    with plain_pool(share=share, produce_timeout_ms=2_000, close_timeout_ms=0) as clicks, clicks.producer() as producer:
        told = watch(clicks, ErrorOccurred)
        for wait in (
            lambda: producer.produce_sync("oders", "x"),
            lambda: producer.produce_async("oders", "x").result(),
            producer.flush,
        ):
            started = time.monotonic()
            error = outcome(wait)
            took = time.monotonic() - started

            assert isinstance(error, DeliveryTimeoutError)
            assert HINT in str(error)
            assert 1 <= took < 1.8
    assert [f"records for 'oders' have no answer; {HINT}"] == [str(event.error) for event in told]
    assert ["topic"] == [event.where for event in told]


@pytest.mark.usefixtures("missing")
def test_a_missing_topic_ends_awaiting_early():
    """So does what a task awaits."""

    async def run(clicks: Any) -> list[float]:
        took = []
        async with clicks.producer() as producer:
            for wait in (lambda: producer.produce_sync("oders", "x"), lambda: producer.produce_async("oders", "x")):
                started = time.monotonic()
                with pytest.raises(DeliveryTimeoutError, match="does the topic exist"):
                    await wait()
                took.append(time.monotonic() - started)
        return took

    with plain_pool(produce_timeout_ms=1_000, close_timeout_ms=0) as clicks:
        assert all(0.5 <= took < 0.9 for took in asyncio.run(run(clicks)))


@pytest.mark.usefixtures("missing")
def test_a_missing_topic_aborts_early():
    """A commit aborts at half of its deadline, with a DeliveryError that lists the records."""
    with make_pool(commit_timeout_ms=2_000, close_timeout_ms=0) as orders:
        deliveries = []

        def commit() -> None:
            with orders.transaction() as tx:
                deliveries.append(tx.produce_async("oders", "x"))

        started = time.monotonic()
        error = outcome(commit)
        took = time.monotonic() - started

    assert isinstance(error, DeliveryError)
    assert f"a record for 'oders' had no answer; {HINT}" in str(error)
    assert tuple(deliveries) == error.failed
    assert 1 <= took < 1.8


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("share", [1, 4])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_one_missing_topic_among_many(monkeypatch, share, asynchronous):
    """A call with several records ends at half of its deadline if one topic is missing, whichever record that is."""
    monkeypatch.setattr(MemoryClient, "ask", lambda client, topic, _: _learn(client, topic))
    messages = [Message("orders", "slow"), Message("oders", "misspelt")]

    async def run() -> None:
        async with clicks.producer() as producer:
            await producer.produce_many_sync(messages, timeout_ms=2_000)

    def call() -> None:
        with clicks.producer() as producer:
            producer.produce_many_sync(messages, timeout_ms=2_000)

    with plain_pool(share=share, close_timeout_ms=0) as clicks:
        started = time.monotonic()
        error = outcome(lambda: asyncio.run(run()) if asynchronous else call())
        took = time.monotonic() - started

    assert isinstance(error, DeliveryTimeoutError)
    assert f"2 of 2 records in time, the first to 'oders'; they may still be delivered; {HINT}" in str(error)
    assert 1 <= took < 1.8


def _learn(client: MemoryClient, topic: str) -> bool:
    if topic == "oders":
        client.topics.learn_missing(topic)
    else:
        client.topics.learn(topic, {0: partition()}, None)
    return True


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_missing_topic_ends_a_call_that_is_a_transaction(asynchronous):
    """A transaction around one call aborts at half of the call's own deadline, whatever a commit may take."""

    async def run() -> None:
        async with orders.producer() as producer:
            await producer.produce_sync("oders", "x", timeout_ms=1_000)

    def call() -> None:
        with orders.producer() as producer:
            producer.produce_sync("oders", "x", timeout_ms=1_000)

    with make_pool(close_timeout_ms=0) as orders:
        started = time.monotonic()
        error = outcome(lambda: asyncio.run(run()) if asynchronous else call())
        took = time.monotonic() - started

    assert isinstance(error, DeliveryError)
    assert HINT in str(error)
    assert 0.5 <= took < 0.9


def test_a_call_that_is_a_transaction_ends_in_time(script):
    """Where there is no answer at all it aborts before the call's own deadline, and names that."""
    script.silent = True
    with make_pool(close_timeout_ms=0) as orders, orders.producer() as producer:
        started = time.monotonic()
        with pytest.raises(TransactionAbortedError, match=r"no answer in time \(timeout_ms is 600\)"):
            producer.produce_sync("orders", "x", timeout_ms=600)
        took = time.monotonic() - started

    assert took < 0.9


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_call_that_is_a_transaction_names_the_setting_of_its_time(script, asynchronous):
    """Without a time of its own it names the pool's setting for calls, which is what can be raised."""

    async def run() -> None:
        async with orders.producer() as producer:
            await producer.produce_sync("orders", "x")

    def call() -> None:
        with orders.producer() as producer:
            producer.produce_sync("orders", "x")

    script.silent = True
    with make_pool(close_timeout_ms=0, timeout_ms=5_000, produce_timeout_ms=400) as orders:
        error = outcome(lambda: asyncio.run(run()) if asynchronous else call())

    assert isinstance(error, TransactionAbortedError)
    assert "1 of 1 records had no answer in time (produce_timeout_ms is 400)" in str(error)


@pytest.mark.usefixtures("missing")
def test_topics_are_asked_for_side_by_side(monkeypatch):
    """One topic's slow answer doesn't keep the others waiting: all are asked for at once."""
    barrier, topics = threading.Barrier(3), {f"t{number}" for number in range(3)}

    def ask(client: MemoryClient, topic: str, seconds: float) -> bool:
        barrier.wait(PATIENCE)
        client.topics.learn_missing(topic)
        return True

    monkeypatch.setattr(MemoryClient, "ask", ask)
    with plain_pool(close_timeout_ms=0) as clicks, clicks.producer() as producer:
        told = watch(clicks, ErrorOccurred)
        deliveries = [producer.produce_async(topic, "x") for topic in topics]
        with pytest.raises(DeliveryTimeoutError):
            deliveries[0].result(timeout_ms=2_000)

    assert not barrier.broken
    assert 3 <= len(told)


# -- what the client doesn't know yet ------------------------------------------------------------------


OUTDATED = Fault(FaultKind.OUTDATED, "Local: Unknown partition [_UNKNOWN_PARTITION]")


def test_an_unknown_partition_is_tried_again(script):
    """A record that was refused for old metadata is sent once these are renewed."""
    script.there.set()
    with plain_pool() as clicks, clicks.producer() as producer:
        script.on("produce", OUTDATED)
        report = producer.produce_sync("orders", "x", partition=2)

    assert 2 == report.partition


def test_an_unknown_partition_that_stays_unknown(script):
    """It is tried twice, no more, and the error says what to do; a transaction lives on."""
    script.there.set()
    script.always("produce", OUTDATED)
    refused = pytest.raises(DeliveryError, match=r"_UNKNOWN_PARTITION\]; one that was made a moment ago .* try again")
    with make_pool() as orders, orders.transaction() as tx, refused:
        tx.produce_async("orders", "x", partition=2)

    assert 2 == script.calls.count("produce")
    assert "commit" in script.calls


def test_an_unknown_partition_on_a_loop(script, monkeypatch):
    """On a loop a plain call is refused at once and asks for the next time; an awaited one is tried again, once."""
    asked = []
    script.there.set()
    monkeypatch.setattr(MemoryClient, "ask", lambda _, topic, seconds: asked.append((topic, seconds)))

    async def run() -> int:
        async with clicks.producer() as producer:
            script.on("produce", OUTDATED)
            with pytest.raises(DeliveryError, match="try again"):
                producer.produce_async("orders", "x", partition=2)
            script.on("produce", OUTDATED)
            partition = (await producer.produce_sync("orders", "x", partition=2)).partition
            script.always("produce", OUTDATED)
            with pytest.raises(DeliveryError, match="try again"):
                await producer.produce_sync("orders", "x", partition=2)
            return partition

    with plain_pool() as clicks:
        assert 2 == asyncio.run(run())
    assert asked
