from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from enum import StrEnum
from functools import partial
from types import BuiltinFunctionType, FunctionType, ModuleType, TracebackType

import pytest

from tests import internals
from tests.pools import plain
from tests.scripted import (
    PATIENCE,
    Fault,
    FaultKind,
    FutureThread,
    Script,
    ScriptedClient,
    committed,
    fault,
    make_pool,
    outcome,
    plain_pool,
    records,
    watch,
)
from wd_di import DeliveryReport, Message
from wd_di.errors import (
    AuthorizationError,
    CheckoutReturnedError,
    DeliveryError,
    DeliveryTimeoutError,
    QueueFullError,
    ScopeError,
)
from wd_di.events import TransactionFinished
from wd_di.pool import ProducerPool
from wd_di.testing import MockKafka


@pytest.fixture
def pool(script: Script) -> Iterator[ProducerPool]:
    """An open pool of one scripted producer without transactions."""
    with plain_pool(produce_timeout_ms=200) as pool:
        yield pool


@pytest.fixture
def transactional(script: Script) -> Iterator[ProducerPool]:
    """An open pool of one scripted transactional producer."""
    with make_pool(commit_timeout_ms=300) as pool:
        yield pool


def _called(delivery):
    """Wait until the delivery has called back."""
    done = threading.Event()
    delivery.add_done_callback(lambda _: done.set())
    assert done.wait(PATIENCE)


# -- producing ---------------------------------------------------------------------------------------


def test_produce_sync(pool):
    """produce_sync returns where the broker stored the record."""
    with pool.producer() as producer:
        producer.produce_sync("orders", "zero", partition=3)
        report = producer.produce_sync("orders", "one", partition=3, timestamp_ms=1_700_000_000_000)

    assert DeliveryReport("orders", 3, 1, 1_700_000_000_000, 0.0) == report


def test_produce_async(pool):
    """produce_async only enqueues; the delivery tells the rest."""
    with pool.producer() as producer:
        delivery = producer.produce_async("orders", "one")
        report = delivery.result()

    assert ("orders", 0) == (report.topic, report.offset)
    assert ["one"] == committed(pool)


def test_produce_many(pool):
    """Several records are produced in order, and told in order."""
    messages = [Message("orders", str(number)) for number in range(5)]
    with pool.producer() as producer:
        reports = producer.produce_many_sync(messages)
        deliveries = producer.produce_many_async(iter(messages))
        producer.flush()

    assert list(range(5)) == [report.offset for report in reports]
    assert list(range(5, 10)) == [delivery.result(0).offset for delivery in deliveries]


def test_nothing_to_produce(pool, transactional):
    """No messages are no records, in or out of a transaction."""
    with pool.producer() as plain, transactional.producer() as producer:
        results = plain.produce_many_sync([]), producer.produce_many_sync([]), plain.produce_many_async([])

    assert ([], [], []) == results


def test_what_is_sent(pool):
    """Topic, value, key and headers arrive as they were given."""
    with pool.producer() as producer:
        producer.produce_sync("orders", b"\x00", "key", headers={"a": "1"})
    record = records(pool)[0]

    assert ("orders", b"\x00", "key", [("a", "1")]) == (record.name, record.value, record.key, record.headers)


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        (None, None),
        ({}, []),
        ({"a": "x", "b": b"y", "c": None}, [("a", "x"), ("b", b"y"), ("c", None)]),
        ([("a", "x"), ("a", "y")], [("a", "x"), ("a", "y")]),
        (iter([("a", "x")]), [("a", "x")]),
    ],
)
def test_headers(pool, headers, sent):
    """Headers are a mapping, or pairs in which a name may come twice."""
    with pool.producer() as producer:
        producer.produce_sync("orders", headers=headers)

    assert sent == records(pool)[0].headers


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"topic": 5}, TypeError, "topic is a str, not int"),
        ({"topic": ""}, ValueError, "topic is empty"),
        ({"value": 5}, TypeError, "value is str, bytes or None, not int"),
        ({"value": {"a": 1}}, TypeError, "value is str, bytes or None, not dict"),
        ({"key": 5}, TypeError, "key is str, bytes or None, not int"),
        ({"partition": "1"}, TypeError, "partition is an int, not str"),
        ({"partition": True}, TypeError, "partition is an int, not bool"),
        ({"partition": -1}, ValueError, "partition is -1: it can't be negative"),
        ({"timestamp_ms": 1.5}, TypeError, "timestamp_ms is an int, not float"),
        ({"timestamp_ms": -1}, ValueError, "timestamp_ms is -1"),
        ({"headers": 5}, TypeError, "headers is a mapping or .name, value. pairs, not int"),
        ({"headers": ["ab"]}, TypeError, "headers is a mapping or .name, value. pairs, not str"),
        ({"headers": {5: "x"}}, TypeError, "a header's name is a str, not int"),
        ({"headers": {"a": 5}}, TypeError, "header 'a' is str, bytes or None, not int"),
        ({"topic": "a\0b"}, ValueError, r"topic 'a\\x00b' has a NUL character"),
        ({"topic": "caf\udce9"}, ValueError, r"topic 'caf\\udce9' has no UTF-8: character 3 of 4 is half"),
        ({"value": "caf\udce9"}, ValueError, "value has no UTF-8: character 3 of 4 is half of a surrogate pair"),
        ({"key": "\ud800"}, ValueError, "key has no UTF-8: character 0 of 1"),
        ({"partition": 2**31}, ValueError, "partition is 2147483648: it can't be more than 2147483647"),
        ({"timestamp_ms": 2**63}, ValueError, "timestamp_ms is 9223372036854775808: it can't be more than"),
        ({"timestamp_ms": 0}, ValueError, "timestamp_ms is 0, which librdkafka takes for now"),
        ({"headers": "ab"}, TypeError, "headers is a mapping or .name, value. pairs, not str"),
        ({"headers": {"\udce9": "v"}}, ValueError, r"header name '\\udce9' has no UTF-8"),
        ({"headers": {"a\0b": "v"}}, ValueError, r"header name 'a\\x00b' has a NUL character"),
        ({"headers": {"a": "\udce9"}}, ValueError, "header 'a' has no UTF-8"),
        ({"timeout_ms": -1}, ValueError, "timeout_ms is -1: it can't be negative"),
        ({"timeout_ms": 0.5}, TypeError, "timeout_ms is milliseconds as an int, not float"),
    ],
)
@pytest.mark.parametrize("method", ["produce_sync", "produce_async"])
def test_wrong_arguments(pool, method, given, error, text):
    """A wrong argument is refused by the name of its field, and nothing is sent."""
    with pool.producer() as producer, pytest.raises(error, match=text):
        getattr(producer, method)(**{"topic": "orders", **given})

    assert [] == records(pool)


@pytest.mark.parametrize("method", ["produce_many_sync", "produce_many_async"])
def test_all_are_checked_first(pool, method):
    """One wrong message among several, and none is sent."""
    messages = [Message("orders", "good"), Message("orders", 5)]  # type: ignore[arg-type]
    with pool.producer() as producer, pytest.raises(TypeError, match="value is str, bytes or None, not int"):
        getattr(producer, method)(messages)
    pool.close()

    assert [] == records(pool)


@pytest.mark.parametrize("method", ["produce_many_sync", "produce_many_async"])
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([("orders", "x")], "each of messages is a wd_di.Message, not tuple"),
        (Message("orders"), "messages is an iterable of wd_di.Message, not Message"),
        (None, "messages is an iterable of wd_di.Message, not NoneType"),
    ],
)
def test_messages_of_another_kind(pool, method, given, text):
    """What isn't a Message, or several of them, is refused by its kind."""
    with pool.producer() as producer, pytest.raises(TypeError, match=text):
        getattr(producer, method)(given)


def test_text_of_a_subclass(pool):
    """A member of a StrEnum is text, as a topic, a key and a value."""

    class Name(StrEnum):
        TEA = "tea"

    with pool.producer() as producer:
        producer.produce_sync(Name.TEA, Name.TEA, Name.TEA, headers={"name": Name.TEA})

    assert ["tea"] == [record.value for record in records(pool)]


# -- failing -----------------------------------------------------------------------------------------


def test_failed_sync(pool, script):
    """A record that fails raises its own error from produce_sync, and flush doesn't tell it again."""
    script.failing.add("broken")
    with pool.producer() as producer:
        with pytest.raises(DeliveryError, match="broken is broken"):
            producer.produce_sync("broken")
        producer.flush()


def test_failed_many(pool, script):
    """Of several records those that failed are listed."""
    script.failing.add("broken")
    with pool.producer() as producer, pytest.raises(DeliveryError, match="orders: 2 of 3 records weren't") as caught:
        producer.produce_many_sync([Message("broken"), Message("orders"), Message("broken")])

    assert ["broken", "broken"] == [delivery.topic for delivery in caught.value.failed]


def test_failed_alone(pool, script):
    """A record that failed alone is listed, too, however one asks for it."""
    script.failing.add("broken")
    with pool.producer() as producer:
        delivery = producer.produce_async("broken")
        with pytest.raises(DeliveryError) as caught:
            delivery.result()
        with pytest.raises(DeliveryError) as synchronous:
            producer.produce_sync("broken")
        returned = delivery.exception()

    assert (delivery,) == caught.value.failed
    assert (delivery,) == returned.failed
    assert ["broken"] == [delivery.topic for delivery in synchronous.value.failed]


def test_failed_flush(pool, script):
    """Flush tells each failed record once."""
    script.failing.add("broken")
    with pool.producer() as producer:
        bad, _ = producer.produce_async("broken"), producer.produce_async("orders")
        with pytest.raises(DeliveryError, match="1 of 1") as caught:
            producer.flush()
        producer.flush()

    assert (bad,) == caught.value.failed


@pytest.mark.parametrize(
    "tell",
    [
        lambda delivery: outcome(delivery.result),
        lambda delivery: delivery.exception(),
        _called,
    ],
    ids=["result", "exception", "callback"],
)
def test_a_failure_that_was_told_is_forgotten(pool, script, tell):
    """Neither the producer nor its flush has anything left of a failure that somebody was told of."""
    script.failing.add("broken")
    with pool.producer() as producer:
        delivery = producer.produce_async("broken", "payload")
        tell(delivery)
        producer.flush()

        assert {} == delivery._ledger.failed


LATE = {
    "produce_sync": lambda producer, ms: producer.produce_sync("broken", timeout_ms=ms),
    "produce_many_sync": lambda producer, ms: producer.produce_many_sync([Message("broken")] * 2, timeout_ms=ms),
}


@pytest.mark.parametrize("call", LATE.values(), ids=LATE)
@pytest.mark.parametrize("interrupted", [False, True], ids=["late", "interrupted"])
def test_a_failure_after_its_call_is_forgotten(pool, script, call, interrupted):
    """Who was told that the records of a call are in doubt isn't told once more by flush, and nothing piles up."""
    script.failing.add("broken")
    script.silent = True
    with pool.producer() as producer:
        if interrupted:
            script.on("flush", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt if interrupted else DeliveryTimeoutError):
            call(producer, 1_000 if interrupted else 1)
        waiting = list(internals.ledger(producer).pending)
        script.silent = False
        producer.flush()

        assert {"failed"} == {delivery.outcome for delivery in waiting}
        assert {} == internals.ledger(producer).failed


def test_what_others_told_of_is_still_to_be_told(pool, script):
    """A flush or a delivery that ran out of time has told of no failure: the next flush does."""
    script.failing.add("broken")
    script.silent = True
    with pool.producer() as producer:
        delivery = producer.produce_async("broken")
        for ask in (producer.flush, delivery.result, delivery.exception):
            with pytest.raises(DeliveryTimeoutError):
                ask(timeout_ms=1)
        with pytest.raises(DeliveryTimeoutError):
            producer.produce_sync("broken", timeout_ms=1)
        script.silent = False
        with pytest.raises(DeliveryError, match="1 of 1") as caught:
            producer.flush()

    assert (delivery,) == caught.value.failed


def test_a_late_call_tells_what_else_it_knows(pool, script, monkeypatch):
    """Of the records of one call some may have failed and others be late: its error tells both, and flush neither."""
    acknowledge = ScriptedClient._acknowledge
    script.failing.add("broken")
    with monkeypatch.context() as patch, pool.producer() as producer:
        patch.setattr(
            ScriptedClient, "_acknowledge", lambda *given: None if given[2].name == "lost" else acknowledge(*given)
        )
        with pytest.raises(DeliveryTimeoutError) as caught:
            producer.produce_many_sync([Message("broken"), Message("lost")], timeout_ms=50)

        assert "no answer for 1 of 2 records" in str(caught.value)
        assert "of the others 1 failed, the first: broken is broken" in str(caught.value)
        assert {} == internals.ledger(producer).failed
        pool.close(timeout_ms=0, force=True)


def test_a_failure_that_one_looks_at_while_it_is_raised(pool, script):
    """Whoever waits on a shared producer for their record isn't told of it by the waiting alone."""
    script.failing.add("broken")
    with plain_pool(share=2) as shared, shared.producer() as producer:
        producer.produce_async("broken")
        with pytest.raises(DeliveryError, match="1 of 1"):
            producer.flush()


@pytest.mark.parametrize("handled", ["flush", "result"])
def test_no_answer_keeps_a_payload(mock_kafka, handled):
    """Once a record is answered, neither its delivery, nor its error, nor the producer holds what was sent."""
    mock_kafka.create_topic("orders")
    servers, kafka = mock_kafka.bootstrap_servers, {"message.timeout.ms": 500}
    with plain(servers, size=1, kafka=kafka) as pool, pool.producer() as producer:
        stored = producer.produce_async("orders", b"s" * 10_000, b"s" * 10_000, headers={"h": b"s" * 10_000})
        producer.flush()
        mock_kafka.broker_down(1)
        failed = producer.produce_async("orders", b"f" * 10_000, b"f" * 10_000, headers={"h": b"f" * 10_000})
        error = outcome(producer.flush if handled == "flush" else failed.result)
        mock_kafka.broker_up(1)

        assert isinstance(error, DeliveryError)
        assert 0 == stored.result().offset
        assert [] == payloads(stored, failed, error, producer)


NO_DATA = (type, ModuleType, FunctionType, BuiltinFunctionType, TracebackType, threading.Thread)
"""Behind these are code and what runs."""


def payloads(*roots):
    """What can be reached from these that has the length of a payload."""
    seen, todo, found = set(), list(roots), []
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, NO_DATA):
            continue
        seen.add(id(each))
        found += [each] if isinstance(each, (bytes, str)) and len(each) == 10_000 else []
        todo += gc.get_referents(each)
    return found


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        (FaultKind.OTHER, DeliveryError, "producer 0 refused a record for 'orders': scripted other"),
        (FaultKind.DENIED, AuthorizationError, "no right to write to 'orders'"),
        (FaultKind.CLOSED, CheckoutReturnedError, "producer 0 has gone back"),
    ],
)
def test_refused(pool, script, kind, error, text):
    """What the client refuses at once is raised by its kind."""
    script.on("produce", fault(kind))
    with pool.producer() as producer, pytest.raises(error, match=text):
        producer.produce_async("orders")


def test_refused_after_a_refused_login(pool, script):
    """What is denied without a right that is missing is no AuthorizationError: the broker doesn't know who one is."""
    script.on("produce", Fault(FaultKind.DENIED, "wrong password"))
    with pool.producer() as producer, pytest.raises(DeliveryError, match="refused a record for 'orders': wrong passw"):
        producer.produce_async("orders")


def test_interrupted_produce(pool, script):
    """Ctrl-C while a record is enqueued leaves nothing to wait for."""
    script.on("produce", KeyboardInterrupt())
    with pool.producer() as producer:
        with pytest.raises(KeyboardInterrupt):
            producer.produce_async("orders")
        producer.flush(timeout_ms=0)


def test_no_answer(pool, script):
    """Without an answer in time the record may still be delivered, and the error says so."""
    script.silent = True
    with pool.producer() as producer:
        with pytest.raises(DeliveryTimeoutError, match="for 1 of 1 records in time, the first to 'orders'") as caught:
            producer.produce_sync("orders", timeout_ms=20)
        with pytest.raises(DeliveryTimeoutError, match="they may still be delivered"):
            producer.flush(timeout_ms=0)
        script.silent = False
        producer.flush()

    assert isinstance(caught.value, TimeoutError)
    assert 1 == len(records(pool))


def test_last_error_is_told(pool, script):
    """A time-out names the client's last error as the likely cause."""
    script.silent = True
    with pool.producer() as producer:
        script.clients[0].last_error = "all brokers are down"
        with pytest.raises(DeliveryTimeoutError, match=r"\(last error: all brokers are down\)"):
            producer.produce_sync("orders", timeout_ms=0)


# -- a full queue ------------------------------------------------------------------------------------


def test_waiting_for_room(pool, script):
    """In a full queue a produce waits for room."""
    script.on("produce", fault(FaultKind.QUEUE_FULL), fault(FaultKind.QUEUE_FULL))
    with pool.producer() as producer:
        producer.produce_async("orders", "one")
        producer.flush()

    assert ["one"] == committed(pool)


def test_full_queue(pool, script):
    """A queue that stays full is an error of its own; the record wasn't sent and isn't waited for."""
    script.always("produce", fault(FaultKind.QUEUE_FULL))
    with pool.producer() as producer:
        with pytest.raises(QueueFullError, match=r"producer 0 stayed full \(0 records waiting\); 'orders' wasn't sent"):
            producer.produce_async("orders", timeout_ms=20)
        producer.flush(timeout_ms=0)

    assert [] == records(pool)


def test_full_queue_without_waiting(pool, script):
    """A timeout of 0 doesn't wait for room."""
    script.always("produce", fault(FaultKind.QUEUE_FULL))
    with pool.producer() as producer, pytest.raises(QueueFullError):
        producer.produce_async("orders", timeout_ms=0)

    assert (1, 0) == (script.calls.count("produce"), script.calls.count("poll"))


# -- waiting -----------------------------------------------------------------------------------------


def test_flush_own_records(script):
    """Flush waits for nobody else's records."""
    with plain_pool(share=2) as pool:
        script.silent = True
        go_on, produced = threading.Event(), threading.Event()

        def other() -> None:
            with pool.producer() as producer:
                producer.produce_async("orders")
                produced.set()
                go_on.wait(PATIENCE)

        thread = FutureThread(other)
        thread.start()
        produced.wait(PATIENCE)
        with pool.producer() as producer:
            producer.flush(timeout_ms=0)
        go_on.set()
        thread.outcome()

        assert 1 == pool.stats().totals.created


def test_shared_producer(script):
    """On a shared producer the borrowers wait while the slot's own poller serves them."""
    with plain_pool(share=2) as pool, pool.producer() as producer:
        reports = producer.produce_many_sync([Message("orders"), Message("orders")])

        assert [0, 1] == [report.offset for report in reports]
        assert "flush" not in script.calls


def test_shared_time_out(script):
    """On a shared producer a time-out speaks of all the records, too."""
    with plain_pool(share=2) as pool, pool.producer() as producer:
        script.silent = True
        with pytest.raises(DeliveryTimeoutError, match="no answer for 2 of 2 records"):
            producer.produce_many_sync([Message("orders"), Message("orders")], timeout_ms=20)


def test_served_after_the_return(pool):
    """What a borrower leaves behind is delivered when its producer is back."""
    with pool.producer() as producer:
        delivery = producer.produce_async("orders", "left behind")

    assert 0 == delivery.result(5_000).offset


@pytest.mark.parametrize("method", ["produce_sync", "produce_async"])
def test_after_the_return(pool, method):
    """A producer that was given back produces nothing, and flushes nothing."""
    with pool.producer() as producer:
        pass
    with pytest.raises(CheckoutReturnedError, match=r"has gone back to its pool: take one with pool.producer\(\)"):
        getattr(producer, method)("orders")
    with pytest.raises(CheckoutReturnedError):
        producer.flush()

    assert [] == records(pool)


def test_closed_by_force_while_waiting(pool, script):
    """A forced close ends the wait of a produce_sync with a public error."""
    script.silent = True
    waiting = threading.Event()

    def send() -> None:
        with pool.producer() as producer:
            producer.produce_sync("orders", timeout_ms=5_000)

    script.on("flush", waiting.set)
    other = FutureThread(send)
    other.start()
    waiting.wait(PATIENCE)
    pool.close(timeout_ms=0, force=True)

    assert isinstance(other.outcome(), (DeliveryError, CheckoutReturnedError))


def test_repr(pool):
    """A producer shows whose it is, and what it still waits for."""
    with pool.producer() as producer:
        held = repr(producer)

    assert "<Producer 0 of 'orders', 0 unanswered>" == held
    assert "<Producer 0 of 'orders', returned>" == repr(producer)


# -- on a transactional pool -------------------------------------------------------------------------


def test_implicit_transaction(transactional):
    """Outside of a transaction each call is one, and blocks until its commit."""
    finished = watch(transactional, TransactionFinished)
    with transactional.producer() as producer:
        report = producer.produce_sync("orders", "one")
        delivery = producer.produce_async("orders", "two")
        seen = committed(transactional)

    assert (0, 2) == (report.offset, delivery.result(0).offset)  # the first commit's marker has offset 1
    assert ["one", "two"] == seen
    assert ["committed", "committed"] == [event.outcome for event in finished]


@pytest.mark.parametrize("method", ["produce_many_sync", "produce_many_async"])
def test_implicit_transaction_of_many(transactional, script, method):
    """Several messages of one call are one transaction."""
    with transactional.producer() as producer:
        results = getattr(producer, method)([Message("orders", "one"), Message("orders", "two")])

    assert 2 == len(results)
    assert (1, 1) == (script.calls.count("begin"), script.calls.count("commit"))


def test_failing_implicit_transaction(transactional, script):
    """One record that fails aborts all of the call."""
    script.failing.add("broken")
    with transactional.producer() as producer, pytest.raises(DeliveryError, match=r"transaction .* was aborted"):
        producer.produce_many_sync([Message("orders", "good"), Message("broken", "bad")])

    assert [] == committed(transactional)


def test_no_implicit_transactions(script):
    """With implicit_transactions off a transaction must be opened by hand."""
    with make_pool(implicit_transactions=False) as pool, pool.producer() as producer:
        with pytest.raises(ScopeError, match=r"implicit_transactions is off: use 'with producer.transaction\(\)'"):
            producer.produce_sync("orders", "no")
        with producer.transaction():
            producer.produce_sync("orders", "yes")

        assert ["yes"] == committed(pool)


# -- event loops -------------------------------------------------------------------------------------


async def test_on_a_running_loop(pool):
    """On a thread that runs a loop one may enqueue, but not wait."""
    with pool.producer() as producer:
        delivery = producer.produce_async("orders", "one")
        sync, many = partial(producer.produce_sync, "orders"), partial(producer.produce_many_sync, [Message("orders")])
        errors = [outcome(call) for call in (sync, many, producer.flush)]
    await asyncio.to_thread(delivery.result)

    assert [ScopeError] * 3 == [type(error) for error in errors]
    assert "would block the event loop" in str(errors[0])
    assert ["one"] == committed(pool)


async def test_transactional_on_a_running_loop(transactional):
    """An implicit transaction would block the loop, also behind produce_async."""
    with transactional.producer() as producer, pytest.raises(ScopeError, match="would block the event loop"):
        producer.produce_async("orders", "one")


async def test_allowed_on_a_running_loop(script):
    """allow_blocking_in_loop lets a notebook wait."""
    pool = plain_pool(allow_blocking_in_loop=True)
    with pool.producer() as producer:
        report = producer.produce_sync("orders")
        producer.flush()
    await asyncio.to_thread(pool.close)

    assert 0 == report.offset


# -- librdkafka --------------------------------------------------------------------------------------


@pytest.fixture
def real() -> Iterator[ProducerPool]:
    """An open pool of one producer on the mock cluster that sends late."""
    with MockKafka() as cluster:
        late = {"linger.ms": 2_000, "queue.buffering.max.messages": 5}
        with plain(cluster.bootstrap_servers, size=1, kafka=late) as pool:
            yield pool


def test_librdkafka_linger(real):
    """produce_sync doesn't wait for linger.ms."""
    with real.producer() as producer:
        report = producer.produce_sync("orders", "one", "key", headers=[("a", b"1")], partition=1, timeout_ms=1_500)

    assert ("orders", 1, 0) == (report.topic, report.partition, report.offset)


def test_librdkafka_full_queue(real):
    """Librdkafka's full queue is told with how much waits in it."""
    with real.producer() as producer:
        producer.produce_many_async([Message("orders")] * 5)
        with pytest.raises(QueueFullError, match=r"\(5 records waiting\)"):
            producer.produce_async("orders", timeout_ms=0)
        producer.flush(timeout_ms=2_000)
        producer.produce_sync("orders", timeout_ms=2_000)


def test_librdkafka_refuses(real):
    """What librdkafka refuses at once names the topic and the reason, and leaves nothing to wait for."""
    with real.producer() as producer:
        with pytest.raises(DeliveryError, match=r"refused a record for 'orders'.*MSG_SIZE_TOO_LARGE"):
            producer.produce_async("orders", b"x" * 2_000_000)
        producer.flush(timeout_ms=0)


# -- who serves a shared producer --------------------------------------------------------------------


@pytest.fixture
def threadless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of a shared producer can't be started, as when the system has no more threads."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "wd_di-orders-0":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_a_shared_producer_without_its_thread(script, threadless):
    """The pool's poller serves it, also after a borrower has served it meanwhile, for a full queue."""
    with plain_pool(share=2, produce_timeout_ms=int(PATIENCE * 1000)) as pool, pool.producer() as producer:
        producer.produce_sync("orders", "before")
        script.on("produce", fault(FaultKind.QUEUE_FULL))
        producer.produce_async("orders", "after a full queue").result()
        producer.produce_async("orders", "and again").result()

    assert ["before", "after a full queue", "and again"] == committed(pool)


def test_a_shared_producer_whose_thread_has_ended(script):
    """The pool's poller takes over from a thread that has ended."""
    with plain_pool(share=2, produce_timeout_ms=int(PATIENCE * 1000)) as pool, pool.producer() as producer:
        ended = threading.Event()

        def end() -> None:
            script._always.clear()
            ended.set()
            raise fault(FaultKind.CLOSED)

        script.always("poll", end)
        assert ended.wait(PATIENCE)
        script.on("produce", fault(FaultKind.QUEUE_FULL))
        producer.produce_async("orders", "after").result()

    assert ["after"] == committed(pool)
