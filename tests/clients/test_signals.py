"""What a signal's handler raises inside of a call comes out of it as it was raised, and costs no record its answer."""

from __future__ import annotations

import ctypes
import operator
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition, cimpl

from tests.clients.test_librdkafka import answer, begun, connect, produce
from tests.scripted import in_thread, outcome
from wd_di._concurrency.deadline import Deadline
from wd_di._concurrency.uninterrupted import uninterrupted
from wd_di._kafka import interrupts
from wd_di._kafka.callbacks import LaterLogger
from wd_di._kafka.handle import Handle
from wd_di._kafka.interrupts import held, hold
from wd_di._kafka.nested import Calls
from wd_di._kafka.topics import First
from wd_di._records.delivery import Delivery, Ledger
from wd_di.events import MessageAcknowledged
from wd_di.testing import MockKafka

RTT = 60
"""Milliseconds that a broker's answer takes."""
LATER = 0.02
"""Seconds after which the signal comes, in the middle of that."""


class MineError(Exception):
    """A program's own, with more than a text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


def by_exit(*_: object) -> None:
    """A container's SIGTERM."""
    sys.exit(143)


def by_plain_exit(*_: object) -> None:
    """The same, shorter."""
    sys.exit()


def by_own_error(*_: object) -> None:
    """A program's own error."""
    raise MineError(7, "late")


def by_time_limit(*_: object) -> None:
    """Celery's soft time limit."""
    raise SoftTimeLimitExceeded(30)


def by_builtin_error(*_: object) -> None:
    """An error that is made in C."""
    int("no number")


def by_runtime_error(*_: object) -> None:
    """An error of the kind that confluent-kafka raises for a closed client."""
    raise RuntimeError("mine")


def by_key_error(*_: object) -> None:
    """Something that isn't there."""
    raise KeyError("mine")


def by_type_error(*_: object) -> None:
    """A slip of the program's."""
    raise TypeError("mine")


def by_timeout(*_: object) -> None:
    """An alarm."""
    raise TimeoutError("SIGALRM")


HANDLERS: dict[Callable[..., Any], tuple[type[BaseException], tuple[object, ...]]] = {
    by_exit: (SystemExit, (143,)),
    by_plain_exit: (SystemExit, ()),
    by_own_error: (MineError, (7, "late")),
    by_time_limit: (SoftTimeLimitExceeded, (30,)),
    by_builtin_error: (ValueError, ("invalid literal for int() with base 10: 'no number'",)),
    by_timeout: (TimeoutError, ("SIGALRM",)),
    by_runtime_error: (RuntimeError, ("mine",)),
    by_key_error: (KeyError, ("mine",)),
    by_type_error: (TypeError, ("mine",)),
    signal.default_int_handler: (KeyboardInterrupt, ()),
}
"""What each of them raises."""


@contextmanager
def handled(handler: Callable[..., Any]) -> Iterator[None]:
    """Let SIGUSR1 be handled so."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def as_raised(handler: Callable[..., Any], error: Any) -> bool:
    """Whether this is what the handler has raised, with its arguments and the place where it did."""
    kind, args = HANDLERS[handler]
    where = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    ours = handler is signal.default_int_handler or getattr(handler, "__name__", "") in where
    return type(error) is kind and error.args == args and ours


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    """A mock cluster with a topic."""
    with MockKafka() as kafka:
        kafka.create_topic("orders")
        yield kafka


# -- in a callback -----------------------------------------------------------------------------------


class _Way:
    """What a delivery needs to note its answer."""

    def __init__(self) -> None:
        self.noted: deque[Any] = deque()
        self.heard = (MessageAcknowledged,)
        self.stored = False


def _delivery(way: Any) -> Any:
    return Delivery("orders", Ledger(way, 1_000))


def _first(way: Any) -> Any:
    return First(_delivery(way))


def _line(way: Any) -> Any:
    logger = LaterLogger(None)
    logger.lines = way.noted
    return logger.log


def _trouble(way: Any) -> Any:
    """The note of an error that concerns no record; without a client, which it doesn't need."""
    return partial(Handle._note, SimpleNamespace(_answers=way, _trouble=None))


CALLBACKS: dict[Callable[[Any], Any], tuple[object, ...]] = {
    _delivery: (None, "acknowledgement"),
    _first: (None, "acknowledgement"),
    _line: (6, "%s", "a line"),
    _trouble: (KafkaError(KafkaError._TRANSPORT),),
}
"""What librdkafka calls, and with what."""


def signalled(callback: Callable[..., object], *given: object) -> Any:
    """As librdkafka does it: a signal comes in a call of C, and right behind it a callback is called, by C, too."""
    libc = ctypes.CDLL(None)
    steps = [partial(getattr(libc, "raise"), signal.SIGUSR1), partial(callback, *given)]
    return lambda *_: deque(map(operator.call, steps), 0)


@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize("handler", HANDLERS)
def test_a_handler_that_raises_in_a_callback(handler: Any, callback: Any) -> None:
    """It comes out of the call by which the callback was called, and the callback has done its work before."""
    way, calls = _Way(), Calls()
    with handled(handler):
        for _ in range(20):  # CPython calls what is called often in another way
            call = signalled(callback(way), *CALLBACKS[callback])
            error = outcome(partial(calls.make, call, [None], 0))

            assert as_raised(handler, error), error
    assert 20 == len(way.noted)
    assert not held


def test_a_second_handler_that_raises_in_the_same_call() -> None:
    """The later one comes out, with the other one as its context."""
    way, calls = _Way(), Calls()
    first, second = (signalled(_delivery(way), None, "ack") for _ in range(2))

    def both(*_: object) -> None:
        first()
        signal.signal(signal.SIGUSR1, by_own_error)
        second()

    with handled(by_exit):
        error = outcome(lambda: calls.make(both, [None], 0))

    assert as_raised(by_own_error, error)
    assert as_raised(by_exit, error.__context__)
    assert 2 == len(way.noted)


def test_what_comes_up_in_another_thread_stays_there() -> None:
    """A call of one thread doesn't raise what came up in another's."""
    calls = Calls()

    def call(_: object) -> str:
        in_thread(lambda: hold(MineError(1, "elsewhere")))
        return "answer"

    try:
        assert "answer" == calls.make(call, [None], 0)
    finally:
        held.clear()


def test_a_callback_with_a_foreign_exception_pending() -> None:
    """A fatal error of the client may be pending: the callback's own call of C fails of it, though it has worked."""
    way, calls = _Way(), Calls()
    fatal = KafkaException(KafkaError(KafkaError._FATAL))

    class Pending:
        """A deque of whose append C says that it has returned with an exception set."""

        def append(self, item: object) -> None:
            way.noted.append(item)
            raise SystemError("returned a result with an exception set") from fatal

    other = _Way()
    other.noted = Pending()  # type: ignore[assignment]
    error = outcome(lambda: calls.make(lambda _: _delivery(other)(None, "ack"), [None], 0))

    assert fatal is error
    assert 1 == len(way.noted)


def test_what_is_hidden_by_a_call_of_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SystemError that says what it hides is that; of a bare one nothing can be said in a thread of Python 3.11."""
    calls, mine = Calls(), MineError(1, "hidden")
    monkeypatch.setattr(interrupts, "_LOSSY", True)

    def hiding(_: object) -> None:
        raise SystemError("returned a result with an exception set") from mine

    def bare(_: object) -> None:
        raise SystemError("returned NULL without setting an exception")

    assert mine is outcome(lambda: calls.make(hiding, [None], 0))
    assert isinstance(in_thread(lambda: calls.make(bare, [None], 0)), SystemError)


@pytest.mark.parametrize(("loses", "kind"), [(True, KeyboardInterrupt), (False, KafkaException)])
def test_what_python_has_lost(monkeypatch: pytest.MonkeyPatch, *, loses: bool, kind: type[BaseException]) -> None:
    """A bare SystemError is Ctrl-C in a callback that somebody has wrapped on Python 3.11, and else a fatal error."""
    monkeypatch.setattr(interrupts, "_LOSSY", loses)

    def bare(_: object) -> None:
        raise SystemError("returned NULL without setting an exception")

    assert kind is type(outcome(lambda: Calls().make(bare, [None], 0)))


def test_an_error_of_somebody_elses_call_of_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SystemError that says something else is what it is."""
    monkeypatch.setattr(interrupts, "_LOSSY", False)
    mine = SystemError("bad argument to internal function")

    def fail(_: object) -> None:
        raise mine

    assert mine is outcome(lambda: Calls().make(fail, [None], 0))


def test_a_function_that_begins_otherwise() -> None:
    """What isn't compiled as we know it is left as it is."""

    def closing() -> Callable[[], object]:
        return lambda: closing

    function = closing()
    code = function.__code__
    uninterrupted(function)

    assert code == function.__code__


# -- in real calls -----------------------------------------------------------------------------------


def metadata(kafka: MockKafka) -> bytes:
    """What a consumer group's member sends along."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "g", "log_level": 0})
    try:
        return bytes(consumer.consumer_group_metadata())
    finally:
        consumer.close()


def _flush(kafka: MockKafka, client: Any) -> Any:
    return partial(client.flush, 0.19)


def _poll(kafka: MockKafka, client: Any) -> Any:
    return partial(client.poll, 0.19)


def _commit(kafka: MockKafka, client: Any) -> Any:
    return partial(client.commit, 5)


def _abort(kafka: MockKafka, client: Any) -> Any:
    kafka.set_rtt(0)
    client.flush(5)
    kafka.set_rtt(RTT)
    return partial(client.abort, 5)


def _send_offsets(kafka: MockKafka, client: Any) -> Any:
    return partial(client.send_offsets, [TopicPartition("orders", 0, 5)], metadata(kafka), 5)


def _reach(kafka: MockKafka, client: Any) -> Any:
    return partial(client.reach, Deadline(5))


def _ask(kafka: MockKafka, client: Any) -> Any:
    return partial(client.ask, "orders", 5)


@pytest.mark.parametrize("call", [_flush, _poll, _commit, _abort, _send_offsets, _reach, _ask])
def test_a_handler_that_raises_in_a_real_call(kafka: MockKafka, call: Any) -> None:
    """Whatever the call, it comes out as it was raised, be it in a callback or where the call has ended."""
    for handler in HANDLERS:
        kafka.set_rtt(0)
        client = begun(kafka)
        delivery = produce(client)
        answer(client, produce(client))
        kafka.set_rtt(RTT)
        produce(client)
        made = call(kafka, client)
        with handled(handler):
            timer = threading.Timer(LATER, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            error = outcome(made)
            timer.join()

        assert as_raised(handler, error), error
        kafka.set_rtt(0)
        client.poll(0)
        assert delivery.done()
        client.close()


def test_the_answer_of_an_interrupted_flush(kafka: MockKafka) -> None:
    """The record whose callback a handler came into has its answer."""
    client = connect(kafka, None)
    answer(client, produce(client))
    kafka.set_rtt(RTT)
    delivery = produce(client)
    with handled(by_exit):
        threading.Timer(LATER, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        error = outcome(lambda: client.flush(0.19))

    assert as_raised(by_exit, error)
    assert "delivered" == answer(client, delivery).outcome


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="it loses nothing there")
def test_upstream_still_loses_it(kafka: MockKafka) -> None:
    """Of what a callback of one's own raises in C, bare confluent-kafka leaves only a SystemError."""
    producer = cimpl.Producer({"bootstrap.servers": kafka.bootstrap_servers, "linger.ms": 0})
    producer.produce("orders", b"x", on_delivery=by_exit)

    assert isinstance(outcome(partial(producer.flush, 5)), SystemError)
