"""Topics and partitions that aren't there, not yet there, or were not there a moment ago."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from tests import internals
from tests.kafka.clusters import started
from tests.kafka.readers import values
from tests.pools import Recorder, bounded, plain, pool, unique, until
from wd_di import (
    DeliveryError,
    DeliveryTimeoutError,
    ErrorOccurred,
    Message,
    ProduceError,
    ProducerPool,
    TransactionAbortedError,
)
from wd_di._kafka.troubles import SILENCE
from wd_di.testing import LocalKafka

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wd_di import Producer

HINT = "does the topic exist"
EARLY_MS = 5_000
"""Default deadlines end before this for a topic that doesn't exist."""

# -- a topic that doesn't exist --------------------------------------------------------------------


def produce_and_wait(producer: Producer, topic: str) -> None:
    """Produce, and ask the delivery."""
    producer.produce_async(topic, "lost").result()


def produce_and_flush(producer: Producer, topic: str) -> None:
    """Produce, and flush."""
    producer.produce_async(topic, "lost")
    producer.flush()


WAYS: dict[str, Callable[[Producer, str], object]] = {
    "produce_sync": lambda producer, topic: producer.produce_sync(topic, "lost"),
    "produce_many_sync": lambda producer, topic: producer.produce_many_sync([Message(topic, "lost")] * 3),
    "result": produce_and_wait,
    "flush": produce_and_flush,
}


def took(fn: Callable[[], object]) -> tuple[float, BaseException | None]:
    """Return the milliseconds that a call took, and what it raised."""
    started = time.monotonic()
    try:
        fn()
    except ProduceError as error:
        return (time.monotonic() - started) * 1000, error
    return (time.monotonic() - started) * 1000, None


@pytest.fixture(scope="module")
def misspelt(_own_kafka: LocalKafka) -> dict[str, tuple[str, float, Any, Recorder]]:
    """What each way of producing met, all of them at once: topic, milliseconds, error, events."""
    _own_kafka.start()
    found: dict[str, tuple[str, float, Any, Recorder]] = {}

    def transaction(recorder: Recorder, topic: str) -> None:
        with pool(_own_kafka.bootstrap_servers, size=1, observer=recorder) as orders, orders.transaction() as tx:
            tx.produce_async(topic, "lost")

    def implicit(recorder: Recorder, topic: str) -> None:
        with pool(_own_kafka.bootstrap_servers, size=1, observer=recorder) as orders, orders.producer() as producer:
            producer.produce_sync(topic, "lost")

    def simply(way: Callable[[Producer, str], object], **options: Any) -> Callable[[Recorder, str], None]:
        def run(recorder: Recorder, topic: str) -> None:
            clicks = plain(_own_kafka.bootstrap_servers, size=1, observer=recorder, **options)
            with clicks, clicks.producer() as producer:
                way(producer, topic)

        return run

    async def asynchronous(recorder: Recorder, topic: str) -> None:
        async with (
            plain(_own_kafka.bootstrap_servers, size=1, observer=recorder) as clicks,
            clicks.producer() as producer,
        ):
            await producer.produce_async(topic, "lost")

    async def asynchronous_transaction(recorder: Recorder, topic: str) -> None:
        async with pool(_own_kafka.bootstrap_servers, size=1, observer=recorder) as orders, orders.transaction() as tx:
            tx.produce_async(topic, "lost")

    def one(name: str, fn: Callable[[Recorder, str], None]) -> None:
        recorder, topic = Recorder(), unique(name.replace(" ", "-"))
        milliseconds, error = took(lambda: fn(recorder, topic))
        found[name] = topic, milliseconds, error, recorder

    calls = {name: simply(way) for name, way in WAYS.items()}
    calls |= {f"shared {name}": simply(way, share=4) for name, way in WAYS.items()}
    calls |= {"commit": transaction, "implicit": implicit}
    calls["await"] = lambda recorder, topic: asyncio.run(asynchronous(recorder, topic))
    calls["async commit"] = lambda recorder, topic: asyncio.run(asynchronous_transaction(recorder, topic))
    with ThreadPoolExecutor(len(calls)) as executor:
        list(executor.map(one, calls, calls.values()))
    return found


EVERY_WAY = pytest.mark.parametrize(
    "way", [*WAYS, *(f"shared {way}" for way in WAYS), "commit", "implicit", "await", "async commit"]
)


@EVERY_WAY
def test_a_misspelt_topic_fails_early(misspelt: dict[str, Any], way: str) -> None:
    """With default settings a record for a topic that isn't there fails within 5 s, and the error names the topic."""
    topic, milliseconds, error, _ = misspelt[way]

    assert isinstance(error, DeliveryError)
    assert f"'{topic}'" in str(error)
    assert HINT in str(error)
    assert milliseconds < EARLY_MS


@EVERY_WAY
def test_a_misspelt_topic_is_told_earlier(misspelt: dict[str, Any], way: str) -> None:
    """Long before that an event names the topic, once."""
    topic, _, _, recorder = misspelt[way]
    [told] = [event for event in recorder.of(ErrorOccurred) if event.where == "topic"]

    assert f"the brokers know no topic '{topic}': {HINT}?" in str(told.error)


def test_a_hint_comes_within_two_seconds(own_kafka: LocalKafka, caplog: pytest.LogCaptureFixture) -> None:
    """A record that nobody waits for is told of, too: by an event and a log line, within 2 s."""
    recorder, topic = Recorder(), unique("missing")
    with plain(own_kafka.bootstrap_servers, size=1, observer=recorder, close_timeout_ms=0) as clicks:
        with clicks.producer() as producer:
            delivery = producer.produce_async(topic, "lost")
        until(lambda: recorder.of(ErrorOccurred), timeout_ms=2_000)
        early = delivery.done()

    assert not early
    [line] = [line for line in caplog.messages if line.startswith("clicks: a topic may be misspelt")]
    assert f"the brokers know no topic '{topic}': {HINT}?" in line


@pytest.mark.parametrize("share", [1, 4])
@pytest.mark.parametrize("wait", ["produce_sync", "result", "flush", "await", "await a delivery"])
def test_a_short_deadline_ends_at_its_half(own_kafka: LocalKafka, wait: str, share: int) -> None:
    """A call whose deadline is shorter than a topic may take to appear ends at half of it, with the hint."""
    topic, deadline_ms = unique("missing"), 2_000

    async def awaited() -> None:
        async with clicks.producer() as producer:
            await (producer.produce_sync(topic, "lost") if wait == "await" else producer.produce_async(topic, "lost"))

    def waited() -> None:
        with clicks.producer() as producer:
            WAYS[wait](producer, topic)

    options = {"share": share, "produce_timeout_ms": deadline_ms, "close_timeout_ms": 0}
    raises = pytest.raises(DeliveryTimeoutError, match=f"'{topic}'.*{HINT}")
    with plain(own_kafka.bootstrap_servers, size=1, **options) as clicks, bounded(deadline_ms // 2), raises:
        waited() if wait in WAYS else asyncio.run(awaited())


def test_a_short_commit_ends_early(own_kafka: LocalKafka, own_topic: str) -> None:
    """A commit with a short deadline aborts before its end, with the hint; nothing is visible, and the pool goes on."""
    topic, made = unique("missing"), []

    def commit() -> None:
        with orders.transaction() as tx:
            tx.produce_async(own_topic, "taken back")
            made.append(tx.produce_async(topic, "lost"))

    with pool(own_kafka.bootstrap_servers, size=1, commit_timeout_ms=2_000) as orders:
        with bounded(1_000), pytest.raises(DeliveryError, match=f"'{topic}'.*{HINT}") as caught:
            commit()
        with orders.transaction() as tx:
            tx.produce_async(own_topic, "after")

    assert tuple(made) == caught.value.failed
    assert "aborted" == made[0].outcome
    assert ["after"] == values(own_kafka.bootstrap_servers, own_topic)


def test_patience_of_ones_own(own_kafka: LocalKafka) -> None:
    """Who gives topics more time in the settings has it: the call uses its whole deadline, and says why at the end."""
    kafka = {"topic.metadata.propagation.max.ms": 20_000}
    clicks = plain(own_kafka.bootstrap_servers, size=1, kafka=kafka, close_timeout_ms=0)
    with clicks, clicks.producer() as producer:
        milliseconds, error = took(lambda: producer.produce_sync(unique("missing"), "lost", timeout_ms=1_500))

    assert isinstance(error, DeliveryTimeoutError)
    assert HINT in str(error)
    assert 1_500 <= milliseconds


def test_a_topic_that_is_still_missing(own_kafka: LocalKafka) -> None:
    """Further records for it are refused with the same hint, and go through when it has been made."""
    topic = unique("late")
    kafka = {"topic.metadata.propagation.max.ms": 300}
    with plain(own_kafka.bootstrap_servers, size=1, kafka=kafka) as clicks, clicks.producer() as producer:
        for _ in range(3):
            with pytest.raises(DeliveryError, match=HINT):
                producer.produce_sync(topic, "lost")
        own_kafka.create_topic(topic)
        until(lambda: took(lambda: producer.produce_sync(topic, "found"))[1] is None, timeout_ms=3_000)

    assert ["found"] == values(own_kafka.bootstrap_servers, topic)


@pytest.mark.parametrize("make", [pool, plain])
def test_a_deleted_topic(own_kafka: LocalKafka, own_topic: str, make: Callable[..., ProducerPool]) -> None:
    """A topic that is deleted while its producer lives is asked after, and is used again when it is back."""
    admin = AdminClient({"bootstrap.servers": own_kafka.bootstrap_servers})
    with make(own_kafka.bootstrap_servers, size=1, kafka={"topic.metadata.propagation.max.ms": 500}) as orders:

        def produce() -> None:
            with orders.producer() as producer:
                producer.produce_sync(own_topic, "x")

        produce()
        admin.delete_topics([own_topic])[own_topic].result()
        with bounded(EARLY_MS + 1_000), pytest.raises(DeliveryError, match=HINT):
            produce()
        own_kafka.create_topic(own_topic)
        until(lambda: took(produce)[1] is None, timeout_ms=5_000)


@pytest.mark.parametrize("topic", ["two words", "a/b", ".", "..", "x" * 250, "ä"])
def test_a_name_that_no_topic_can_have(own_kafka: LocalKafka, topic: str) -> None:
    """A name that Kafka doesn't allow fails at once, and says so."""
    raises = pytest.raises(DeliveryError, match="TOPIC_EXCEPTION")
    with plain(own_kafka.bootstrap_servers, size=1) as clicks, clicks.producer() as producer, bounded(1_000), raises:
        producer.produce_sync(topic, "lost")


# -- a topic that is about to exist ----------------------------------------------------------------


def test_a_topic_made_a_moment_ago(own_kafka: LocalKafka) -> None:
    """A topic that was made just now is there."""
    admin = AdminClient({"bootstrap.servers": own_kafka.bootstrap_servers})
    topics = [unique("new") for _ in range(3)]
    with pool(own_kafka.bootstrap_servers, size=1) as orders:
        for topic in topics:
            admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()
            with orders.transaction() as tx:
                tx.produce_async(topic, "there")

    assert [["there"]] * 3 == [values(own_kafka.bootstrap_servers, topic) for topic in topics]


@pytest.mark.parametrize("make", [pool, plain])
def test_topics_that_the_broker_makes(servers: str, make: Callable[..., ProducerPool]) -> None:
    """A broker that creates topics by itself has made them before anybody gives up, also with a short deadline."""
    topics = [unique("auto") for _ in range(2)]
    with make(servers, size=1) as orders, orders.producer() as producer:
        for topic in topics:
            producer.produce_sync(topic, "made", timeout_ms=2_000)

    assert [["made"]] * 2 == [values(servers, topic) for topic in topics]


AWAY = 5.5
"""Seconds for which a broker is away: longer than an unknown topic has to appear once there is one to ask."""


def test_topics_of_a_broker_that_is_away() -> None:
    """While a broker that creates topics is away, a record that waits for it waits for its topic, too."""
    recorder, kinds = Recorder(), {"plain": plain, "in a transaction": pool}
    with started() as kafka, ExitStack() as pools:
        servers, [broker] = kafka.bootstrap_servers, kafka.brokers
        opened = {name: pools.enter_context(make(servers, size=4, observer=recorder)) for name, make in kinds.items()}
        broker.kill()
        until(lambda: {event.pool for event in recorder.of(ErrorOccurred)} == {each.name for each in opened.values()})
        late = pools.enter_context(plain(servers, size=1, open_policy="background"))
        comes = threading.Timer(AWAY, broker.start)
        comes.start()

        def produce(name: str, topic: str) -> None:
            with opened[name].producer() if name == "plain" else opened[name].transaction() as producer:
                producer.produce_sync(topic, "made")

        async def awaited(name: str, topic: str) -> None:
            async with opened[name].producer() if name == "plain" else opened[name].transaction() as producer:
                await producer.produce_sync(topic, "made")

        def implicitly(topic: str) -> None:
            with opened["in a transaction"].producer() as producer:
                producer.produce_sync(topic, "made")

        async def awaited_implicitly(topic: str) -> None:
            async with opened["in a transaction"].producer() as producer:
                await producer.produce_sync(topic, "made")

        def from_the_start(topic: str) -> None:
            with late.producer() as producer:
                producer.produce_async(topic, "made")
                producer.flush()

        calls: list[Callable[[str], object]] = [from_the_start, implicitly]
        calls.append(lambda topic: asyncio.run(awaited_implicitly(topic)))
        for name in kinds:
            calls += [partial(produce, name), lambda topic, name=name: asyncio.run(awaited(name, topic))]
        topics = [unique("away") for _ in calls]
        with ThreadPoolExecutor(len(calls)) as executor:
            found = [executor.submit(call, topic) for call, topic in zip(calls, topics, strict=True)]
        comes.join()

        assert [None] * len(calls) == [each.exception() for each in found]
        assert [["made"]] * len(calls) == [values(servers, topic) for topic in topics]


def test_topics_of_a_broker_that_is_frozen() -> None:
    """A broker that says nothing for a while isn't one that knows no topic: a new one's first record waits for it."""
    with started() as kafka, plain(kafka.bootstrap_servers, size=1) as clicks, pool(kafka.bootstrap_servers) as orders:
        [broker] = kafka.brokers
        known, new = unique("known"), [unique("frozen"), unique("frozen")]
        with clicks.producer() as producer, orders.producer() as ordering:
            producer.produce_sync(known, "known")
            ordering.produce_sync(known, "known")
            broker.pause()
            ends = threading.Timer(AWAY + SILENCE, broker.resume)
            ends.start()
            until(lambda: internals.client(producer).silent and internals.client(ordering).silent)
            with ThreadPoolExecutor(1) as executor, ordering.transaction() as tx:
                other = executor.submit(tx.produce_sync, new[1], "made")
                producer.produce_sync(new[0], "made", timeout_ms=20_000)
                other.result()
        ends.join()

        assert 2 * [["made"]] == [values(kafka.bootstrap_servers, topic) for topic in new]


DEMANDING = "demanding"


@pytest.fixture(scope="module")
def three() -> Iterator[LocalKafka]:
    """Three brokers that create topics by themselves, and a topic that asks for three replicas in sync."""
    config = {"default.replication.factor": 2, "min.insync.replicas": 1}
    with started(brokers=3, config=config) as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        topic = NewTopic(DEMANDING, 1, 3, config={"min.insync.replicas": "3"})
        admin.create_topics([topic])[DEMANDING].result()
        yield kafka


def test_topics_that_three_brokers_make(three: LocalKafka) -> None:
    """Many at once, and one while another broker takes over from one that was killed: all are made, none is lost."""
    topics = [unique("auto") for _ in range(30)]
    with plain(three.bootstrap_servers, size=3) as clicks, pool(three.bootstrap_servers, size=1) as orders:
        with clicks.producer() as producer:
            producer.produce_many_sync([Message(topic, "made") for topic in topics])
        with orders.transaction() as tx:
            tx.produce_many_async([Message(unique("auto"), "made") for _ in range(10)])
        three.brokers[0].kill()
        with clicks.producer() as producer:
            producer.produce_sync(unique("auto"), "made")


# -- partitions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [pool, plain])
def test_a_partition_added_later(own_kafka: LocalKafka, own_topic: str, make: Callable[..., ProducerPool]) -> None:
    """A partition that was added a moment ago can be used at once."""
    admin = AdminClient({"bootstrap.servers": own_kafka.bootstrap_servers})
    with make(own_kafka.bootstrap_servers, size=1) as orders, orders.producer() as producer:
        producer.produce_sync(own_topic, "first", partition=0)
        admin.create_partitions([NewPartitions(own_topic, 3)])[own_topic].result()

        assert 2 == producer.produce_sync(own_topic, "second", partition=2).partition
        assert 1 == producer.produce_many_sync([Message(own_topic, "third", partition=1)])[0].partition


def test_a_partition_added_later_on_a_loop(own_kafka: LocalKafka, own_topic: str) -> None:
    """On a loop nothing blocks: what is awaited works at once, what isn't says what to do, and works soon."""
    admin = AdminClient({"bootstrap.servers": own_kafka.bootstrap_servers})

    async def run() -> list[int]:
        async with clicks.producer() as producer:
            await producer.produce_sync(own_topic, "first", partition=0)
            await asyncio.to_thread(admin.create_partitions([NewPartitions(own_topic, 3)])[own_topic].result)
            with pytest.raises(DeliveryError, match="made a moment ago is known to it soon: try again"):
                producer.produce_async(own_topic, "refused", partition=1)
            awaited = await producer.produce_sync(own_topic, "second", partition=2)
            plainly = await producer.produce_async(own_topic, "third", partition=1)
            return [awaited.partition, plainly.partition]

    with plain(own_kafka.bootstrap_servers, size=1) as clicks:
        assert [2, 1] == asyncio.run(run())


@pytest.mark.parametrize("make", [pool, plain])
@pytest.mark.parametrize("first", [None, 1])
def test_a_partition_that_does_not_exist(
    own_kafka: LocalKafka, make: Callable[..., ProducerPool], first: int | None
) -> None:
    """A partition that isn't there fails at once, and the error says which there are."""
    topic = own_kafka.create_topic(unique("t"), partitions=2)
    with make(own_kafka.bootstrap_servers, size=1) as orders, orders.producer() as producer:
        if first is not None:
            producer.produce_sync(topic, "first", partition=first)
        for _ in range(2):
            with bounded(1_000), pytest.raises(DeliveryError, match=f"'{topic}' has 2 partitions, 0 to 1"):
                producer.produce_sync(topic, "lost", partition=7)

        assert 1 == producer.produce_sync(topic, "after", partition=1).partition


def test_a_refused_partition_does_not_doom_its_transaction(own_kafka: LocalKafka, own_topic: str) -> None:
    """A record that was refused for its partition isn't part of the transaction, which commits the others."""
    with pool(own_kafka.bootstrap_servers, size=1) as orders, orders.transaction() as tx:
        tx.produce_sync(own_topic, "kept")
        with pytest.raises(DeliveryError, match="has only partition 0"):
            tx.produce_async(own_topic, "refused", partition=5)

    assert ["kept"] == values(own_kafka.bootstrap_servers, own_topic)


# -- replicas --------------------------------------------------------------------------------------


@pytest.fixture
def two_of_three(three: LocalKafka) -> str:
    """Where two of the three brokers are."""
    three.brokers[0].kill()
    return three.bootstrap_servers


TOO_FEW = "2 of 3 replicas of its partition 0 are in sync: does min.insync.replicas ask for more"


def test_too_few_replicas(two_of_three: str) -> None:
    """Who waits in vain for replicas is told how many are in sync, also when the record expires."""
    with plain(two_of_three, size=1, close_timeout_ms=0) as clicks, clicks.producer() as producer:
        until(lambda: TOO_FEW in str(took(lambda: producer.produce_sync(DEMANDING, "lost", timeout_ms=1_500))[1]))
    kafka, raises = {"message.timeout.ms": 1_500}, pytest.raises(DeliveryError, match=f"_MSG_TIMED_OUT.*{TOO_FEW}")
    with plain(two_of_three, size=1, kafka=kafka) as clicks, clicks.producer() as producer, raises:
        producer.produce_sync(DEMANDING, "lost")


def test_too_few_replicas_for_a_commit(two_of_three: str) -> None:
    """So is who commits."""
    raises = pytest.raises(TransactionAbortedError, match=TOO_FEW)
    with pool(two_of_three, size=1, commit_timeout_ms=3_000) as orders, raises, orders.transaction() as tx:
        tx.produce_async(DEMANDING, "lost")
