"""The consumers that the documentation shows, on a real broker: nothing is lost or doubled, whatever aborts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from threading import Timer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import confluent_kafka
import pytest
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.kafka.readers import committed, read
from tests.pages import PLACEHOLDER, ROOT, blocks, files
from tests.pools import pool, unique, until
from wd_di import AbortTransaction, CommitOutcomeUnknownError, PoolTimeoutError, RebalancedError, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from wd_di import ProducerPool
    from wd_di.testing import Cluster, LocalKafka

README = ROOT / "README.md"
PAGE = ROOT / "docs" / "howto" / "transactions.md"
QUIET = {"log_level": 0, "heartbeat.interval.ms": 100, "fetch.wait.max.ms": 20}
NONE = OFFSET_INVALID
VALUES = [str(number).encode() for number in range(10)]
ASSIGNORS = pytest.mark.parametrize("assignor", ["range", "cooperative-sticky"])


class Shown(SimpleNamespace):
    """The page's ``billing.py``, with topics and a group of its own."""

    join: Callable[[str], Consumer]
    bill_next: Callable[[Consumer, Any], int]
    seek_back: Callable[[Consumer, list[Message]], None]
    servers: str
    orders: str
    bills: str
    group: str

    def billed(self) -> list[bytes | None]:
        """Return the values of the bills, sorted."""
        return sorted((record.value for record in read(self.servers, self.bills)), key=str)

    def stands(self) -> list[int]:
        """Return the group's committed offset of each partition of the orders."""
        return [committed(self.servers, self.group, self.orders, partition=number) for number in (0, 1)]


def shown(cluster: Cluster, page: str, **config: object) -> Shown:
    """Return what is in a source of the documentation, for topics of its own on a real broker."""
    orders, bills, group = cluster.create_topic(unique("orders"), 2), cluster.create_topic(unique("bills")), unique("g")
    source = page.replace('"orders"', repr(orders)).replace('"bills"', repr(bills)).replace('"billing"', repr(group))
    names: dict[str, Any] = {}
    exec(compile(source, str(PAGE), "exec", dont_inherit=True), names)  # noqa: S102  (our own page)
    names["Consumer"] = lambda given: Consumer({**given, **QUIET, **config})
    return Shown(**names, servers=cluster.bootstrap_servers, orders=orders, bills=bills, group=group)


def fill(servers: str, topic: str, values: Sequence[bytes | None]) -> None:
    """Produce the values to the two partitions by turns."""
    producer = Producer({"bootstrap.servers": servers, "log_level": 0})
    for number, value in enumerate(values):
        producer.produce(topic, value, partition=number % 2)
    assert 0 == producer.flush(20)


@pytest.fixture
def billing(local_kafka: Cluster) -> Shown:
    """The page's code, before ten orders in two partitions."""
    example = shown(local_kafka, files(PAGE)["billing.py"])
    fill(example.servers, example.orders, VALUES)
    return example


@pytest.fixture
def bills(servers: str) -> Iterator[ProducerPool]:
    """A pool for the bills."""
    with pool(servers, size=1, name="bills") as bills:
        yield bills


@contextmanager
def member(billing: Shown) -> Iterator[Consumer]:
    """Join the group and have all of its partitions, at their beginning."""
    with closing(billing.join(billing.servers)) as consumer:
        until(lambda: consumer.poll(0.05) is not None)
        for partition in (0, 1):
            consumer.seek(TopicPartition(billing.orders, partition, 0))
        yield consumer


class Disturbed:
    """A pool in whose transactions something happens at their beginning, or before their end."""

    def __init__(
        self,
        pool: ProducerPool,
        *,
        first: Callable[[Transaction], object] = lambda _: None,
        last: Callable[[Transaction], object] = lambda _: None,
    ) -> None:
        self._pool, self._first, self._last = pool, first, last

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Give the pool's transaction."""
        with self._pool.transaction() as tx:
            self._first(tx)
            yield tx
            self._last(tx)


def fail(_: Transaction) -> None:
    """Fail as a handler does."""
    raise ZeroDivisionError


def give_up(_: Transaction) -> None:
    """Abort without an error."""
    raise AbortTransaction


# -- the complete form -----------------------------------------------------------------------------


@pytest.mark.parametrize("end", [fail, give_up, Transaction.abort_only])
def test_after_an_abort_a_close_commits_nothing(
    billing: Shown, bills: ProducerPool, end: Callable[[Transaction], object]
) -> None:
    """What an aborted transaction has read is the group's to read again, also by another consumer."""
    with member(billing) as consumer, suppress(ZeroDivisionError):
        billing.bill_next(consumer, Disturbed(bills, last=end))

    assert [NONE, NONE] == billing.stands()
    with closing(billing.join(billing.servers)) as consumer:
        until(lambda: billing.bill_next(consumer, bills) and billing.stands() == [5, 5])
    assert VALUES == billing.billed()


@pytest.mark.parametrize("end", [fail, give_up, Transaction.abort_only])
def test_after_an_abort_the_same_consumer_reads_it_again(
    billing: Shown, bills: ProducerPool, end: Callable[[Transaction], object]
) -> None:
    """No restart is needed: the next batch begins where the aborted one did."""
    with member(billing) as consumer:
        with suppress(ZeroDivisionError):
            billing.bill_next(consumer, Disturbed(bills, last=end))
        until(lambda: billing.bill_next(consumer, bills) and billing.stands() == [5, 5])

    assert VALUES == billing.billed()


def test_without_a_producer_nothing_counts_as_read(billing: Shown, servers: str) -> None:
    """A transaction that doesn't even begin leaves its batch to be read again."""
    with member(billing) as consumer, pool(servers, size=1, timeout_ms=200) as bills:
        with ThreadPoolExecutor(1) as other, bills.transaction(), pytest.raises(PoolTimeoutError):
            other.submit(billing.bill_next, consumer, bills).result()
        until(lambda: billing.bill_next(consumer, bills) and billing.stands() == [5, 5])

    assert VALUES == billing.billed()


@ASSIGNORS
def test_a_rebalance_doubles_and_loses_nothing(local_kafka: Cluster, bills: ProducerPool, assignor: str) -> None:
    """A batch whose member polls while its transaction is open, and so loses a partition, is billed exactly once."""
    config = {"partition.assignment.strategy": assignor}
    billing = shown(local_kafka, files(PAGE)["billing.py"], **config)
    fill(billing.servers, billing.orders, VALUES)
    members: list[Consumer] = []
    with ExitStack() as joined:

        def another_joins(_: Transaction) -> None:
            members.append(joined.enter_context(closing(billing.join(billing.servers))))
            share(billing, *members)

        members.append(joined.enter_context(member(billing)))
        with pytest.raises(RebalancedError):
            billing.bill_next(members[0], Disturbed(bills, first=another_joins))
        until(lambda: [billing.bill_next(each, bills) for each in members] and billing.stands() == [5, 5])
        assert [0, 0] == [billing.bill_next(each, bills) for each in members]

    assert VALUES == billing.billed()


def share(billing: Shown, first: Consumer, second: Consumer) -> None:
    """Poll both until each has one partition and reads it; what the second one was handed is still to be billed."""
    handed: list[Message] = []

    def settled() -> bool:
        first.poll(0.05)
        handed.extend(second.consume(10, 0.05))
        return bool(handed) and [1, 1] == [len(each.assignment()) for each in (first, second)]

    until(settled)
    billing.seek_back(second, handed)


def test_records_without_a_value_are_records(local_kafka: Cluster, bills: ProducerPool) -> None:
    """Tombstones and empty values end nothing, and are passed on as all others."""
    billing = shown(local_kafka, files(PAGE)["billing.py"])
    values = [None, b"", b"tea", None, None, b"", b"cup", b"pot", None, b""]
    fill(billing.servers, billing.orders, values)
    with member(billing) as consumer:
        until(lambda: billing.bill_next(consumer, bills) and billing.stands() == [5, 5])

    assert sorted(values, key=str) == billing.billed()


def test_a_commit_in_doubt_is_decided_by_the_groups_offsets(own_kafka: LocalKafka) -> None:
    """After a commit without an answer the batch is read again only if it wasn't committed."""
    billing = shown(own_kafka, files(PAGE)["billing.py"])
    fill(billing.servers, billing.orders, VALUES)
    [broker] = own_kafka.brokers

    def freeze(tx: Transaction) -> None:
        tx.flush()
        broker.pause()
        Timer(2, broker.resume).start()

    settings = {"size": 1, "commit_timeout_ms": 1_000, "resolve_timeout_ms": 0}
    with pool(billing.servers, **settings) as bills, member(billing) as consumer:
        with pytest.raises(CommitOutcomeUnknownError):
            billing.bill_next(consumer, Disturbed(bills, last=freeze))
        until(lambda: [billing.bill_next(consumer, bills)] and billing.stands() == [5, 5])

    assert VALUES == billing.billed()


def test_an_error_is_no_order(billing: Shown, bills: ProducerPool) -> None:
    """An error among the messages is raised, and what came with it is read again."""
    with member(billing) as consumer:
        with pytest.raises(KafkaException, match="no more"):
            billing.bill_next(Erring(consumer), bills)
        until(lambda: billing.bill_next(consumer, bills) and billing.stands() == [5, 5])

    assert VALUES == billing.billed()


class Erring:
    """A consumer whose batches end with an error."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def consume(self, count: int, timeout: float) -> list[Message]:
        """Read a batch, and meet an error."""
        error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "no more")
        return [*self._consumer.consume(count, timeout), Message(error=error)]


# -- the first page --------------------------------------------------------------------------------


class ReadingOn(Consumer):
    """A consumer that reads once more before it closes."""

    read: ClassVar[list[int | None]]
    last: ClassVar[ReadingOn]

    def __enter__(self) -> Self:
        ReadingOn.last = self
        return super().__enter__()

    def __exit__(self, *args: object) -> None:
        message = self.poll(10)
        self.read.append(message.offset() if message is not None else None)
        super().__exit__(*args)


class FirstPage:
    """The first page's block of transactions, with topics and a group of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self.servers = cluster.bootstrap_servers
        self.orders, self.bills, self.group = cluster.create_topic(unique("orders")), unique("bills"), unique("g")
        self._source = next(source for source in blocks(README, "python") if "send_offsets" in source)

    def run(self, item: str = '"tea"') -> None:
        """Run it: an order of the item, a bill A1, and then the bill of the first order that hasn't any."""
        names: dict[str, Any] = {}
        replaced = {
            PLACEHOLDER: self.servers,
            '"tea"': item,
            '"orders"': repr(self.orders),
            '"bills"': repr(self.bills),
            '"billing"': repr(self.group),
        }
        source = self._source
        for shown, real in replaced.items():
            source = source.replace(shown, real)
        try:
            exec(compile(source, str(README), "exec", dont_inherit=True), names)  # noqa: S102  (our own page)
        finally:
            names["pool"].close()

    def stands(self) -> int:
        """Return the group's committed offset."""
        return committed(self.servers, self.group, self.orders)

    def billed(self) -> list[bytes | None]:
        """Return the values of the bills."""
        return [record.value for record in read(self.servers, self.bills)]


@pytest.fixture
def first_page(local_kafka: Cluster) -> FirstPage:
    """The first page's block."""
    return FirstPage(local_kafka)


@pytest.mark.parametrize("end", [fail, give_up, Transaction.abort_only])
def test_the_first_page_loses_no_order(
    first_page: FirstPage, monkeypatch: pytest.MonkeyPatch, end: Callable[[Transaction], object]
) -> None:
    """An order whose transaction aborts is read again, by the same consumer and by the next one."""
    monkeypatch.setattr(ReadingOn, "read", [], raising=False)
    with monkeypatch.context() as patch, suppress(ZeroDivisionError):
        patch.setattr(confluent_kafka, "Consumer", ReadingOn)
        patch.setattr(Transaction, "send_offsets", lambda tx, *_: end(tx))
        first_page.run()

    assert (NONE, [b"A1"], [0]) == (first_page.stands(), first_page.billed(), ReadingOn.read)
    first_page.run()
    assert (1, [b"A1", b"A1", b"tea"]) == (first_page.stands(), first_page.billed())


def test_the_first_page_tells_of_a_rebalance(first_page: FirstPage, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the order's partition went to another member meanwhile, that is what the program hears of."""

    def lose(tx: Transaction, *_: object) -> None:
        ReadingOn.last.unassign()
        raise RebalancedError("the group has moved on")

    monkeypatch.setattr(ReadingOn, "read", [], raising=False)
    monkeypatch.setattr(confluent_kafka, "Consumer", ReadingOn)
    monkeypatch.setattr(Transaction, "send_offsets", lose)

    with pytest.raises(RebalancedError):
        first_page.run()
    assert [b"A1"] == first_page.billed()


def test_the_first_page_bills_a_tombstone(first_page: FirstPage) -> None:
    """An order without a value is an order."""
    first_page.run(item="None")

    assert (1, [b"A1", None]) == (first_page.stands(), first_page.billed())
