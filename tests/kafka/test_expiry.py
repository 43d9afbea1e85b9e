"""A transactional.id that the broker has forgotten, since it was idle for too long."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests import internals
from tests.kafka.clusters import started
from tests.kafka.conftest import CONFIG
from tests.kafka.readers import committed, values
from tests.pools import Recorder, pool, unique, until
from wd_di import DeliveryError, ProducerCreated, ProducerPool, Retry, Transaction
from wd_di.errors import TransactionAbortedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wd_di import AsyncTransaction, Producer
    from wd_di.testing import LocalKafka

EXPIRATION_MS = 2_000
SIZE = 3


@pytest.fixture(scope="module")
def forgetful() -> Iterator[LocalKafka]:
    """A broker that forgets ids soon."""
    expiry = {
        "transactional.id.expiration.ms": EXPIRATION_MS,
        "transaction.remove.expired.transaction.cleanup.interval.ms": 200,
    }
    with started(config={**CONFIG, **expiry}) as kafka:
        yield kafka


@pytest.fixture
def forgotten(forgetful: LocalKafka) -> Iterator[Callable[[ProducerPool], None]]:
    """Waits until the broker has forgotten all ids of a pool: it writes so into its own log of them."""
    reader = {"bootstrap.servers": forgetful.bootstrap_servers, "group.id": unique("reader"), "log_level": 0}
    with closing(Consumer({**reader, "enable.auto.commit": False, "auto.offset.reset": "earliest"})) as consumer:
        known: dict[bytes, bool] = {}

        def wait(orders: ProducerPool) -> None:
            if not known:
                partitions = consumer.list_topics("__transaction_state", timeout=10).topics["__transaction_state"]
                consumer.assign([TopicPartition("__transaction_state", number, 0) for number in partitions.partitions])
            ids = {str(slot.transactional_id).encode() for slot in internals.plan(orders).slots}

            def read() -> bool:
                for message in consumer.consume(1_000, 0.1):
                    if message.error() is None:
                        known[(message.key() or b"")[4:]] = message.value() is not None
                return all(known.get(each) is False for each in ids)

            until(read)

        yield wait


@pytest.fixture
def topic(forgetful: LocalKafka) -> str:
    """A new topic with one partition."""
    return forgetful.create_topic(unique("t"))


@pytest.fixture
def group() -> str:
    """A new consumer group."""
    return unique("group")


def offsets_first(group: str, topic: str, servers: str) -> Callable[[Transaction], None]:
    """A transaction that begins with a group's offsets."""
    with closing(Consumer({"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False})) as consumer:
        metadata = consumer.consumer_group_metadata()

    def work(tx: Transaction) -> None:
        tx.send_offsets([TopicPartition(topic, 0, 1)], metadata)
        tx.produce_async(topic, "late")

    return work


def used(forgetful: LocalKafka, topic: str, recorder: Recorder, **options: int) -> ProducerPool:
    """Return a pool all of whose producers have committed once."""
    orders = pool(forgetful.bootstrap_servers, size=SIZE, observer=recorder, **options)
    orders.open()
    for number in range(SIZE):
        with orders.transaction() as tx:
            tx.produce_async(topic, f"early {number}")
    return orders


def failures(orders: ProducerPool, work: Callable[[Transaction], object]) -> list[Exception]:
    """What went wrong with twice as many transactions as there are producers."""
    met: list[Exception] = []
    for _ in range(2 * SIZE):
        try:
            with orders.transaction() as tx:
                work(tx)
        except (TransactionAbortedError, DeliveryError) as error:
            met.append(error)
    return met


@pytest.mark.parametrize("first", ["offsets", "record"])
def test_one_failure_at_most(
    forgetful: LocalKafka, forgotten: Callable[[ProducerPool], None], topic: str, group: str, first: str
) -> None:
    """All ids were forgotten: the first transaction learns it, says what to set, and takes the others' place."""
    recorder = Recorder()
    servers = forgetful.bootstrap_servers
    work = offsets_first(group, topic, servers) if first == "offsets" else lambda tx: tx.produce_async(topic, "late")
    with used(forgetful, topic, recorder) as orders:
        forgotten(orders)
        [failure] = failures(orders, work)

        assert "INVALID_PRODUCER_ID_MAPPING" in str(failure)
        assert "set transactional_id_expiry_ms" in str(failure)
        assert SIZE * ["transactional.id expired"] == recorder.retirements()
    assert (2 * SIZE - 1) * ["late"] == [value for value in values(servers, topic) if value == "late"]


@pytest.mark.parametrize("first", ["offsets", "record"])
def test_a_retry_gets_through(
    forgetful: LocalKafka, forgotten: Callable[[ProducerPool], None], topic: str, group: str, first: str
) -> None:
    """Two attempts are enough, however many producers were forgotten."""
    servers = forgetful.bootstrap_servers
    work = offsets_first(group, topic, servers) if first == "offsets" else lambda tx: tx.produce_async(topic, "late")
    with used(forgetful, topic, Recorder()) as orders:
        forgotten(orders)
        orders.run(work, retry=Retry(attempts=2, backoff_ms=1))

    assert 1 == values(servers, topic).count("late")
    if first == "offsets":
        assert 1 == committed(servers, group, topic)


def test_none_where_the_pool_knows(forgetful: LocalKafka, topic: str, group: str) -> None:
    """Told how long the broker remembers, the pool makes its idle producers anew in time, and nobody sees a failure."""
    recorder = Recorder()
    servers = forgetful.bootstrap_servers
    with used(forgetful, topic, recorder, transactional_id_expiry_ms=EXPIRATION_MS) as orders:
        until(lambda: len(recorder.of(ProducerCreated)) == 2 * SIZE)

        assert {"transactional_id_expiry_ms"} == set(recorder.retirements())
        assert [] == failures(orders, offsets_first(group, topic, servers))


# -- held all the while ------------------------------------------------------------------------------


def held_failures(producer: Producer, work: Callable[[Transaction], object]) -> list[Exception]:
    """What went wrong with some transactions of one block."""
    met: list[Exception] = []
    for _ in range(2 * SIZE):
        try:
            with producer.transaction() as tx:
                work(tx)
        except (TransactionAbortedError, DeliveryError) as error:
            met.append(error)
    return met


@pytest.mark.parametrize("first", ["offsets", "record"])
def test_one_failure_in_a_held_block(
    forgetful: LocalKafka, forgotten: Callable[[ProducerPool], None], topic: str, group: str, first: str
) -> None:
    """A producer that was held until the broker forgot it fails once, and the block goes on with another one."""
    servers = forgetful.bootstrap_servers
    work = offsets_first(group, topic, servers) if first == "offsets" else lambda tx: tx.produce_async(topic, "late")
    with used(forgetful, topic, Recorder()) as orders, orders.producer() as producer:
        forgotten(orders)
        [failure] = held_failures(producer, work)

    assert "INVALID_PRODUCER_ID_MAPPING" in str(failure)
    assert 2 * SIZE - 1 == values(servers, topic).count("late")


def test_a_retry_in_a_held_block(
    forgetful: LocalKafka, forgotten: Callable[[ProducerPool], None], topic: str, group: str
) -> None:
    """Its second attempt gets through, and so do the calls of a task."""
    servers = forgetful.bootstrap_servers

    async def held(orders: ProducerPool) -> None:
        async with orders.producer() as producer:
            await asyncio.to_thread(forgotten, orders)

            async def work(tx: AsyncTransaction) -> None:
                await tx.produce_sync(topic, "late")

            await orders.run(work, retry=Retry(attempts=2, backoff_ms=1))
            await producer.produce_sync(topic, "late")

    with used(forgetful, topic, Recorder()) as orders:
        with orders.producer():
            forgotten(orders)
            orders.run(offsets_first(group, topic, servers), retry=Retry(attempts=2, backoff_ms=1))
        asyncio.run(held(orders))

    assert 3 == values(servers, topic).count("late")
    assert 1 == committed(servers, group, topic)


def test_no_failure_in_a_held_block_where_the_pool_knows(
    forgetful: LocalKafka, forgotten: Callable[[ProducerPool], None], topic: str, group: str
) -> None:
    """Told how long the broker remembers, the pool gives the block another producer before anything is sent."""
    recorder, servers = Recorder(), forgetful.bootstrap_servers
    orders = pool(servers, size=1, observer=recorder, transactional_id_expiry_ms=EXPIRATION_MS)
    with orders, orders.producer() as producer:
        producer.produce_sync(topic, "early")
        forgotten(orders)

        assert [] == held_failures(producer, offsets_first(group, topic, servers))
    assert {"transactional_id_expiry_ms"} == set(recorder.retirements())
