"""A broker that is gone, frozen or was never there: every call ends by its deadline, and says why."""

from __future__ import annotations

import itertools
import re
import threading
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Literal

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.kafka.readers import read, values
from tests.pools import Recorder, bounded, plain, pool, unique, until
from wd_di import (
    AbortTransaction,
    CommitOutcomeUnknownError,
    DeliveryTimeoutError,
    Message,
    PoolOpenError,
    PoolTimeoutError,
    ProducerPool,
    ProducerRetired,
    TransactionAbortedError,
    TransactionScope,
    WdDiError,
)
from wd_di.testing._kraft import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di.testing import LocalKafka

Death = Literal["killed", "paused"]
DEATHS = pytest.mark.parametrize("death", ["killed", "paused"])
DEADLINE_MS = 1_000
TOLERANCE_MS = 250
RECOVERY_MS = 20_000
BACKLOG = 10

CAUSE = r"Connection refused|no broker has answered"


@pytest.fixture
def nowhere() -> str:
    """An address at which nobody listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"


def strike(kafka: LocalKafka, death: Death) -> None:
    """Make the broker dead."""
    [broker] = kafka.brokers
    broker.kill() if death == "killed" else broker.pause()


def revive(kafka: LocalKafka) -> None:
    """Bring the broker back and return when it answers."""
    [broker] = kafka.brokers
    if broker.running:
        broker.resume()
    broker.start()


# -- nobody there ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [pool, plain])
def test_open_without_a_broker(nowhere: str, make: Callable[..., ProducerPool]) -> None:
    """Opening gives up at its deadline, with the reason, and leaves nothing behind."""
    orders = make(nowhere, size=3, open_timeout_ms=DEADLINE_MS)
    with bounded(DEADLINE_MS), pytest.raises(PoolOpenError, match=CAUSE):
        orders.open()

    assert orders.close().clean


def test_checkout_without_a_broker(nowhere: str) -> None:
    """A checkout that can't be connected ends at its deadline with the last cause; the next one too."""
    orders = pool(nowhere, size=2)
    for _ in range(2):
        with bounded(DEADLINE_MS), pytest.raises(PoolTimeoutError, match=CAUSE):
            orders.producer(timeout_ms=DEADLINE_MS).__enter__()
    with bounded(DEADLINE_MS):
        orders.close(timeout_ms=DEADLINE_MS)


def test_a_record_without_a_broker(nowhere: str) -> None:
    """A plain producer is handed out without a broker; its records' deadlines hold, and close gives the records up."""
    clicks = plain(nowhere, size=1)
    with clicks.producer() as producer:
        with bounded(DEADLINE_MS), pytest.raises(DeliveryTimeoutError, match=CAUSE):
            producer.produce_sync("t", "lost", timeout_ms=DEADLINE_MS)
        producer.produce_async("t", "lost, too")
        with bounded(DEADLINE_MS), pytest.raises(DeliveryTimeoutError):
            producer.flush(timeout_ms=DEADLINE_MS)
    with bounded(DEADLINE_MS):
        report = clicks.close(timeout_ms=DEADLINE_MS)

    assert (2, 0) == (report.purged, report.flushed)


# -- gone in the middle ----------------------------------------------------------------------------


class Episode:
    """What calls did while the broker was dead, and what was found when it was back.

    Attributes:
        took: Milliseconds of each call.
        came: What each call returned or raised.
        seen: What a ``read_committed`` reader saw at the end.
    """

    def __init__(self, kafka: LocalKafka, topic: str) -> None:
        self.kafka, self.topic, self.servers = kafka, topic, kafka.bootstrap_servers
        self.took: dict[str, float] = {}
        self.came: dict[str, Any] = {}
        self.seen: list[str] = []
        self.retired: list[str] = []

    def call(self, name: str, fn: Callable[[], object]) -> None:
        """Measure one call."""
        started = time.monotonic()
        try:
            self.came[name] = fn()
        except Exception as error:  # noqa: BLE001  (looked at by a test)
            self.came[name] = error
        self.took[name] = (time.monotonic() - started) * 1000

    def run(self, death: Death) -> None:
        """Open transactions, let the broker die, end them, let it come back, and see whether the pools work."""
        recorder = Recorder()
        with ExitStack() as stack:
            pools = {
                name: stack.enter_context(self.pool(name, recorder)) for name in ("commit", "doubt", "abort", "reload")
            }
            held = self.pool("close a holder", recorder)
            idle, clicks = self.pool("close", recorder, size=3), self.backlogged()
            scopes = {each.name: self.begun(each) for each in (pools["commit"], pools["doubt"], pools["abort"], held)}
            idle.open()
            pools["reload"].open()
            strike(self.kafka, death)
            self.produce_more(clicks, pools["commit"])
            self.end(scopes)
            for _ in range(2):
                self.call("checkout", pools["commit"].producer(timeout_ms=DEADLINE_MS).__enter__)
            self.call("open", self.pool("open", recorder).open)
            self.call("reload", lambda: pools["reload"].reload(timeout_ms=DEADLINE_MS))
            self.call("close", lambda: idle.close(timeout_ms=DEADLINE_MS))
            self.call("close a backlog", lambda: clicks.close(timeout_ms=DEADLINE_MS))
            self.call("close a holder", lambda: held.close(timeout_ms=DEADLINE_MS, force=True))
            self.recover(pools)
        self.retired = [event.pool for event in recorder.of(ProducerRetired) if event.error is not None]
        # The backlog may have been on its way: a record that is given up in flight can still arrive.
        self.seen = [value for value in values(self.servers, self.topic) if value != "backlog"]

    def pool(self, name: str, recorder: Recorder, *, size: int = 1) -> ProducerPool:
        """Return a pool whose every deadline is the same, and that doesn't look for what became of a commit."""
        deadlines = dict.fromkeys(("open_timeout_ms", "commit_timeout_ms", "abort_timeout_ms"), DEADLINE_MS)
        deadlines["resolve_timeout_ms"] = 0
        return pool(self.servers, name=name, observer=recorder, size=size, **deadlines)

    def backlogged(self) -> ProducerPool:
        """Return a plain pool that knows the topic, and sends what is enqueued from now on in a minute."""
        clicks = plain(self.servers, size=1, kafka={"linger.ms": 60_000})
        with clicks.producer() as producer:
            producer.produce_sync(self.topic, "before")
        return clicks

    def begun(self, pool: ProducerPool) -> TransactionScope:
        """Return a transaction that the broker knows of."""
        scope = pool.transaction(timeout_ms=RECOVERY_MS)
        scope.__enter__().produce_sync(self.topic, pool.name)
        return scope

    def produce_more(self, clicks: ProducerPool, orders: ProducerPool) -> None:
        """Produce what the dead broker won't answer."""
        with clicks.producer() as plain_producer, orders.producer() as tx:
            plain_producer.produce_many_async([Message(self.topic, "backlog")] * BACKLOG)
            tx.produce_async(self.topic, "commit")

    def end(self, scopes: dict[str, TransactionScope]) -> None:
        """End each transaction in its way."""
        failure = ZeroDivisionError()
        self.call("commit", lambda: scopes["commit"].__exit__(None, None, None))
        self.call("doubt", lambda: scopes["doubt"].__exit__(None, None, None))
        self.call("abort", lambda: scopes["abort"].__exit__(ZeroDivisionError, failure, None))
        self.came["abort"] = failure

    def recover(self, pools: dict[str, ProducerPool]) -> None:
        """Bring the broker back and use each pool."""
        revive(self.kafka)
        for orders in pools.values():
            with orders.transaction(timeout_ms=RECOVERY_MS) as tx:
                tx.produce_async(self.topic, f"{orders.name} works")


@pytest.fixture(scope="module", params=["killed", "paused"])
def episode(request: pytest.FixtureRequest, _own_kafka: LocalKafka) -> Episode:
    """One death of the broker for all tests that ask what happens meanwhile."""
    revive(_own_kafka)
    episode = Episode(_own_kafka, _own_kafka.create_topic(unique("t")))
    episode.run(request.param)
    return episode


@pytest.mark.parametrize(
    "name", ["commit", "doubt", "abort", "checkout", "open", "reload", "close", "close a backlog", "close a holder"]
)
def test_a_call_to_a_dead_broker_ends_by_its_deadline(episode: Episode, name: str) -> None:
    """Whatever the broker died of, no call takes longer than the larger of 10 % and 250 ms over its deadline."""
    assert episode.took[name] <= DEADLINE_MS + TOLERANCE_MS


def test_unanswered_records_abort_the_commit(episode: Episode) -> None:
    """A commit whose records aren't answered ends as aborted, a known outcome, with the cause."""
    error = episode.came["commit"]

    assert isinstance(error, TransactionAbortedError)
    assert re.search(r"1 of 2 records had no answer", str(error))
    assert ("aborted", True) == (error.outcome, error.safe_to_retry)  # its commit was never asked for


def test_a_commit_without_an_answer_is_in_doubt(episode: Episode) -> None:
    """A commit that was sent and isn't answered says that its outcome is unknown, and why."""
    error = episode.came["doubt"]

    assert isinstance(error, CommitOutcomeUnknownError)
    assert re.search(r"no answer within 1000 ms", str(error))
    assert ("unknown", False) == (error.outcome, error.safe_to_retry)


def test_a_failed_abort_is_a_note_on_its_cause(episode: Episode) -> None:
    """An abort that isn't answered leaves the block's own error in place, with a note that says why."""
    [note] = episode.came["abort"].__notes__

    assert re.search(r"couldn't be aborted \(.+\); its producer is retired", note)


@pytest.mark.parametrize(
    ("name", "kind"), [("checkout", PoolTimeoutError), ("open", PoolOpenError), ("reload", PoolTimeoutError)]
)
def test_what_cannot_connect_says_why(episode: Episode, name: str, kind: type[Exception]) -> None:
    """A checkout, open or reload that meets a dead broker says what it met."""
    assert isinstance(episode.came[name], kind)
    assert re.search(CAUSE, str(episode.came[name]))


def test_close_reports_what_was_given_up(episode: Episode) -> None:
    """Closing a backlog that can't be sent reports its records as purged; idle producers lose nothing."""
    assert (BACKLOG, 0) == (episode.came["close a backlog"].purged, episode.came["close a backlog"].flushed)
    assert (0, ()) == (episode.came["close"].purged, episode.came["close"].held)


def test_pools_recover_by_themselves(episode: Episode) -> None:
    """Once the broker is back each pool works, each doubtful producer was replaced, and nothing unsaid is visible."""
    always = ["abort works", "before", "commit works", "doubt works", "reload works"]

    assert episode.seen in (always, sorted([*always, "doubt"]))
    assert {"commit", "doubt", "abort"} <= set(episode.retired)


# -- and back --------------------------------------------------------------------------------------


def test_offsets_for_a_frozen_broker(own_kafka: LocalKafka, own_topic: str) -> None:
    """send_offsets and the scope end by the deadline, though librdkafka's call goes on until the broker answers."""
    recorder, [broker] = Recorder(), own_kafka.brokers
    member = Consumer({"bootstrap.servers": own_kafka.bootstrap_servers, "group.id": unique("group")})
    with closing(member), pool(own_kafka.bootstrap_servers, size=1, observer=recorder) as orders:
        scope = orders.transaction()
        tx = scope.__enter__()
        tx.produce_sync(own_topic, "never")
        broker.pause()
        with bounded(500), pytest.raises(TransactionAbortedError, match="no answer within 500 ms") as caught:
            tx.send_offsets([TopicPartition(own_topic, 0, 1)], member.consumer_group_metadata(), timeout_ms=500)
        with bounded(0):
            assert not scope.__exit__(TransactionAbortedError, caught.value, None)
        assert "aborted" == caught.value.outcome
        assert 1 == orders.stats().retiring

        broker.resume()
        with orders.transaction(timeout_ms=RECOVERY_MS) as tx:
            tx.produce_async(own_topic, "after")

    assert ["after"] == values(own_kafka.bootstrap_servers, own_topic)
    assert "send_offsets timed out" in [event.reason for event in recorder.of(ProducerRetired)]


@DEATHS
def test_what_was_reported_is_true(own_kafka: LocalKafka, own_topic: str, death: Death) -> None:
    """Through a broker's death and return, under load, committed ones are all there and aborted ones never."""
    servers, outcomes = own_kafka.bootstrap_servers, dict[str, str]()
    done = threading.Event()

    def work(worker: int) -> None:
        for number in itertools.count():
            if done.is_set():
                return
            name = f"{worker}-{number}"
            outcomes[name] = publish(orders, own_topic, name, abort=number % 4 == 0)

    def publishes(count: int) -> bool:
        return sum(outcome == "committed" for outcome in tuple(outcomes.values())) >= count

    with pool(servers, size=4, commit_timeout_ms=DEADLINE_MS, abort_timeout_ms=DEADLINE_MS) as orders:
        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: publishes(50))
        strike(own_kafka, death)
        until(lambda: any(outcome not in {"committed", "abandoned"} for outcome in tuple(outcomes.values())))
        revive(own_kafka)
        so_far = len(outcomes)
        until(lambda: publishes(so_far + 50), timeout_ms=RECOVERY_MS)
        done.set()
        for thread in threads:
            thread.join()

    found = [(record.value or b"").decode().split(":") for record in read(servers, own_topic)]
    seen = {name: [part for other, part in found if other == name] for name, _ in found}
    assert 2 * len(seen) == len(found)
    for name, outcome in outcomes.items():
        if outcome == "committed":
            assert ["a", "b"] == seen[name]
        elif outcome != "unknown":
            assert name not in seen


def publish(orders: ProducerPool, topic: str, name: str, *, abort: bool) -> str:
    """Try one transaction of two records; what became of it by the pool's own word."""
    try:
        with orders.transaction(timeout_ms=500) as tx:
            tx.produce_async(topic, f"{name}:a")
            tx.produce_async(topic, f"{name}:b")
            if abort:
                raise AbortTransaction
    except CommitOutcomeUnknownError:
        return "unknown"
    except WdDiError as error:
        return f"failed: {error!r}"
    return "abandoned" if abort else "committed"


def assert_recovers(kafka: LocalKafka, orders: ProducerPool, topic: str) -> None:
    """Assert that the pool works again once the broker is back, without being told."""
    revive(kafka)
    with orders.transaction(timeout_ms=RECOVERY_MS) as tx:
        tx.produce_async(topic, "after")
