"""Whoever keeps an error, with its traceback and all that it came from, keeps no client: its handle and threads go."""

from __future__ import annotations

import gc
import logging
import os
import pathlib
import re
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, TopicPartition, cimpl

from tests import internals
from tests.clients.test_signals import by_exit, handled, metadata
from tests.handles import handles, threads
from tests.interrupts import Interrupt, interrupt_everywhere
from tests.pools import Recorder, plain, until
from tests.pools import pool as transactional
from wd_di import AbortTransaction, DeliveryError, PoolTimeoutError, ProducerPool, _kafka
from wd_di._kafka.kept import Gone, empty, forget_frames, taken
from wd_di.testing import ApiKey, MockKafka, raise_fatal_error

NOBODY = "127.0.0.1:1"
SLOW_MS = 3_000
"""A round trip that no deadline of these tests waits for."""
FENCED = KafkaError.INVALID_PRODUCER_EPOCH


class Wrapped(cimpl.Producer):
    """As instrumentation's: each method has a frame of its own, with the handle as self."""

    def produce(self, *args: Any, **kwargs: Any) -> Any:
        return super().produce(*args, **kwargs)

    def poll(self, *args: Any) -> Any:
        return super().poll(*args)

    def flush(self, *args: Any) -> Any:
        return super().flush(*args)

    def commit_transaction(self, *args: Any) -> Any:
        return super().commit_transaction(*args)

    def abort_transaction(self, *args: Any) -> Any:
        return super().abort_transaction(*args)

    def begin_transaction(self, *args: Any) -> Any:
        return super().begin_transaction(*args)

    def init_transactions(self, *args: Any) -> Any:
        return super().init_transactions(*args)

    def send_offsets_to_transaction(self, *args: Any) -> Any:
        return super().send_offsets_to_transaction(*args)

    def list_topics(self, *args: Any, **kwargs: Any) -> Any:
        return super().list_topics(*args, **kwargs)


class Failing(cimpl.Producer):
    """Fails when it has begun to live."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        raise ValueError("as the application's own")


class Hollow(cimpl.Producer):
    """Passes nothing on."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._producer = cimpl.Producer(config)


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    """A mock cluster with a topic of one partition."""
    with MockKafka() as kafka:
        kafka.create_topic("orders")
        yield kafka


Case = Callable[[MockKafka, ProducerPool], Any]
PLAIN: list[Case] = []
TRANSACTIONAL: list[Case] = []


def case(of: list[Case]) -> Callable[[Case], Case]:
    """A way to an error, on an open pool with short deadlines."""

    def note(fn: Case) -> Case:
        of.append(fn)
        return fn

    return note


def lose(producer: Any) -> None:
    """Let librdkafka give up the client, and the pool notice."""
    client = internals.client(producer)
    raise_fatal_error(client._kept[0], FENCED, "scripted")
    until(lambda: client.fault is not None)


@case(TRANSACTIONAL)
def producer_is_lost(kafka: MockKafka, pool: ProducerPool) -> None:
    """The client is given up under an open transaction."""
    with pool.transaction() as tx:
        lose(tx)
        tx.produce_sync("orders", "x", timeout_ms=500)


@case(PLAIN)
def produce_times_out(kafka: MockKafka, pool: ProducerPool) -> None:
    """A record has no answer."""
    with pool.producer() as producer:
        kafka.set_rtt(SLOW_MS)
        producer.produce_sync("orders", "x", timeout_ms=50)


@case(PLAIN)
def flush_times_out(kafka: MockKafka, pool: ProducerPool) -> None:
    """Nor in a flush."""
    with pool.producer() as producer:
        kafka.set_rtt(SLOW_MS)
        producer.produce_async("orders", "x")
        producer.flush(timeout_ms=50)


@case(PLAIN)
def record_is_refused_at_once(kafka: MockKafka, pool: ProducerPool) -> None:
    """The client doesn't take it."""
    with pool.producer() as producer:
        producer.produce_sync("orders", b"x" * 2_000_000)


@case(PLAIN)
def partition_is_unknown(kafka: MockKafka, pool: ProducerPool) -> None:
    """The client knows no such partition."""
    with pool.producer() as producer:
        producer.produce_sync("orders", "x", timeout_ms=2_000)
        producer.produce_sync("orders", "x", partition=7, timeout_ms=500)


@case(PLAIN)
def record_is_refused_by_the_broker(kafka: MockKafka, pool: ProducerPool) -> None:
    """The broker denies the topic."""
    with pool.producer() as producer:
        kafka.push_errors(ApiKey.PRODUCE, KafkaError.TOPIC_AUTHORIZATION_FAILED)
        producer.produce_sync("orders", "x", timeout_ms=2_000)


@case(PLAIN)
def queue_is_full(kafka: MockKafka, pool: ProducerPool) -> None:
    """There is no room."""
    with pool.producer() as producer:
        kafka.set_rtt(SLOW_MS)
        for _ in range(100):
            producer.produce_async("orders", "x", timeout_ms=0)


@case(PLAIN)
def delivery_is_awaited_in_vain(kafka: MockKafka, pool: ProducerPool) -> None:
    """A delivery has no answer."""
    with pool.producer() as producer:
        kafka.set_rtt(SLOW_MS)
        delivery = producer.produce_async("orders", "x")
    delivery.result(50)


@case(PLAIN)
def handler_raises_in_a_flush(kafka: MockKafka, pool: ProducerPool) -> None:
    """A signal's handler exits."""
    kafka.set_rtt(60)
    with handled(by_exit), pool.producer() as producer:
        producer.produce_async("orders", "x")
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        producer.flush(timeout_ms=5_000)


@case(PLAIN)
def used_after_the_close(kafka: MockKafka, pool: ProducerPool) -> None:
    """The pool was closed under its borrower."""
    with pool.producer() as producer:
        producer.produce_async("orders", "x")
        pool.close(timeout_ms=0, force=True)
        producer.produce_sync("orders", "x")


@case(TRANSACTIONAL)
def commit_is_in_doubt(kafka: MockKafka, pool: ProducerPool) -> None:
    """A commit has no answer."""
    with pool.transaction() as tx:
        tx.produce_sync("orders", "x", timeout_ms=5_000)
        kafka.set_rtt(SLOW_MS)


@case(TRANSACTIONAL)
def commit_is_refused(kafka: MockKafka, pool: ProducerPool) -> None:
    """The broker denies the id."""
    with pool.transaction() as tx:
        tx.produce_sync("orders", "x", timeout_ms=5_000)
        kafka.push_errors(ApiKey.END_TXN, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)


@case(TRANSACTIONAL)
def fenced(kafka: MockKafka, pool: ProducerPool) -> None:
    """Another owner has the id."""
    with pool.transaction() as tx:
        tx.produce_sync("orders", "x", timeout_ms=5_000)
        kafka.push_errors(ApiKey.END_TXN, FENCED)


@case(TRANSACTIONAL)
def records_have_no_answer(kafka: MockKafka, pool: ProducerPool) -> None:
    """Nothing of a transaction is answered."""
    with pool.transaction() as tx:
        kafka.set_rtt(SLOW_MS)
        tx.produce_async("orders", "x")


@case(TRANSACTIONAL)
def abort_fails(kafka: MockKafka, pool: ProducerPool) -> None:
    """An abort has no answer."""
    with pool.transaction() as tx:
        tx.produce_sync("orders", "x", timeout_ms=5_000)
        kafka.set_rtt(SLOW_MS)
        raise ZeroDivisionError


@case(TRANSACTIONAL)
def begin_fails(kafka: MockKafka, pool: ProducerPool) -> None:
    """The client is given up before."""
    with pool.producer() as producer:
        lose(producer)
        with producer.transaction():
            pass


@case(TRANSACTIONAL)
def offsets_are_refused(kafka: MockKafka, pool: ProducerPool) -> None:
    """The broker denies the group."""
    with pool.transaction() as tx:
        kafka.push_errors(ApiKey.ADD_OFFSETS_TO_TXN, KafkaError.GROUP_AUTHORIZATION_FAILED)
        tx.send_offsets([TopicPartition("orders", 0, 5)], metadata(kafka), timeout_ms=2_000)


@case(TRANSACTIONAL)
def offsets_time_out(kafka: MockKafka, pool: ProducerPool) -> None:
    """Offsets have no answer."""
    with pool.transaction() as tx:
        offsets = [TopicPartition("orders", 0, 5)], metadata(kafka)
        kafka.set_rtt(SLOW_MS)
        tx.send_offsets(*offsets, timeout_ms=50)


@case(TRANSACTIONAL)
def handler_raises_in_a_commit(kafka: MockKafka, pool: ProducerPool) -> None:
    """A signal's handler exits."""
    kafka.set_rtt(60)
    with handled(by_exit), pool.transaction() as tx:
        tx.produce_async("orders", "x")
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()


@case(TRANSACTIONAL)
def reload_times_out(kafka: MockKafka, pool: ProducerPool) -> None:
    """The producer is held."""
    with pool.producer():
        pool.reload(timeout_ms=50)


@case(TRANSACTIONAL)
def checkout_times_out(kafka: MockKafka, pool: ProducerPool) -> None:
    """The next producer can't be made."""
    kafka.set_rtt(SLOW_MS)
    with suppress(PoolTimeoutError):
        pool.reload(timeout_ms=0)
    with pool.producer():
        pass


class Kept:
    """What a program may keep: the error, all events, and what they came from."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.errors: list[BaseException] = []

    def meet(self, fn: Callable[..., object], *given: object) -> None:
        """Call it, and keep what it raises."""
        try:
            fn(*given)
        except BaseException as error:  # noqa: BLE001  (SystemExit is one of them)
            self.errors.append(error)


FEW: dict[str, Any] = {"kafka": {"queue.buffering.max.messages": 50}}
SHORT: dict[str, Any] = {"abort_timeout_ms": 100, "commit_timeout_ms": 150, "resolve_timeout_ms": 0}


@pytest.mark.parametrize("kind", [cimpl.Producer, Wrapped])
@pytest.mark.parametrize("case", [*PLAIN, *TRANSACTIONAL], ids=lambda fn: fn.__name__)
def test_a_kept_error_keeps_no_client(
    kafka: MockKafka, monkeypatch: pytest.MonkeyPatch, case: Case, kind: type[cimpl.Producer]
) -> None:
    """Once the pool is closed, also that of a client whose records have no answer."""
    monkeypatch.setattr(confluent_kafka, "Producer", kind)
    before, started = handles(), threads()
    kept = Kept()
    make, options = (plain, FEW) if case in PLAIN else (transactional, SHORT)
    pool = make(kafka.bootstrap_servers, size=1, observer=kept.recorder, timeout_ms=300, **options)
    pool.open(timeout_ms=10_000)
    gc.disable()
    try:
        kept.meet(case, kafka, pool)
        pool.close(timeout_ms=300, force=True)
        kafka.set_rtt(0)

        assert kept.errors
        until(lambda: handles() <= before)
        until(lambda: threads() <= started)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("servers", "options"),
    [
        (NOBODY, {"transactional_id": None}),
        (NOBODY, {}),
        (NOBODY, {"kafka": {"message.max.bytes": "many"}}),
    ],
)
@pytest.mark.parametrize("kind", [cimpl.Producer, Wrapped, Failing, Hollow])
def test_a_failed_open_keeps_no_client(
    monkeypatch: pytest.MonkeyPatch, kind: Any, servers: str, options: dict[str, Any]
) -> None:
    """Nor does whoever keeps why a pool couldn't be opened."""
    monkeypatch.setattr(confluent_kafka, "Producer", kind)
    before, started = handles(), threads()
    kept = Kept()

    def work() -> None:
        transactional(servers, size=2, observer=kept.recorder, **options).open(timeout_ms=300)

    gc.disable()
    try:
        kept.meet(work)

        assert kept.errors
        until(lambda: handles() <= before)
        until(lambda: threads() <= started)
    finally:
        gc.enable()


@pytest.mark.parametrize("make", [plain, transactional])
def test_no_place_keeps_a_client(kafka: MockKafka, make: Any) -> None:
    """Nor does whoever keeps what a signal's handler has raised, wherever that was."""
    before, started, kept = handles(), threads(), Kept()

    def work() -> None:
        with pool.producer() as producer:
            producer.produce_sync("orders", "x")
            producer.produce_async("orders", "x", partition=0)
            producer.flush()

    def keep() -> None:
        try:
            work()
        except Interrupt as error:
            kept.errors.append(error)
            raise

    pool = make(kafka.bootstrap_servers, size=1)
    pool.open(timeout_ms=10_000)
    work()
    gc.collect()
    gc.disable()
    try:
        places = list(interrupt_everywhere(keep))
        pool.close(timeout_ms=300, force=True)

        assert len(places) == len(kept.errors)
        until(lambda: handles() <= before)
        until(lambda: threads() <= started)
    finally:
        gc.enable()


# -- what is handled meanwhile -----------------------------------------------------------------------


class Mine:
    """Something of a borrower's."""


def fails(pool: ProducerPool) -> None:
    """A block raises."""
    with suppress(ZeroDivisionError), pool.transaction() as tx:
        tx.produce_async("orders", "x")
        raise ZeroDivisionError


def gives_up(pool: ProducerPool) -> None:
    """A block gives up without an error."""
    with pool.transaction() as tx:
        tx.produce_async("orders", "x")
        raise AbortTransaction


def produces_in_vain(pool: ProducerPool) -> None:
    """Where an exception is handled, a record is refused."""
    with suppress(DeliveryError, ZeroDivisionError), pool.transaction() as tx:
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            tx.produce_async("orders", b"x" * 2_000_000)


def fails_after_a_fatal_error(pool: ProducerPool) -> None:
    """A block raises whose client is lost."""
    with suppress(ZeroDivisionError), pool.transaction() as tx:
        raise_fatal_error(internals.client(tx)._kept[0], KafkaError.INVALID_TXN_STATE, "scripted")
        raise ZeroDivisionError


@pytest.mark.parametrize("ends", [fails, gives_up, produces_in_vain, fails_after_a_fatal_error])
def test_what_a_borrower_handles_is_not_kept(
    kafka: MockKafka, ends: Callable[[ProducerPool], None], caplog: pytest.LogCaptureFixture
) -> None:
    """What confluent-kafka raises meanwhile, Python 3.11 would keep together with it, and with its frames, for ever."""
    caplog.set_level(logging.CRITICAL + 1, "wd_di")  # pytest keeps each line, with its traceback
    kept: list[weakref.ref[Mine]] = []

    def borrow() -> None:
        mine = Mine()
        kept.append(weakref.ref(mine))
        ends(pool)

    with transactional(kafka.bootstrap_servers, size=1) as pool:
        for _ in range(5):
            borrow()
    gc.collect()

    assert [None] * 5 == [each() for each in kept]


# -- the place itself --------------------------------------------------------------------------------

NAMED = re.compile(
    r"""
      ^\s*\w+(,\ \w+)*\ =\ .*(\bkept\[0\]|\bconsumers\[-1\])$  # what is kept
    | ^\s*\w+\ =\ [\w.]*(Producer|Consumer)\(                      # what confluent-kafka makes
    | :\ cimpl\.|\blambda\ handle                                 # what is handed to a function
    """,
    re.VERBOSE,
)


@pytest.mark.parametrize("source", [*pathlib.Path(_kafka.__file__).parent.glob("*.py")], ids=lambda path: path.name)
def test_no_variable_has_a_client(source: pathlib.Path) -> None:
    """No name is given to one: each call takes it from its place."""
    assert [] == [line for line in source.read_text().splitlines() if NAMED.search(line)]


def test_what_was_taken_is_taken_once() -> None:
    """Of two who end it only one gets it; everybody else is told why it is gone."""
    gone = Gone(lambda: KeyError("gone"))
    kept: list[Any] = ["handle"]
    first, second = taken(kept, gone), taken(kept, gone)

    assert (["handle"], [gone], [gone]) == (first, second, kept)
    with pytest.raises(KeyError, match="gone"):
        kept[0].flush(1)
    assert 0 == len(kept[0])


def test_the_frames_before_a_callback() -> None:
    """What a callback has caught leads to the method from which it was called, and so to the handle."""

    class Own:
        """Has a method in Python."""

        def poll(self) -> BaseException:
            return caught()

    def caught() -> BaseException:
        try:
            return ZeroDivisionError(1 // 0)
        except ZeroDivisionError as error:
            return error

    handle = Own()
    gone, error = weakref.ref(handle), handle.poll()
    del handle
    before = gone()
    forget_frames(error)
    assert before is not None
    del before

    assert gone() is None


def test_a_handler_that_raises_while_a_client_ends() -> None:
    """The end of a client looks for signals, and nobody is there to raise what a handler has raised."""

    class Ending(list[Any]):
        """A place of which C says that clearing it has worked with an exception set."""

        def __init__(self, raised: BaseException | None) -> None:
            super().__init__(["handle"])
            self._raised = raised

        def clear(self) -> None:
            super().clear()
            raise SystemError("returned a result with an exception set") from self._raised

    with pytest.raises(SystemExit, match="143"):
        empty(Ending(SystemExit(143)))
    with pytest.raises(SystemError):
        empty(Ending(None))
