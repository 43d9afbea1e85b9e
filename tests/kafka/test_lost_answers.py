# ruff: noqa: PT012  (what a transaction's block does is the case)
"""Commits whose answer is missing: what became of them is found out, or it is said why it can't be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.faults.rules import Api
from tests.kafka.readers import values
from tests.pages import ROOT, files
from tests.pools import Recorder, bounded, pool, unique, until
from wd_di import CommitOutcomeUnknownError, FencedError, ProducerPool, Retry, TransactionAbortedError
from wd_di._kafka.librdkafka import KafkaClient
from wd_di.events import ProducerRetired, TransactionCommitted, TransactionFinished, TransactionResolved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.proxy import FaultProxy
    from tests.faults.rules import Action
    from wd_di.testing import LocalKafka

NAME = "faulty"
COMMIT_MS = 1_000
FOUND_MS = 1_000
"""How long finding out may take at most on a slow machine; here it takes about 100 ms."""

LOST = pytest.mark.parametrize(
    ("action", "outcome"), [("swallow reply", "committed"), ("swallow request", "aborted")], ids=["reply", "request"]
)


@pytest.fixture
def servers(proxied_kafka: LocalKafka) -> str:
    """Where the broker behind the proxy is."""
    return proxied_kafka.bootstrap_servers


@pytest.fixture
def topic(proxied_topic: str) -> str:
    """A topic of the test's own there."""
    return proxied_topic


@pytest.fixture
def recorder() -> Recorder:
    """Everything that the pool tells."""
    return Recorder()


@pytest.fixture
def orders(servers: str, recorder: Recorder) -> Iterator[ProducerPool]:
    """A pool of one producer that gives up a commit soon."""
    with pool(servers, name=NAME, size=1, commit_timeout_ms=COMMIT_MS, observer=recorder) as orders:
        yield orders


@pytest.fixture
def group(servers: str) -> Iterator[Consumer]:
    """A member of a new consumer group."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": unique("group")})
    yield consumer
    consumer.close()


def lose(proxy: FaultProxy, action: Action) -> None:
    """Let no end of a transaction have an answer from now on."""
    proxy.on(Api.END_TXN, action, times=None, client=NAME)


def ended(what: Callable[[], object]) -> object:
    """What a transaction raised, if it did, within its deadlines."""
    with bounded(COMMIT_MS + FOUND_MS):
        try:
            what()
        except TransactionAbortedError as error:
            return error
    return None


def check(recorder: Recorder, raised: Any, outcome: str, way: str) -> None:
    """Assert that event and error tell the same, and what was the case."""
    [resolved] = recorder.of(TransactionResolved)
    assert (outcome, way) == (resolved.outcome, resolved.way)
    assert 0 < resolved.duration_ms < FOUND_MS
    assert outcome == recorder.of(TransactionFinished)[-1].outcome
    if outcome == "committed":
        assert raised is None
        assert 1 == len(recorder.of(TransactionCommitted))
    else:
        assert (outcome, way, resolved.told) == (raised.outcome, raised.resolution.way, raised.resolution.told)
        assert raised.safe_to_retry


@LOST
def test_records(  # noqa: PLR0917  (fixtures and the case)
    proxy: FaultProxy, orders: ProducerPool, recorder: Recorder, servers: str, topic: str, action: Action, outcome: str
) -> None:
    """A reader tells by a record what a commit without an answer was, and the pool goes on."""
    deliveries = []

    def publish() -> None:
        with orders.transaction() as tx:
            deliveries.extend(tx.produce_async(topic, value) for value in ("a", "b"))

    lose(proxy, action)
    raised = ended(publish)

    check(recorder, raised, outcome, "record")
    assert (["a", "b"] if outcome == "committed" else []) == values(servers, topic)
    assert {"delivered" if outcome == "committed" else "aborted"} == {each.outcome for each in deliveries}
    proxy.reset()
    with orders.transaction() as tx:
        tx.produce_async(topic, "next")
    assert "next" in values(servers, topic)


@LOST
async def test_in_a_task(  # noqa: PLR0917  (as above)
    proxy: FaultProxy, orders: ProducerPool, recorder: Recorder, servers: str, topic: str, action: Action, outcome: str
) -> None:
    """A task finds it out as a thread does."""
    lose(proxy, action)
    raised = None
    try:
        async with orders.transaction() as tx:
            tx.produce_async(topic, "a")
    except TransactionAbortedError as error:
        raised = error

    check(recorder, raised, outcome, "record")
    assert (["a"] if outcome == "committed" else []) == values(servers, topic)


@LOST
def test_offsets_only(  # noqa: PLR0917  (as above)
    proxy: FaultProxy,
    orders: ProducerPool,
    recorder: Recorder,
    topic: str,
    group: Consumer,
    action: Action,
    outcome: str,
) -> None:
    """Without records the group's offsets tell."""

    def publish() -> None:
        with orders.transaction() as tx:
            tx.send_offsets([TopicPartition(topic, 0, 7)], group.consumer_group_metadata())

    lose(proxy, action)
    raised = ended(publish)

    check(recorder, raised, outcome, "offsets")
    [stands] = group.committed([TopicPartition(topic, 0)], timeout=10)
    assert (7 if outcome == "committed" else -1001) == stands.offset


@LOST
def test_offsets_that_go_back(  # noqa: PLR0917  (as above)
    proxy: FaultProxy,
    orders: ProducerPool,
    recorder: Recorder,
    topic: str,
    group: Consumer,
    action: Action,
    outcome: str,
) -> None:
    """Of offsets that were sent twice the last ones count; where the group stood before is known from its commits."""
    member = group.consumer_group_metadata()
    with orders.transaction() as tx:
        tx.send_offsets([TopicPartition(topic, 0, 8)], member)

    def publish() -> None:
        with orders.transaction() as tx:
            tx.send_offsets([TopicPartition(topic, 0, 9)], member)
            tx.send_offsets([TopicPartition(topic, 0, 5)], member)

    lose(proxy, action)
    raised = ended(publish)

    [resolved] = recorder.of(TransactionResolved)
    assert (outcome, "offsets") == (resolved.outcome, resolved.way)
    assert (outcome == "aborted") == (raised is not None)
    [stands] = group.committed([TopicPartition(topic, 0)], timeout=10)
    assert (5 if outcome == "committed" else 8) == stands.offset


@LOST
def test_records_that_nobody_can_read(  # noqa: PLR0917  (as above)
    proxy: FaultProxy,
    servers: str,
    recorder: Recorder,
    topic: str,
    group: Consumer,
    action: Action,
    outcome: str,
) -> None:
    """Where no record can be read in half of the time, a group that stands before the offsets proves a no.

    One that stands at them proves nothing: it may have done so before.
    """
    lose(proxy, action)
    proxy.on(Api.FETCH, "swallow request", times=None, client=NAME)
    options: dict[str, Any] = {"commit_timeout_ms": COMMIT_MS, "resolve_timeout_ms": 1_500, "observer": recorder}
    expected = {"committed": CommitOutcomeUnknownError, "aborted": TransactionAbortedError}[outcome]
    with (
        pool(servers, name=NAME, size=1, **options) as orders,
        pytest.raises(expected) as caught,
        orders.transaction() as tx,
    ):
        tx.produce_async(topic, "a")
        tx.send_offsets([TopicPartition(topic, 0, 7)], group.consumer_group_metadata())

    [resolved] = recorder.of(TransactionResolved)
    assert resolved.told == caught.value.resolution.told  # type: ignore[attr-defined]
    if outcome == "aborted":
        assert ("aborted", "offsets") == (resolved.outcome, resolved.way)
    else:
        assert "the group stands at its offsets, as it may have done before" in resolved.told


def test_a_transaction_that_is_run_again(proxy: FaultProxy, orders: ProducerPool, servers: str, topic: str) -> None:
    """A retry runs again what was found to be aborted, and it is there once."""
    rule = proxy.on(Api.END_TXN, "swallow request", client=NAME)
    orders.run(lambda tx: tx.produce_async(topic, "a"), retry=Retry(attempts=2))

    assert 1 == rule.hits
    assert ["a"] == values(servers, topic)


@LOST
def test_fenced_by_another_owner(  # noqa: PLR0917  (as above)
    proxy: FaultProxy, recorder: Recorder, servers: str, topic: str, action: Action, outcome: str
) -> None:
    """Who lost the id before the answer came finds it out too, and doesn't take the id from its new owner."""
    patient = {"name": NAME, "size": 1, "observer": recorder, "fenced_retries": 0}
    with pool(servers, kafka={"socket.timeout.ms": 1_000}, **patient) as orders:
        scope = orders.transaction()
        tx = scope.__enter__()
        tx.produce_sync(topic, "a")
        rule = proxy.on(Api.END_TXN, action, client=NAME)
        rival = Producer(
            {"bootstrap.servers": servers, "transactional.id": tx.id.rpartition("#")[0], "client.id": "rival"}
        )
        with pytest.MonkeyPatch.context() as patch:
            _when_hit(patch, rule, lambda: rival.init_transactions(10))
            try:
                scope.__exit__(None, None, None)
                raised = None
            except FencedError as error:
                raised = error

        [resolved] = recorder.of(TransactionResolved)
        assert (outcome, "record") == (resolved.outcome, resolved.way)
        assert (outcome == "aborted") == (raised is not None)
        rival.begin_transaction()
        rival.produce(topic, "rival's")
        rival.commit_transaction(10)

    assert (["a"] if outcome == "committed" else []) + ["rival's"] == values(servers, topic)


def _when_hit(patch: pytest.MonkeyPatch, rule: Any, act: Callable[[], object]) -> None:
    """Do something between the request that the rule met and the next one."""
    commit, done = KafkaClient.commit, []

    def committing(client: KafkaClient, seconds: float) -> None:
        try:
            commit(client, seconds)
        finally:
            if rule.hits and not done:
                done.append(act())

    patch.setattr(KafkaClient, "commit", committing)


# -- what can't be found out -------------------------------------------------------------------------


def in_doubt(orders: ProducerPool, topic: str, before_the_end: Callable[[], object] = lambda: None) -> Any:
    """Send a record in a transaction whose outcome stays unknown; the error."""
    with pytest.raises(CommitOutcomeUnknownError) as caught, orders.transaction() as tx:
        tx.produce_sync(topic, "perhaps")
        before_the_end()
    error: Any = caught.value
    assert ("unknown", False) == (error.outcome, error.safe_to_retry)
    return error


def test_no_time(proxy: FaultProxy, servers: str, recorder: Recorder, topic: str) -> None:
    """Within resolve_timeout_ms it is found out or not; then the caller is told what was waited for."""
    options: dict[str, Any] = {"name": NAME, "size": 1, "commit_timeout_ms": COMMIT_MS, "observer": recorder}
    lose(proxy, "swallow reply")
    proxy.on(Api.FETCH, "swallow request", times=None, client=NAME)
    with pool(servers, resolve_timeout_ms=500, **options) as orders, bounded(COMMIT_MS + 500):
        error = in_doubt(orders, topic)

    assert "it couldn't be found out, after 5" in str(error)
    [resolved] = recorder.of(TransactionResolved)
    assert ("unknown", None) == (resolved.outcome, resolved.way)
    assert resolved.told == error.resolution.told
    assert ["perhaps"] == values(servers, topic)


def test_no_wish(proxy: FaultProxy, servers: str, recorder: Recorder, topic: str) -> None:
    """With resolve_timeout_ms=0 nobody looks."""
    options: dict[str, Any] = {"name": NAME, "size": 1, "commit_timeout_ms": COMMIT_MS, "observer": recorder}
    lose(proxy, "swallow reply")
    with pool(servers, resolve_timeout_ms=0, **options) as orders, bounded(COMMIT_MS):
        error = in_doubt(orders, topic)

    assert error.resolution is None
    assert [] == recorder.of(TransactionResolved)


def test_a_record_that_is_gone(proxy: FaultProxy, orders: ProducerPool, servers: str, topic: str) -> None:
    """A record that was deleted meanwhile tells nothing: neither a yes nor a no is made of that."""

    def delete() -> None:
        until(lambda: _deleted(servers, topic))

    lose(proxy, "swallow request")
    error = in_doubt(orders, topic, delete)

    assert "isn't there any more" in str(error)


def _deleted(servers: str, topic: str) -> bool:
    """Delete all of the topic's records, those of open transactions too."""
    admin = AdminClient({"bootstrap.servers": servers})
    [future] = admin.delete_records([TopicPartition(topic, 0, -1)]).values()
    return future.result(10) is not None


def test_a_frozen_broker(proxy: FaultProxy, servers: str, recorder: Recorder, topic: str) -> None:
    """What has asked a frozen broker for the id waits for its answer, which would else fence the next producer."""
    options: dict[str, Any] = {"commit_timeout_ms": 500, "resolve_timeout_ms": 500, "observer": recorder}
    with pool(servers, name=NAME, size=1, **options) as orders:
        with bounded(1_000):
            error = in_doubt(orders, topic, proxy.freeze)
        assert (1, 0) == (orders.stats().retiring, orders.stats().creating)
        proxy.thaw()
        for value in ("next", "and next"):
            with orders.transaction(timeout_ms=20_000) as tx:
                tx.produce_sync(topic, value)

    assert "it couldn't be found out" in str(error)
    assert ["commit in doubt"] == [event.reason for event in recorder.of(ProducerRetired)]
    assert {"and next", "next"} <= {*values(servers, topic)}


# -- after a restart ---------------------------------------------------------------------------------


@LOST
def test_the_recipe_for_a_restart(  # noqa: PLR0917  (as above)
    proxy: FaultProxy,
    servers: str,
    topic: str,
    proxied_kafka: LocalKafka,
    action: Action,
    outcome: str,
) -> None:
    """What the guide shows tells the next process whether the last batch of the one before was committed."""
    source = files(ROOT / "docs" / "howto" / "transactions.md")["progress.py"]
    progress = proxied_kafka.create_topic(unique("progress"))
    names: dict[str, Any] = {}
    exec(compile(source.replace('"progress"', repr(progress)), "progress.py", "exec"), names)  # noqa: S102  (our own page)
    options: dict[str, Any] = {"name": NAME, "size": 1, "instance": unique("i")}

    def batch(orders: ProducerPool, number: int) -> None:
        with orders.transaction() as tx:
            tx.produce_async(topic, str(number))
            tx.produce_async(progress, str(number), key="worker-1", partition=0)

    with pool(servers, commit_timeout_ms=COMMIT_MS, resolve_timeout_ms=0, **options) as orders:
        assert 0 == names["last_done"](servers, "worker-1")
        batch(orders, 1)
        lose(proxy, action)
        with pytest.raises(CommitOutcomeUnknownError):
            batch(orders, 2)
    proxy.reset()
    with pool(servers, **options):
        done = names["last_done"](servers, "worker-1")

    assert (2 if outcome == "committed" else 1) == done
    assert [str(number) for number in range(1, done + 1)] == values(servers, topic)
