from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from scripted import Script, make_pool, outcome, plain_pool, watch

from wd_di import _topics
from wd_di._client import Fault, Kind
from wd_di._memory import MemoryClient
from wd_di._threads import Deadline
from wd_di._topics import Topics
from wd_di.errors import DeliveryError, DeliveryTimeoutError
from wd_di.events import ErrorOccurred

HINT = "the brokers know no topic 'oders': does the topic exist?"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """What the pool's clients do."""
    return Script.install(monkeypatch)


def record(outcome: str = "pending") -> Any:
    """What stands for a delivery."""
    return SimpleNamespace(topic="oders", _outcome=outcome, done=lambda: outcome != "pending")


def partition(leader: int = 1, in_sync: int = 1, replicas: int = 1) -> Any:
    """What stands for a partition's metadata."""
    return SimpleNamespace(leader=leader, isrs=[1] * in_sync, replicas=[1] * replicas)


# -- what is asked -----------------------------------------------------------------------------------


def test_an_answered_topic_is_never_asked_for(monkeypatch):
    """A topic whose first record was answered in time is watched no more."""
    topics = Topics()
    topics.sent("orders", record("delivered"))
    watched = topics.watched
    monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + 2)
    due = topics.due()
    topics.sent("orders", record())

    assert [True, [], False] == [watched, due, topics.watched]


@pytest.mark.parametrize("fate", ["failed", "purged"])
def test_a_record_that_was_not_stored_proves_nothing(monkeypatch, fate):
    """A topic whose first record had another end is watched again."""
    topics = Topics()
    topics.sent("oders", record(fate))
    monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + 2)
    due = topics.due()
    topics.sent("oders", record())

    assert [[], True] == [due, topics.watched]


def test_an_unanswered_topic_is_asked_for_again_and_again(monkeypatch):
    """A first record without an answer has its topic asked for after a second, and then twice in a second."""
    topics, now = Topics(), 100.0
    monkeypatch.setattr(_topics, "time", SimpleNamespace(monotonic=lambda: now))
    topics.sent("oders", record())
    asked = []
    while now < 103:
        for topic in topics.due():
            asked.append(now - 100)
            topics.asked(topic)
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

    def sent(client: MemoryClient, delivery: Any, topic: str, **fields: Any) -> None:
        produce(client, delivery, topic, **fields)
        client.topics.sent(topic, delivery)

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


# -- what the client doesn't know yet ------------------------------------------------------------------


OUTDATED = Fault(Kind.OUTDATED, "Local: Unknown partition [_UNKNOWN_PARTITION]")


def test_an_unknown_partition_is_tried_again(script, monkeypatch):
    """A record that was refused for old metadata is sent once these are renewed."""
    monkeypatch.setattr(MemoryClient, "renew", lambda *_: True)
    with plain_pool() as clicks, clicks.producer() as producer:
        script.on("produce", OUTDATED)
        report = producer.produce_sync("orders", "x", partition=2)

    assert 2 == report.partition


def test_an_unknown_partition_that_stays_unknown(script, monkeypatch):
    """It is tried twice, no more, and the error says what to do; a transaction lives on."""
    monkeypatch.setattr(MemoryClient, "renew", lambda *_: True)
    script.always("produce", OUTDATED)
    refused = pytest.raises(DeliveryError, match=r"_UNKNOWN_PARTITION\]; one that was made a moment ago .* try again")
    with make_pool() as orders, orders.transaction() as tx, refused:
        tx.produce_async("orders", "x", partition=2)

    assert 2 == script.calls.count("produce")
    assert "commit" in script.calls


def test_an_unknown_partition_on_a_loop(script, monkeypatch):
    """On a loop a plain call is refused at once and asks for the next time; an awaited one is tried again, once."""
    asked = []
    monkeypatch.setattr(MemoryClient, "renew", lambda *_: True)
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
