"""What crosses to another process, and what says that it can't."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from typing import Any

import pytest
from dependency_injector import containers, providers

import wd_di
from tests.pools import plain
from tests.scripted import Fault, FaultKind, plain_pool
from wd_di import (
    Delivery,
    DeliveryError,
    DeliveryReport,
    DeliveryTimeoutError,
    FencedError,
    LoggingObserver,
    Message,
    Observer,
    PoolResource,
    PoolSettings,
    TransactionError,
    errors,
    events,
    testing,
)
from wd_di._records.delivery import _Failed
from wd_di.testing import FakePool, MockKafka

WAYS = pytest.mark.parametrize(
    "cross",
    [
        *(
            pytest.param(lambda it, each=each: pickle.loads(pickle.dumps(it, each)), id=f"pickle{each}")  # noqa: S301
            for each in range(2, pickle.HIGHEST_PROTOCOL + 1)
        ),
        pytest.param(copy.copy, id="copy"),
        pytest.param(copy.deepcopy, id="deepcopy"),
    ],
)
Cross = Callable[[Any], Any]


def _classes() -> list[type[BaseException]]:
    public = (getattr(home, name) for home in (errors, wd_di, testing) for name in dir(home) if name[0] != "_")
    return sorted({each for each in public if _is_error(each)}, key=lambda each: each.__name__)


def _is_error(each: object) -> bool:
    return isinstance(each, type) and issubclass(each, BaseException) and each.__module__.startswith("wd_di")


def _make(kind: type[BaseException]) -> BaseException:
    if kind is errors.MissingExtraError:
        return errors.MissingExtraError("LocalKafka", "local-kafka")
    return kind("orders: who, how many, what to do")


@pytest.fixture
def fake() -> Iterator[FakePool]:
    """A fake whose producers fail on cue."""
    with FakePool("orders", size=1) as fake:
        yield fake


@WAYS
@pytest.mark.parametrize("kind", _classes(), ids=lambda kind: kind.__name__)
def test_every_error_crosses(kind, cross):
    """Type, text, arguments, notes and whatever was set on it arrive; the cause stays behind, as Python has it."""
    error = _make(kind)
    error.add_note("While closing the container's resources: nothing")
    error.shelf = {"any": ["thing"]}  # type: ignore[attr-defined]
    if isinstance(error, TransactionError):
        error.outcome, error.safe_to_retry = "unknown", True
    error.__cause__ = KeyError("why")

    there = cross(error)

    assert there is not error
    assert (kind, str(error), error.args, vars(error)) == (type(there), str(there), there.args, vars(there))
    assert ["While closing the container's resources: nothing"] == there.__notes__
    assert None is there.__cause__
    for name in ("msg", "name", "errno", "strerror", "extra", "failed", "outcome", "safe_to_retry"):
        assert getattr(error, name, None) == getattr(there, name, None)


@WAYS
def test_errors_of_users_cross(cross):
    """A subclass may want other arguments than it passes on."""
    error = Refused(7, who="me")

    there = cross(error)

    assert (Refused, "order 7 of me", 7, True) == (type(there), str(there), there.order, there.safe_to_retry)


class Refused(errors.TransactionAbortedError):
    """Made of something else than its text."""

    def __init__(self, order: int, *, who: str) -> None:
        super().__init__(f"order {order} of {who}")
        self.order = order


@WAYS
def test_a_fault_crosses(cross):
    """What events carry, with its kind and whether the transaction must abort."""
    fault = Fault(FaultKind.ABORTABLE, "Broker: Unknown member [UNKNOWN_MEMBER_ID]")

    there = cross(fault)

    assert (str(fault), FaultKind.ABORTABLE, True, False) == (str(there), there.kind, there.requires_abort, there.fatal)


@WAYS
def test_what_a_pool_raises_crosses(fake, cross):
    """Errors as they are raised, with what they know of the outcome."""
    fake.fence()
    with pytest.raises(FencedError) as fenced, fake.transaction() as tx:
        tx.produce_async("orders", "tea")
    fake.reset()
    fake.fail_next("commit", unknown=True)
    with pytest.raises(TransactionError) as unknown, fake.transaction() as tx:
        tx.produce_async("orders", "tea")

    for error in (fenced.value, unknown.value):
        there = cross(error)
        assert (type(error), str(error), error.outcome, error.safe_to_retry) == (
            type(there),
            str(there),
            there.outcome,
            there.safe_to_retry,
        )
    assert "unknown" == unknown.value.outcome


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_failed_deliveries_cross(fake, protocol):
    """A DeliveryError lists what failed, settled, each with its own error; either may be pickled first."""
    fake.fail_delivery("orders", times=2)
    with pytest.raises(DeliveryError) as caught, fake.transaction() as tx:
        tx.produce_many_async([Message("orders", "tea"), Message("orders", "milk"), Message("others", "bread")])
    error = caught.value

    there, first = pickle.loads(pickle.dumps((error, error.failed[0]), protocol))  # noqa: S301  (our own)

    assert str(error) == str(there)
    assert ["orders", "orders"] == [each.topic for each in there.failed]
    assert ["aborted"] * 2 == [each.outcome for each in there.failed]
    assert first is there.failed[0]
    assert [str(each.exception()) for each in error.failed] == [str(each.exception()) for each in there.failed]
    with pytest.raises(DeliveryError):
        first.result()


def test_an_error_that_lists_itself_crosses(fake):
    """A delivery whose error lists that delivery is no endless walk."""
    with fake.transaction() as tx:
        delivery = tx.produce_async("orders", "tea")
    delivery._answer = _Failed("failed", DeliveryError("it failed", [delivery]))

    there = pickle.loads(pickle.dumps(delivery))  # noqa: S301  (our own)

    assert there is there.exception().failed[0]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_settled_deliveries_cross(fake, protocol):
    """What was delivered keeps its report, for every way of asking; what was aborted is aborted."""
    with fake.transaction() as tx:
        delivered = tx.produce_async("orders", "tea")
    with fake.transaction() as tx:
        aborted = tx.produce_async("orders", "tea")
        tx.abort_only()
    called: queue.Queue[Delivery] = queue.Queue()

    there, not_there = pickle.loads(pickle.dumps([delivered, aborted], protocol))  # noqa: S301  (our own)
    there.add_done_callback(called.put)

    assert (there.topic, True, "delivered", None) == ("orders", there.done(), there.outcome, there.exception())
    assert [delivered.result()] * 2 == [there.result(), asyncio.run(_awaited(there))]
    assert there is called.get(timeout=10)
    assert "aborted" == not_there.outcome
    with pytest.raises(DeliveryError, match="orders: a record for 'orders' was aborted"):
        not_there.result()


def test_a_pending_delivery_says_so(kept):
    """Its answer comes where it was sent: elsewhere nobody waits for it, neither a thread nor a task."""
    with MockKafka() as kafka:
        pool = kept(plain(kafka.bootstrap_servers, size=1, kafka={"linger.ms": 60_000}))
        with pool.producer() as producer:
            delivery = producer.produce_async("orders", "tea")
            there = pickle.loads(pickle.dumps(delivery))  # noqa: S301  (our own)
            producer.flush()

    assert ("delivered", "pending", False) == (delivery.outcome, there.outcome, there.done())
    for ask in (there.result, there.exception, lambda: there.result(60_000), lambda: asyncio.run(_awaited(there))):
        with pytest.raises(DeliveryTimeoutError, match=r"had no answer when its Delivery was pickled.*may still be"):
            ask()


async def _awaited(delivery: Delivery) -> DeliveryReport:
    return await delivery


def test_a_copied_delivery_is_the_delivery(fake):
    """In its own process it goes on being answered."""
    with fake.transaction() as tx:
        delivery = tx.produce_async("orders", "tea")

    assert [delivery] * 2 == [copy.copy(delivery), copy.deepcopy({"a": delivery})["a"]]


@WAYS
def test_events_and_plain_values_cross(fake, cross):
    """Whatever a listener is told can be sent on, and so can reports, statistics and records to be."""
    fake.fail_delivery("orders")
    with pytest.raises(DeliveryError), fake.transaction() as tx:
        delivery = tx.produce_async("orders", "tea")
    with fake.transaction() as tx:
        report = tx.produce_async("others", "tea")
    stats, closed = fake.stats(), fake.close()
    seen = [*fake.events, events.StatisticsEmitted(pool="orders", index=0, json='{"a": 1}'), closed, stats]
    seen += [stats.totals, report.result(), Message("orders", "tea"), wd_di.Retry(3), *_one_of_each()]

    assert delivery.done()
    for each in seen:
        there = cross(each)
        assert type(each) is type(there)
        for field in fields(each):
            one, two = getattr(each, field.name), getattr(there, field.name)
            assert (type(one), str(one)) == (type(two), str(two))


def _one_of_each() -> Iterator[events.Event]:
    for kind in events.EVENTS:
        error = Fault(FaultKind.FATAL, "gone")
        given = {each.name: error if each.name in ("error", "cause") else each.name for each in fields(kind)}
        yield kind(**given)  # type: ignore[arg-type]


def test_statistics_are_parsed_on_the_other_side():
    """The parsed form is made where it is asked for."""
    event = events.StatisticsEmitted(pool="orders", index=0, json='{"a": 1}')

    assert {"a": 1} == event.statistics == pickle.loads(pickle.dumps(event)).statistics  # noqa: S301  (our own)


# -- a real process ---------------------------------------------------------------------------------


def _fail(kind: str) -> None:
    """Raised in a process of its own."""
    with FakePool("orders", size=1) as fake:
        if kind == "MissingExtraError":
            raise errors.MissingExtraError("LocalKafka", "local-kafka")
        fake.fail_delivery("orders")
        with fake.transaction() as tx:
            tx.produce_async("orders", "tea")


def test_errors_cross_to_a_real_process():
    """An executor hands over what was raised in its process, and goes on."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        with pytest.raises(DeliveryError, match="1 of 1 records weren't delivered") as failed:
            processes.submit(_fail, "DeliveryError").result(40)
        with pytest.raises(errors.MissingExtraError, match=r"pip install '\.\[local-kafka\]' in a clone") as missing:
            processes.submit(_fail, "MissingExtraError").result(40)

    assert ["aborted"] == [each.outcome for each in failed.value.failed]
    assert ("local-kafka", str(missing.value)) == (missing.value.extra, missing.value.msg)


# -- what stays -------------------------------------------------------------------------------------


class Container(containers.DeclarativeContainer):
    """Holds a pool in each of the ways."""

    orders = PoolResource(PoolSettings(deliver=False), observer=Observer())


@WAYS
def test_what_belongs_to_its_process_says_so(fake, cross):
    """A pool, and what it lends, name the way out instead of a lock that can't be pickled."""
    pool = plain_pool()
    with pool, pool.producer() as producer, fake.transaction() as tx, MockKafka() as mock:
        for thing, way in (
            (pool, r"^ProducerPool can't be .* Make a pool in each process, from the same settings"),
            (fake, "^FakePool can't be pickled or copied"),
            (producer, "^Producer can't be pickled or copied: it is lent to one borrower.* Ask the process's own pool"),
            (tx, "^Transaction can't be pickled or copied"),
            (pool.producer(), "^Checkout can't be pickled or copied: it belongs to its pool"),
            (pool.producer().awaited, "^Checkout can't be pickled or copied"),
            (fake.transaction(), "^TransactionScope can't be pickled or copied"),
            (mock, "^MockKafka can't be .* Hand over its bootstrap_servers"),
        ):
            with pytest.raises(TypeError, match=way):
                cross(thing)
    with pytest.raises(TypeError, match=r"^ProducerPool can't be"):
        cross(pool)


@pytest.mark.parametrize("observer", [Observer(), LoggingObserver()], ids=["plain", "logging"])
def test_an_observer_is_copied_as_itself(observer):
    """What a container copies goes on hearing what its pools tell; another process makes its own."""

    class Holder(containers.DeclarativeContainer):
        service = providers.Singleton(dict, observer=observer)

    assert observer is copy.copy(observer)
    assert observer is Holder().service()["observer"]
    with pytest.raises(TypeError, match=rf"^{type(observer).__name__} can't be pickled: .* Make one in each process"):
        pickle.dumps(observer)


def test_containers_are_copied_as_before():
    """Making a container copies its pools' providers, and takes a pool that exists as it is."""
    with plain_pool() as pool:

        class Holder(Container):
            existing = providers.Object(pool)
            several = providers.Object([pool])

        holder = Holder()
        assert pool is holder.existing()
        assert pool is holder.several()[0]
        assert pool is copy.deepcopy(holder).existing()
    assert holder.orders is not Holder.orders
    for cross in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match=r"^PoolResource can't be .* Make the container in each process"):
            cross(holder.orders)
    with pytest.raises(TypeError, match=r"^PoolResource can't be"):
        pickle.dumps(holder)
