# ruff: noqa: PT012  (what a transaction's block does is the case; markers are defaults that are calls)
from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from dependency_injector import containers, providers

import wd_di
from tests import internals
from tests.scripted import committed, make_pool
from wd_di import (
    CommitOutcomeUnknownError,
    DeliveryError,
    ErrorOccurred,
    FencedError,
    KafkaSettings,
    Observer,
    PoolClosedError,
    PoolResource,
    PoolSettings,
    PoolTimeoutError,
    PoolUnhealthyError,
    ProducerCreated,
    ProducerPool,
    ProducerRetired,
    RebalancedError,
    Retry,
    ScopeError,
    Transaction,
    TransactionAbortedError,
    TransactionCommitted,
    TransactionResolved,
    TransactionTimedOutError,
    inject,
    injected,
    running,
)
from wd_di._kafka.memory import MemoryBroker
from wd_di.testing import FakePool, Sent, faked

PATIENCE = 10.0
"""Seconds after which a test that waits for another thread has failed."""
PATIENCE_MS = 10_000
NOBODY = PoolSettings(kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1"), open_timeout_ms=100)
"""A real pool with these settings can't open."""
IN_MEMORY = PoolSettings(size=1, deliver=False, transactional_id="real-{index}-{pid}")


class Service:
    """Keeps the pool that it was built with."""

    def __init__(self, pool: ProducerPool) -> None:
        self.pool = pool

    def place(self, key: str) -> None:
        """Publish an order."""
        with self.pool.transaction() as tx:
            tx.produce_async("orders", f"order {key}", key)


class Billing(containers.DeclarativeContainer):
    """A container within."""

    invoices = PoolResource(NOBODY)


class Container(containers.DeclarativeContainer):
    """An application."""

    orders = PoolResource(NOBODY)
    stored = PoolResource(IN_MEMORY)
    service = providers.ThreadSafeSingleton(Service, orders)
    billing = providers.Container(Billing)


@inject
def place(key: str, tx: Transaction = injected(Container.orders.transaction)) -> None:
    """Publish an order, unless it has no key."""
    tx.produce_async("orders", f"order {key}", key, headers={"source": "shop"})
    if not key:
        raise ValueError("no key")


@pytest.fixture
def fake() -> Iterator[FakePool]:
    """A fake with two producers."""
    with FakePool("orders") as fake:
        yield fake


@pytest.fixture(scope="module")
def container() -> Iterator[Any]:
    """One container for all tests, wired once and never opened, as an application's own tests have it."""
    container = Container()
    container.wire(modules=[__name__])
    yield container
    container.unwire()


def commit(pool: ProducerPool, *values: str, topic: str = "orders") -> None:
    """One transaction with these records."""
    with pool.transaction() as tx:
        for value in values:
            tx.produce_async(topic, value)


def of(fake: FakePool, kind: type[Any]) -> list[Any]:
    """The fake's events of one kind."""
    return [event for event in fake.events if isinstance(event, kind)]


# -- what was sent -----------------------------------------------------------------------------------


def test_as_sent(fake):
    """Records are kept as they were produced, with the place and the time that the broker gave them."""
    with fake.transaction() as tx:
        tx.produce_async("orders", "v", b"k", headers={"a": "1", "b": None}, partition=2, timestamp_ms=5)

    assert [Sent("orders", "v", b"k", [("a", "1"), ("b", None)], 2, 5, 0)] == fake.committed


def test_committed_and_aborted(fake):
    """What a commit shows and what an abort hides are kept apart; while a transaction is open it is neither."""
    commit(fake, "first")
    with pytest.raises(ValueError, match="boom"), fake.transaction() as tx:
        tx.produce_sync("orders", "never")
        open_ = (fake.committed, fake.aborted)
        raise ValueError("boom")

    assert ["first"] == [sent.value for sent in open_[0]] == [sent.value for sent in fake.committed]
    assert [] == open_[1]
    assert ["never"] == [sent.value for sent in fake.aborted]


def test_order_of_the_commits(fake):
    """Records stand in the order in which their transactions were committed."""
    with fake.transaction() as outer:
        outer.produce_sync("orders", "begun first")
        with fake.transaction(propagation="new") as inner:
            inner.produce_async("orders", "committed first")

    assert ["committed first", "begun first"] == [sent.value for sent in fake.committed]


def test_offsets(fake):
    """Offsets of a consumer group count with the commit, and not with an abort."""
    with fake.transaction() as tx:
        tx.send_offsets([TopicPartition("in", 0, 5)], object())
    with fake.transaction() as tx:
        tx.send_offsets([TopicPartition("in", 0, 9)], object())
        tx.abort_only()

    assert [5] == [offset.offset for offset in fake.offsets]


def test_events(fake):
    """Every event is kept from the pool's making on, whoever else listens."""
    commit(fake, "one")

    names = [event.name for event in fake.events]
    assert ["connection_pool.created", "connection_pool.setup"] == names[:2]
    assert ["message.acknowledged", "transaction.committed", "transaction.finished"] == names[-3:]


def test_events_of_others():
    """On an observer that other pools share, a fake keeps its own events."""
    observer = Observer()
    heard: list[Any] = []
    observer.subscribe(TransactionCommitted, heard.append)
    with FakePool("orders", observer=observer) as orders, FakePool("clicks", observer=observer) as clicks:
        commit(orders, "one")

    assert {"orders"} == {event.pool for event in orders.events}
    assert {"clicks"} == {event.pool for event in clicks.events}
    assert [] == of(clicks, TransactionCommitted)
    assert of(orders, TransactionCommitted) == heard


def test_a_closed_fake_can_be_asked():
    """What was sent outlives the close."""
    with FakePool() as fake:
        commit(fake, "one")

    fake.assert_committed(Sent("orders", "one"))
    assert "connection_pool.shutdown" == fake.events[-1].name
    with pytest.raises(PoolClosedError):
        fake.transaction().__enter__()


def test_reset(fake):
    """A reset forgets records, offsets, events and cues."""
    with fake.transaction() as tx:
        tx.produce_async("orders", "one")
        tx.send_offsets([TopicPartition("in", 0, 5)], object())
    fake.fail_next("commit")
    fake.fail_delivery("orders")
    fake.reset()
    assert ([], [], [], []) == (fake.committed, fake.aborted, fake.offsets, fake.events)

    commit(fake, "two")
    assert ["two"] == [sent.value for sent in fake.committed]


def test_a_forgotten_fake_is_no_leak():
    """A fake that nobody closes is collected without a warning."""
    fake = FakePool()
    commit(fake, "one")
    gone = threading.Event()
    weakref.finalize(fake, gone.set)
    del fake
    gc.collect()

    assert gone.wait(PATIENCE)


def test_plain():
    """A fake without transactions shows each record at once."""
    with FakePool("clicks", transactional=False) as fake, fake.producer() as producer:
        producer.produce_sync("clicks", "one")

        fake.assert_committed(Sent("clicks", "one"))


def test_settings_of_the_application():
    """A fake takes the application's own settings, and warns of nothing that concerns real brokers."""
    kafka = KafkaSettings(bootstrap_servers="broker:9092", message_max_bytes=1_000)
    with FakePool("orders", settings=PoolSettings(size=3, transactional_id="shop-{index}", kafka=kafka)) as fake:
        commit(fake, "one")
        with pytest.raises(DeliveryError, match=r"message\.max\.bytes is 1000"):
            commit(fake, "x" * 2_000)

    assert 3 == fake.stats().size
    assert {"shop-0", "shop-1", "shop-2"} == {event.transactional_id for event in of(fake, ProducerCreated)}


def test_the_same_engine_without_deliveries():
    """A pool with deliver=False runs on the very broker that a fake does, but for the cues."""
    with make_pool() as silent, FakePool("orders") as fake:
        commit(silent, "one")
        commit(fake, "one")
        memory, cued = internals.broker(silent), internals.broker(fake)

        assert type(memory) is MemoryBroker
        assert isinstance(cued, MemoryBroker)
        assert [record.value for record in memory.committed] == [record.value for record in cued.committed]


def test_in_threads(fake):
    """Any number of threads use one fake: each transaction is seen whole, or not at all."""

    def work(number: int) -> None:
        for round_ in range(20):
            with fake.transaction() as tx:
                for part in range(3):
                    tx.produce_async("orders", f"{part}", f"{number}-{round_}")
                if round_ % 2:
                    tx.abort_only()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))

    assert (240, 240) == (len(fake.committed), len(fake.aborted))
    keys = [sent.key for sent in fake.committed]
    assert [keys[place] for place in range(0, 240, 3) for _ in range(3)] == keys
    fake.assert_no_open_transaction()


# -- assertions --------------------------------------------------------------------------------------


def failure(assertion: Callable[[], None]) -> str:
    """The text of the assertion that fails."""
    with pytest.raises(AssertionError) as caught:
        assertion()
    return str(caught.value)


def test_assert_committed(fake):
    """What was committed is asserted by as much of it as matters, beside other records and in any order."""
    commit(fake, "one", "two", "three")

    fake.assert_committed()
    fake.assert_committed(Sent("orders", b"three"), Sent("orders", "one"))


def test_assert_committed_fails(fake):
    """The failure says what is missing, and what there is instead."""
    with fake.transaction() as tx:
        tx.produce_async("orders", "one", "8", headers={"a": "1"})
        tx.produce_async("clicks", None)
    with fake.transaction() as tx:
        tx.produce_async("orders", "two", "7")
        tx.abort_only()

    expected = Sent("orders", key="7"), Sent("orders", key="8"), Sent("orders", key="9", partition=1)
    assert """\
orders: not committed
  Sent('orders', key='7')
  Sent('orders', key='9', partition=1)
committed: 2
  Sent('orders', value='one', key='8', headers=[('a', '1')], partition=0)
  Sent('clicks', value=None, key=None, partition=0)
aborted: 1
  Sent('orders', value='two', key='7', partition=0)""" == failure(lambda: fake.assert_committed(*expected))


def test_assert_aborted(fake):
    """What was aborted is asserted alike."""
    with fake.transaction() as tx:
        tx.produce_async("orders", "one", "7")
        tx.abort_only()

    fake.assert_aborted(Sent("orders", key="7"))
    assert """\
orders: not aborted
  Sent('orders', key='8')
committed: none
aborted: 1
  Sent('orders', value='one', key='7')""" == failure(lambda: fake.assert_aborted(Sent("orders", key="8")))


def test_assert_nothing_committed(fake):
    """Nothing committed means no record, whatever was aborted."""
    with fake.transaction() as tx:
        tx.produce_async("orders", "one", "7")
        tx.abort_only()
    fake.assert_nothing_committed()
    commit(fake, "two")

    assert """\
orders: something was committed
committed: 1
  Sent('orders', value='two')
aborted: 1
  Sent('orders', value='one', key='7')""" == failure(fake.assert_nothing_committed)


def test_assert_nothing_committed_of_offsets(fake):
    """Nothing committed means no offset either."""
    with fake.transaction() as tx:
        tx.send_offsets([TopicPartition("in", 0, 5)], object())

    text = failure(fake.assert_nothing_committed)
    assert "orders: something was committed\ncommitted: none\naborted: none\noffsets: [TopicPartition{topic=in" in text


def test_assert_no_open_transaction(fake):
    """A transaction that is still open is named, with who holds it."""
    fake.assert_no_open_transaction()
    with fake.transaction() as tx:
        text = failure(fake.assert_no_open_transaction)
    fake.assert_no_open_transaction()

    assert f"orders: open transactions: 1\n  {tx.id}, held by thread 'MainThread'" == text


# -- faults on cue -----------------------------------------------------------------------------------


def test_fail_next_commit(fake):
    """A refused commit aborts; the same transaction run again works."""
    fake.fail_next("commit")
    with pytest.raises(TransactionAbortedError, match="commit failed: commit failed on cue") as caught:
        commit(fake, "one")
    fake.fail_next("commit")
    fake.run(lambda tx: tx.produce_async("orders", "two"), retry=Retry(backoff_ms=1))

    assert ("aborted", True) == (caught.value.outcome, caught.value.safe_to_retry)
    assert ["one", "two"] == [sent.value for sent in fake.aborted]
    assert ["two"] == [sent.value for sent in fake.committed]
    assert [] == of(fake, ProducerRetired)


@pytest.mark.parametrize("found", ["committed", "aborted"])
def test_fail_next_commit_found(fake, found):
    """A commit without an answer is what it shall be found to be, with the event and the error of the real pool."""
    fake.fail_next("commit", found=found)
    raised = None
    try:
        commit(fake, "perhaps")
    except TransactionAbortedError as error:
        raised = error

    [resolved] = of(fake, TransactionResolved)
    assert (found, "record") == (resolved.outcome, resolved.way)
    assert (found == "aborted") == (raised is not None and raised.safe_to_retry)
    (fake.assert_committed if found == "committed" else fake.assert_aborted)(Sent("orders", "perhaps"))
    assert 1 == len(of(fake, ProducerRetired))


@pytest.mark.parametrize("found", ["committed", "aborted"])
def test_fail_next_commit_found_by_offsets(fake, found):
    """Without records the offsets tell."""
    fake.fail_next("commit", found=found)
    with suppress(TransactionAbortedError), fake.transaction() as tx:
        tx.send_offsets([TopicPartition("in", 0, 5)], object())

    [resolved] = of(fake, TransactionResolved)
    assert (found, "offsets") == (resolved.outcome, resolved.way)
    assert (found == "committed") == bool(fake.offsets)


@pytest.mark.parametrize(
    ("call", "given"),
    [("abort", {"found": "aborted"}), ("commit", {"found": "no"}), ("commit", {"found": "aborted", "unknown": True})],
)
def test_what_cannot_be_found(fake, call, given):
    """Only of a commit anything is found out, and only one of two things."""
    with pytest.raises(ValueError, match="found is what becomes of a commit: committed or aborted"):
        fake.fail_next(call, **given)


def test_fail_next_commit_unknown(fake):
    """A commit without an answer is in doubt and isn't run again; the records end up aborted, the producer retired."""
    outcomes: list[str] = []
    fake.fail_next("commit", unknown=True)

    def work(tx: Transaction) -> None:
        tx.after_completion(outcomes.append)
        tx.produce_async("orders", "perhaps")

    with pytest.raises(CommitOutcomeUnknownError, match="its 1 records are all visible or all hidden") as caught:
        fake.run(work, retry=Retry(backoff_ms=1))

    assert ("unknown", False) == (caught.value.outcome, caught.value.safe_to_retry)
    assert ["unknown"] == outcomes
    fake.assert_nothing_committed()
    fake.assert_aborted(Sent("orders", "perhaps"))
    commit(fake, "next")
    fake.assert_committed(Sent("orders", "next"))


def test_fail_next_begin(fake):
    """A producer that can't begin is replaced."""
    fake.fail_next("begin")
    with pytest.raises(TransactionAbortedError, match="begin failed: begin failed on cue"):
        fake.transaction().__enter__()
    commit(fake, "next")

    assert 1 == fake.stats().totals.retired
    fake.assert_no_open_transaction()


def test_fail_next_produce(fake):
    """A record that is refused at once wasn't sent."""
    fake.fail_next("produce")
    with fake.transaction() as tx:
        with pytest.raises(DeliveryError, match=r"producer \d refused a record for 'orders': produce failed on cue"):
            tx.produce_async("orders", "refused")
        tx.produce_async("orders", "kept")

    assert ["kept"] == [sent.value for sent in fake.committed]


def test_fail_next_send_offsets(fake):
    """A group that has rebalanced refuses the offsets, which aborts."""
    fake.fail_next("send_offsets")
    with pytest.raises(RebalancedError, match="send_offsets failed on cue"), fake.transaction() as tx:
        tx.produce_async("orders", "never")
        tx.send_offsets([TopicPartition("in", 0, 5)], object())

    assert ["never"] == [sent.value for sent in fake.aborted]
    fake.assert_nothing_committed()


def test_fail_next_abort(fake):
    """An abort that fails is a note on the block's own error, and hides the records all the same."""
    fake.fail_next("abort")
    with pytest.raises(ValueError, match="boom") as caught, fake.transaction() as tx:
        tx.produce_async("orders", "never")
        raise ValueError("boom")

    assert "couldn't be aborted (abort failed on cue); its producer is retired" in caught.value.__notes__[0]
    assert ["transaction.abort"] == [event.where for event in of(fake, ErrorOccurred)]
    fake.assert_nothing_committed()


def test_fail_next_create(fake):
    """A creation that fails is an event; the pool tries again and recovers."""
    fake.fail_next("create", times=2)
    commit(fake, "one")

    assert ["producer.create"] * 2 == [event.where for event in of(fake, ErrorOccurred)]
    fake.assert_committed(Sent("orders", "one"))


def test_fail_next_counts(fake):
    """A cue is for as many calls as it says, of whichever producer."""
    fake.fail_next("commit", times=2)
    for _ in range(2):
        with pytest.raises(TransactionAbortedError):
            commit(fake, "refused")
    commit(fake, "kept")

    assert ["kept"] == [sent.value for sent in fake.committed]


def test_fail_next_refuses(fake):
    """A call that there isn't, and one that has no unknown outcome, are refused with what there is."""
    calls = "create, begin, produce, send_offsets, commit, abort"
    with pytest.raises(ValueError, match=f"call is one of {calls}, not 'flush'"):
        fake.fail_next("flush")
    with pytest.raises(ValueError, match="only the outcome of a commit can be unknown, not that of 'abort'"):
        fake.fail_next("abort", unknown=True)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (("orders", "boom"), TypeError, r"error is an exception, such as DeliveryError\('out of space'\), not str"),
        (("orders", ValueError), TypeError, "not the class ValueError"),
        (("orders", KeyboardInterrupt()), TypeError, "not KeyboardInterrupt"),
        ((None,), TypeError, "topic is a topic's name, not NoneType"),
        ((["orders"],), TypeError, "not list"),
        (("orders", None, "2"), TypeError, "times is a whole number, not str"),
        (("orders", None, True), TypeError, "not bool"),
        (("orders", None, -1), ValueError, "times is -1: it can't be negative"),
    ],
)
def test_fail_delivery_refuses(fake, given, error, text):
    """What can't fail a delivery is refused at once, and no record fails for it."""
    topic, *why = given
    with pytest.raises(error, match=text):
        fake.fail_delivery(topic, *why[:1], **dict(zip(["times"], why[1:], strict=False)))
    commit(fake, "fine")

    assert ["fine"] == [sent.value for sent in fake.committed]


@pytest.mark.parametrize(("times", "error"), [("2", TypeError), (1.0, TypeError), (True, TypeError), (-1, ValueError)])
def test_fail_next_refuses_times(fake, times, error):
    """How many calls fail is a number of calls."""
    with pytest.raises(error, match="times is"):
        fake.fail_next("commit", times=times)
    commit(fake, "fine")


@pytest.mark.parametrize("given", ["orders", {"topic": "orders"}, None, Sent])
def test_expectations_are_sent(fake, given):
    """What isn't a record to be expected is refused, instead of failing on what it lacks."""
    commit(fake, "one")
    for expect in (fake.assert_committed, fake.assert_aborted):
        with pytest.raises(TypeError, match=r"a record is expected as Sent\(topic, value, \.\.\.\), not as "):
            expect(Sent("orders"), given)


def test_fail_delivery(fake):
    """Records for the topic fail after they were enqueued, those for others don't; the commit aborts."""
    fake.fail_delivery("orders")
    with pytest.raises(DeliveryError, match="1 of 2 records weren't delivered") as caught, fake.transaction() as tx:
        tx.produce_async("clicks", "fine")
        failed = tx.produce_async("orders", "fails")
    commit(fake, "fine", topic="clicks")

    assert (failed,) == caught.value.failed
    assert ["fine"] == [sent.value for sent in fake.committed]


def test_fail_delivery_counts(fake):
    """A given number of records fails, each with the error that was given."""
    error = DeliveryError("out of space")
    fake.fail_delivery("orders", error, times=2)
    for _ in range(2):
        with pytest.raises(DeliveryError) as caught:
            commit(fake, "fails")
        assert error is caught.value.__cause__
    commit(fake, "kept")

    assert ["kept"] == [sent.value for sent in fake.committed]


def test_fence(fake):
    """All ids are lost to somebody else, of open and of idle producers; the pool takes them back soon."""
    with pytest.raises(FencedError, match="another producer took over"), fake.transaction() as tx:
        tx.produce_sync("orders", "never")
        fake.fence()
        aborted = fake.aborted
    with pytest.raises(FencedError):
        commit(fake, "nor this")
    commit(fake, "after")

    assert ["never"] == [sent.value for sent in aborted]
    assert ["after"] == [sent.value for sent in fake.committed]


def test_fence_for_ever():
    """Fenced more often than fenced_retries, the fake is unhealthy as a real pool is."""
    with FakePool(size=1) as fake:
        for _ in range(4):
            with pytest.raises(FencedError), fake.transaction() as tx:
                tx.produce_sync("orders", "never")
                fake.fence()

        with pytest.raises(PoolUnhealthyError, match="fenced 4 times"):
            commit(fake, "never")
    fake.assert_nothing_committed()


def test_fence_of_a_plain_fake():
    """Without ids there is nothing to lose."""
    with FakePool(transactional=False) as fake, fake.producer() as producer:
        fake.fence()
        producer.produce_sync("clicks", "one")

    fake.assert_committed(Sent("clicks", "one"))


def test_time_out(fake):
    """A transaction that has written is too old; idle producers are none the worse."""
    with pytest.raises(TransactionTimedOutError, match=r"transaction\.timeout\.ms is 15000"), fake.transaction() as tx:
        tx.produce_sync("orders", "never")
        fake.time_out()
    retired = fake.stats().totals.retired
    for _ in range(3):
        commit(fake, "after")

    fake.assert_aborted(Sent("orders", "never"))
    assert ["after"] * 3 == [sent.value for sent in fake.committed]
    assert retired == fake.stats().totals.retired


def test_time_out_before_the_first_write(fake):
    """The coordinator's clock starts with the first write: without one, nothing can be too old."""
    with fake.transaction() as tx:
        fake.time_out()
        tx.produce_async("orders", "one")

    fake.assert_committed(Sent("orders", "one"))


@pytest.mark.parametrize("transactional", [True, False])
def test_exhaust(transactional):
    """Meanwhile a checkout raises PoolTimeoutError, soon; afterwards all is as before."""
    with FakePool("orders", transactional=transactional) as fake:
        with fake.exhaust(), pytest.raises(PoolTimeoutError) as caught:
            fake.producer().__enter__()
        with fake.producer() as producer:
            producer.produce_sync("orders", "after")

    assert "orders: no producer free after 20 ms (2 of 2 in use" in str(caught.value)
    assert "by thread 'orders.exhaust()'" in str(caught.value)
    fake.assert_committed(Sent("orders", "after"))


def test_exhaust_leaves_what_is_held(fake):
    """Who holds a producer goes on with it; others find none, after a time of their own."""
    with fake.transaction() as tx, fake.exhaust():
        tx.produce_async("orders", "held")
        with ThreadPoolExecutor(1) as other:
            error = other.submit(fake.transaction(timeout_ms=1).__enter__).exception()

    assert isinstance(error, PoolTimeoutError)
    assert "no producer free after 1 ms" in str(error)
    fake.assert_committed(Sent("orders", "held"))


def test_exhaust_a_lazy_pool():
    """Producers that aren't made yet are held, too."""
    settings = PoolSettings(size=3, timeout_ms=PATIENCE_MS)
    with FakePool("orders", settings=settings) as fake, fake.exhaust(), pytest.raises(PoolTimeoutError, match="3 of 3"):
        fake.producer().__enter__()


def test_exhaust_what_is_on_its_way(fake):
    """A producer that is just being replaced is waited for, and held."""
    with pytest.raises(FencedError), fake.transaction() as tx:
        tx.produce_sync("orders", "never")
        fake.fence()

    with fake.exhaust(), pytest.raises(PoolTimeoutError, match="2 of 2 in use"):
        fake.producer().__enter__()


def test_slow_creation(fake):
    """Meanwhile no producer can be had, and the error says that they are being made; afterwards they come."""
    with fake.slow_creation(), pytest.raises(PoolTimeoutError, match="orders: no producer free after 20 ms"):
        fake.producer().__enter__()
    commit(fake, "after")

    assert {"creation is slow on cue"} == {event.reason for event in of(fake, ProducerRetired)}
    fake.assert_committed(Sent("orders", "after"))


# -- in the place of a real pool ---------------------------------------------------------------------


def test_override_before_the_opening(container):
    """Overridden before it is opened, the real pool never is: neither by a call nor by init_resources."""
    with FakePool("orders") as fake, container.orders.override(fake), container.billing.invoices.override(fake):
        container.init_resources()
        place("7")
    container.stored.shutdown()

    fake.assert_committed(Sent("orders", "order 7", key="7", headers={"source": "shop"}))
    assert not container.orders.initialized


def test_override_after_the_opening():
    """Overridden after it was opened, the real pool stays open beneath, and is back afterwards."""
    container = Container()
    real = container.stored()
    with FakePool("stored") as fake, container.stored.override(fake):
        commit(container.stored(), "to the fake")
    commit(container.stored(), "to the real one")
    container.stored.shutdown()

    assert ["to the fake"] == [sent.value for sent in fake.committed]
    assert ["to the real one"] == committed(real)


def test_running_with_a_fake():
    """An application runs on a fake: the real pool isn't opened, and the application's end leaves the fake open."""
    application = Container()
    with FakePool("orders") as fake, application.orders.override(fake), application.billing.invoices.override(fake):
        with running(application):
            application.service().place("7")
        commit(fake, "still open")

    assert ["order 7", "still open"] == [sent.value for sent in fake.committed]
    assert not application.orders.initialized


def test_what_leaks(container):
    """By override alone, a singleton that was built meanwhile keeps the fake for ever."""
    container.reset_singletons()
    with FakePool("orders") as fake, container.orders.override(fake):
        container.service()

    assert fake is container.service().pool
    container.reset_singletons()


def test_faked_leaks_nothing(container, fake):
    """Faked, a singleton of before gets the fake, and one that was built meanwhile is gone afterwards."""
    with container.orders.override(fake):
        before = container.service()
    with faked(container, "orders") as orders:
        meanwhile = container.service()
        meanwhile.place("7")
    with container.orders.override(fake):
        after = container.service()
        container.reset_singletons()

    assert (fake, orders, fake) == (before.pool, meanwhile.pool, after.pool)
    orders.assert_committed(Sent("orders", key="7"))
    fake.assert_nothing_committed()


@pytest.mark.parametrize("number", [1, 2])
def test_fixture(container, fake_pool, number):
    """The fixture replaces the named pool of a session-wide container for one test; the next starts with nothing."""
    orders = fake_pool(container, "orders")
    with pytest.raises(ValueError, match="no key"):
        place("")
    orders.assert_nothing_committed()
    place("7")
    container.service().place("8")

    orders.assert_committed(Sent("orders", key="7"), Sent("orders", key="8"))
    assert ("orders", 2) == (orders.name, len(orders.committed))
    orders.assert_no_open_transaction()


def test_fixture_for_two_pools(container, fake_pool):
    """Several pools are replaced at once, also in a container within; options go to the fake."""
    orders = fake_pool(container, "orders")
    invoices = fake_pool(container, "billing.invoices", transactional=False, size=1)
    place("7")
    with container.billing.invoices().producer() as producer:
        producer.produce_sync("invoices", "one")

    assert ("orders", "billing.invoices", 1) == (orders.name, invoices.name, invoices.stats().size)
    assert ["orders"] == [sent.topic for sent in orders.committed]
    assert ["invoices"] == [sent.topic for sent in invoices.committed]


def test_faked_ends(container):
    """At the end the real pool is back and the fake is closed, though somebody held a transaction of it."""
    with faked(container, "orders") as fake:
        held = fake.transaction()
        held.__enter__().produce_async("orders", "never")

    assert "connection_pool.shutdown" == fake.events[-1].name
    assert fake is not container.orders.last_overriding
    with pytest.raises(wd_di.WdDiError):
        held.__exit__(None, None, None)
    fake.assert_nothing_committed()


def test_faked_after_an_error(container):
    """An error inside goes on, and the real pool is back."""
    with pytest.raises(ZeroDivisionError), faked(container, "orders"):
        _ = 1 / 0

    assert container.orders.last_overriding is None


def test_faked_class():
    """A container class is refused: an override of it would reach only containers that are made later."""
    with (
        pytest.raises(TypeError, match=r"a pool lives in a container made of it: Container\(\)"),
        faked(Container, "orders"),
    ):
        pass


def test_the_global_pool():
    """The functions of wd_di run on a fake without a setup."""
    with faked(wd_di.default.container, "pool") as fake, wd_di.transaction() as tx:
        tx.produce_async("orders", "one")

    fake.assert_committed(Sent("orders", "one"))
    assert not wd_di.is_active()


def test_the_global_observer_outlives_a_fake():
    """Who listens to wd_di.observer hears of the pool that is set up after a test has faked the global one."""
    heard: list[str] = []
    with faked(wd_di.default.container, "pool"):
        pass
    with wd_di.observer.subscribe("connection_pool.created", lambda event: heard.append(event.pool)):
        wd_di.setup(settings=PoolSettings(deliver=False))
        wd_di.close()

    assert ["default"] == heard


# -- under async def ---------------------------------------------------------------------------------


async def test_async_code(container, fake_pool):
    """Async code that calls its services in threads runs on a fake; the provider stays what it was."""
    orders = fake_pool(container, "orders")
    await asyncio.gather(*(asyncio.to_thread(place, str(number)) for number in range(4)))

    orders.assert_committed(*(Sent("orders", key=str(number)) for number in range(4)))
    assert not container.orders.is_async_mode_enabled()
    assert isinstance(container.orders(), FakePool)


def test_the_provider_stays_synchronous(container):
    """What was overridden under async def gives sync code the pool itself, and no future."""

    async def override() -> None:
        with faked(container, "orders"):
            await asyncio.to_thread(place, "7")

    asyncio.run(override())

    with faked(container, "orders") as orders:
        assert orders is container.orders()
        assert orders is container.service().pool


async def test_made_on_a_loop():
    """A fake that is made on a loop's thread is ready at once: its producers can be had without waiting."""
    with FakePool("clicks", transactional=False) as fake:
        with fake.producer() as one, fake.producer() as same:
            delivery = one.produce_async("clicks", "one")
        await asyncio.to_thread(delivery.result)

    assert one is same
    fake.assert_committed(Sent("clicks", "one"))


async def test_blocking_on_a_loop(fake):
    """What would block a real pool's loop is refused by a fake, too."""
    with pytest.raises(ScopeError, match=r"asyncio\.to_thread"):
        commit(fake, "never")

    fake.assert_nothing_committed()


async def test_exhausted_on_a_loop(fake):
    """A fake is exhausted from a loop's thread, too."""
    with fake.exhaust(), pytest.raises(PoolTimeoutError):
        await asyncio.to_thread(commit, fake, "never")
    await asyncio.to_thread(commit, fake, "after")

    assert ["after"] == [sent.value for sent in fake.committed]


async def test_async_transactions(fake):
    """Tasks work on the same fake, with the same records, cues and assertions."""
    async with fake.transaction() as tx:
        await tx.produce_sync("orders", "one", "7")
        with pytest.raises(AssertionError, match="held by task"):
            fake.assert_no_open_transaction()
    fake.fail_next("commit", unknown=True)
    with pytest.raises(CommitOutcomeUnknownError):
        async with fake.transaction() as tx:
            tx.produce_async("orders", "perhaps")
    with fake.exhaust(), pytest.raises(PoolTimeoutError):
        await fake.transaction().__aenter__()

    fake.assert_committed(Sent("orders", "one", "7"))
    fake.assert_aborted(Sent("orders", "perhaps"))
    fake.assert_no_open_transaction()
