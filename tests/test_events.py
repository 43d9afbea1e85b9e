"""Events, the Observer that hands them out, and what becomes of a listener that fails."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import FrozenInstanceError
from functools import partial
from typing import Any

import pytest

from wd_di import events
from wd_di._errorlog import LOCK
from wd_di.events import (
    EVENTS,
    ConnectionPoolCreated,
    ConnectionPoolSetup,
    Event,
    MessageFailed,
    Observer,
    StatisticsEmitted,
    TransactionCommitted,
    TransactionStarted,
)
from wd_di.observe.logging import LoggingObserver

STARTED: dict[str, Any] = {"pool": "orders", "index": 2, "transactional_id": "shop-2", "transaction_id": "t1"}
COMMITTED: dict[str, Any] = STARTED | {"records": 3, "duration_ms": 1.25}
CREATED: dict[str, Any] = {"pool": "orders", "size": 5, "timeout_ms": 5000}


@pytest.fixture(name="observer")
def _observer() -> Observer:
    return Observer()


@pytest.fixture(name="built")
def _built(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count every event object that is constructed, by name."""
    count: Counter[str] = Counter()

    def counting(kind: type[Event]) -> None:
        construct = kind.__init__

        def init(self: Event, *args: Any, **values: Any) -> None:
            count[kind.name] += 1
            construct(self, *args, **values)

        monkeypatch.setattr(kind, "__init__", init)

    for each in EVENTS:
        counting(each)
    return count


# -- the events --------------------------------------------------------------------------------


def test_every_event_is_listed() -> None:
    """EVENTS holds every public event class of the module."""
    kinds = {name: each for name, each in vars(events).items() if isinstance(each, type)}
    public = {each for name, each in kinds.items() if issubclass(each, Event) and not name.startswith("_")}

    assert public == {Event, *EVENTS}


def test_names_are_the_seeds() -> None:
    """The five events of the origin keep their names, and no two events share one."""
    names = [each.name for each in EVENTS]

    assert len(names) == len(set(names))
    assert {"created", "setup", "shutdown", "reload", "reloaded"} == {
        name.removeprefix("connection_pool.") for name in names if name.startswith("connection_pool.")
    }


@pytest.mark.parametrize("kind", [ConnectionPoolCreated, ConnectionPoolSetup])
def test_fields_by_key(kind: type[ConnectionPoolCreated]) -> None:
    """A field is read by key as by attribute, and a pool's timeout_ms also as timeout."""
    event = kind(**CREATED)

    assert event.size == event["size"] == 5
    assert event.timeout_ms == event["timeout"] == event["timeout_ms"] == 5000


def test_unknown_key_lists_the_fields() -> None:
    """An unknown key is a KeyError that names the event and what it has."""
    with pytest.raises(KeyError, match=r"created has no 'sizes'; it has pool, size, timeout_ms, timeout\b"):
        ConnectionPoolCreated(**CREATED)["sizes"]


@pytest.mark.parametrize("key", ["keys", "name", "__class__", "timeout"])
def test_only_fields_by_key(key: str) -> None:
    """What isn't a field of this event can't be read by key, even where it is an attribute."""
    with pytest.raises(KeyError):
        TransactionStarted(**STARTED)[key]


def test_event_becomes_a_dict() -> None:
    """dict(event) gives all fields."""
    assert dict(TransactionCommitted(**COMMITTED)) == COMMITTED


@pytest.mark.parametrize("kind", EVENTS)
def test_events_are_frozen(kind: type[Event]) -> None:
    """No listener can change what the next one sees."""
    event = object.__new__(kind)

    with pytest.raises(FrozenInstanceError):
        event.pool = "other"  # type: ignore[misc]


@pytest.mark.parametrize("kind", [each for each in EVENTS if each is not StatisticsEmitted])
def test_events_are_slotted(kind: type[Event]) -> None:
    """An event carries no __dict__."""
    assert not hasattr(object.__new__(kind), "__dict__")


def test_events_pickle() -> None:
    """An event can be sent to another process."""
    event = StatisticsEmitted(pool="orders", index=0, json='{"txmsgs": 7}')

    assert event == pickle.loads(pickle.dumps(event))  # noqa: S301  (our own bytes)


def test_statistics_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The statistics are parsed at the first look and only then."""
    parsed: list[str] = []

    def loads(text: str) -> dict[str, Any]:
        parsed.append(text)
        return {"txmsgs": 7}

    monkeypatch.setattr("wd_di.events.loads", loads)
    event = StatisticsEmitted(pool="orders", index=0, json='{"txmsgs": 7}')
    before = list(parsed)

    assert before == []
    assert {"txmsgs": 7} == event.statistics == event["statistics"]
    assert parsed == [event.json]


def test_statistics_stay_out_of_the_repr() -> None:
    """The repr of a statistics event is short, however long the JSON."""
    assert "txmsgs" not in repr(StatisticsEmitted(pool="orders", index=0, json='{"txmsgs": 7}'))


# -- who listens -------------------------------------------------------------------------------


def test_nobody_listening_builds_nothing(observer: Observer, built: Counter[str]) -> None:
    """With nobody listening, emit constructs no event object, for any class."""
    for kind in EVENTS:
        observer.emit(kind, pool="orders")

    assert not built


def test_only_wanted_events_are_built(observer: Observer, built: Counter[str]) -> None:
    """One object per event that somebody wants, however many listeners, and none of the others."""
    for _ in range(3):
        observer.subscribe(TransactionCommitted, lambda _: None)

    observer.emit(TransactionCommitted, **COMMITTED)
    observer.emit(TransactionStarted, **STARTED)

    assert built == {"transaction.committed": 1}


def test_cancelled_builds_nothing(observer: Observer, built: Counter[str]) -> None:
    """After the last listener left, nothing is built again."""
    with observer.subscribe("*", lambda _: None):
        pass

    observer.emit(TransactionCommitted, **COMMITTED)

    assert not built


@pytest.mark.parametrize("event", [TransactionCommitted, "transaction.committed", Event, "*"])
def test_subscribe(observer: Observer, event: Any) -> None:
    """A class, its name, the base class and "*" all reach the listener."""
    heard: list[Event] = []
    observer.subscribe(event, heard.append)

    observer.emit(TransactionCommitted, **COMMITTED)

    assert [TransactionCommitted(**COMMITTED)] == heard


def test_wants(observer: Observer) -> None:
    """An observer wants what somebody listens to, and only that."""
    observer.subscribe(TransactionCommitted, lambda _: None)

    assert [TransactionCommitted] == [each for each in EVENTS if observer.wants(each)]


def test_all_wants_all(observer: Observer) -> None:
    """Who subscribes to the base class wants every event."""
    observer.subscribe(Event, lambda _: None)

    assert all(observer.wants(each) for each in EVENTS)


def test_order_of_subscription(observer: Observer) -> None:
    """Listeners are called in the order in which they came, "*" among the others."""
    heard: list[str] = []
    observer.subscribe(TransactionStarted, lambda _: heard.append("first"))
    observer.subscribe("*", lambda _: heard.append("second"))
    observer.subscribe("transaction.started", lambda _: heard.append("third"))

    observer.emit(TransactionStarted, **STARTED)

    assert heard == ["first", "second", "third"]


def test_misspelt_name(observer: Observer) -> None:
    """A misspelt name is a ValueError that suggests the nearest and lists all."""
    with pytest.raises(ValueError, match=r"Did you mean 'transaction\.committed'\?") as caught:
        observer.subscribe("transaction.commited", print)

    assert all(each.name in str(caught.value) for each in EVENTS)


@pytest.mark.parametrize("event", ["", "zzz", int, object, type("Mine", (Event,), {})])
def test_no_such_event(observer: Observer, event: Any) -> None:
    """What isn't an event of wd_di is refused by name, without a far-fetched suggestion."""
    with pytest.raises(
        ValueError, match=r"there is no event .* The events are: \*, connection_pool\.created"
    ) as caught:
        observer.subscribe(event, print)

    assert "Did you mean" not in str(caught.value)


async def _coroutine(_: Event) -> None: ...


@pytest.mark.parametrize("listener", [None, "print", _coroutine])
def test_not_a_listener(observer: Observer, listener: Any) -> None:
    """What can't be called, or only awaited, is refused when it subscribes."""
    with pytest.raises(TypeError, match="a listener is a plain function"):
        observer.subscribe("*", listener)

    assert not any(observer.wants(each) for each in EVENTS)


def test_on(observer: Observer) -> None:
    """The decorator subscribes to each event once, by class or name, and returns the function unchanged."""
    heard: list[Event] = []

    def listener(event: Event) -> None:
        heard.append(event)

    decorated = observer.on("transaction.started", TransactionCommitted, TransactionStarted)(listener)
    observer.emit(TransactionStarted, **STARTED)
    observer.emit(TransactionCommitted, **COMMITTED)

    assert decorated is listener
    assert [TransactionStarted(**STARTED), TransactionCommitted(**COMMITTED)] == heard


def test_on_needs_an_event(observer: Observer) -> None:
    """A decorator without an event, with or without its parentheses, is refused at once."""
    with pytest.raises(TypeError):
        observer.on()  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="there is no event"):
        observer.on(lambda _: None)  # type: ignore[call-overload]


def test_cancel_is_idempotent(observer: Observer) -> None:
    """Cancelling twice is harmless, and takes only this subscription, not another of the same function."""
    heard: list[Event] = []
    first = observer.subscribe("*", heard.append)
    observer.subscribe(TransactionStarted, heard.append)

    first.cancel()
    first.cancel()
    observer.emit(TransactionStarted, **STARTED)
    observer.emit(TransactionCommitted, **COMMITTED)

    assert [TransactionStarted(**STARTED)] == heard


def test_with_subscription(observer: Observer) -> None:
    """A subscription listens as long as its with block, also when that raises."""
    with suppress(KeyError), observer.subscribe("*", print):
        inside = observer.wants(TransactionStarted)
        raise KeyError

    assert (inside, observer.wants(TransactionStarted)) == (True, False)


def test_subscribe_while_emitting(observer: Observer) -> None:
    """A listener that comes during an event hears the next one; one that goes doesn't disturb the rest."""
    heard: list[str] = []

    def swap(_: Event) -> None:
        own.cancel()
        observer.subscribe(TransactionStarted, lambda _: heard.append("new"))

    own = observer.subscribe(TransactionStarted, swap)
    observer.subscribe(TransactionStarted, lambda _: heard.append("old"))

    observer.emit(TransactionStarted, **STARTED)
    observer.emit(TransactionStarted, **STARTED)

    assert heard == ["old", "old", "new"]


@pytest.fixture(name="_eager_switches")
def _eager_switches() -> Iterator[None]:
    """Let threads interrupt each other as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_eager_switches")
def test_subscribing_from_many_threads(observer: Observer) -> None:
    """Neighbours that come and go on other threads lose neither a subscription nor an event."""
    heard: list[Event] = []
    observer.subscribe(TransactionStarted, heard.append)
    start = threading.Barrier(4, timeout=10)

    def come_and_go() -> None:
        start.wait()
        for _ in range(500):
            observer.subscribe("*", lambda _: None).cancel()
            observer.subscribe(TransactionStarted, lambda _: None).cancel()
        observer.subscribe(TransactionCommitted, lambda _: None)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for each in threads:
        each.start()
    start.wait()
    emitted = 0
    while any(each.is_alive() for each in threads):
        observer.emit(TransactionStarted, **STARTED)
        emitted += 1
    for each in threads:
        each.join(10)

    assert len(heard) == emitted
    assert repr(observer) == "<Observer: 4 subscriptions>"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 warns of just this
def test_after_fork(observer: Observer) -> None:
    """A child forked while another thread is subscribing can subscribe itself."""
    held, never = threading.Event(), threading.Event()

    def subscribe_slowly() -> None:
        with LOCK:
            held.set()
            never.wait(0.2)  # longer than a fork that wouldn't wait for the lock

    thread = threading.Thread(target=subscribe_slowly)
    thread.start()
    held.wait(5)
    code = _in_child(observer)
    thread.join(5)

    assert code == 0


def _in_child(observer: Observer) -> int:
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # not pytest-timeout's handler
        signal.alarm(5)  # ends a child that hangs
        observer.subscribe("*", print)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(("count", "text"), [(0, "0 subscriptions"), (1, "1 subscription"), (2, "2 subscriptions")])
def test_observer_repr(observer: Observer, count: int, text: str) -> None:
    """The repr counts subscriptions, one for "*" however many events it means."""
    for _ in range(count):
        observer.subscribe("*", print)

    assert f"<Observer: {text}>" == repr(observer)


def _fail(_: object) -> None:
    raise ZeroDivisionError("in a listener")


class _Audit:
    def __init__(self, password: str) -> None:
        self.password = password

    def __call__(self, event: Event) -> None:
        raise PermissionError(event.pool)

    def __repr__(self) -> str:
        return f"_Audit({self.password})"


@pytest.mark.parametrize(
    ("listener", "name"),
    [
        (_Audit("hunter2"), f"{__name__}._Audit"),
        (partial(_fail, "hunter2"), f"{__name__}._fail"),
        ([].append, "builtins.list.append"),
    ],
)
def test_subscription_repr(observer: Observer, listener: Any, name: str) -> None:
    """The repr names listener and events, and never shows a listener's own state."""
    assert f"{name} to *>" in repr(observer.subscribe("*", listener))
    assert f"{name} to transaction.started>" in repr(observer.subscribe(TransactionStarted, listener))


# -- listeners that fail -----------------------------------------------------------------------


def test_failing_listener_is_logged(observer: Observer, caplog: pytest.LogCaptureFixture) -> None:
    """A listener that raises is logged with its name, the event's and the traceback; the others still run."""
    heard: list[Event] = []
    observer.subscribe("*", _fail)
    observer.subscribe("*", heard.append)

    observer.emit(TransactionStarted, **STARTED)

    (record,) = caplog.records
    assert len(heard) == 1
    assert (record.name, record.levelname) == ("wd_di", "ERROR")
    assert f"{__name__}._fail failed on transaction.started: ZeroDivisionError('in a listener')" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_failing_listener_does_not_flood(observer: Observer, caplog: pytest.LogCaptureFixture) -> None:
    """A listener that fails with every event is logged once per event name and period, not each time."""
    observer.subscribe("*", _fail)

    for _ in range(50):
        observer.emit(TransactionStarted, **STARTED)
        observer.emit(TransactionCommitted, **COMMITTED)

    assert len(caplog.records) == 2


def test_failing_listener_keeps_secrets(observer: Observer, caplog: pytest.LogCaptureFixture) -> None:
    """The log names a failing listener by its class, not by a repr that may hold a secret."""
    observer.subscribe("*", _Audit("hunter2"))

    observer.emit(TransactionStarted, **STARTED)

    assert f"{__name__}._Audit failed" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_what_a_signals_handler_raises_passes(observer: Observer, error: BaseException) -> None:
    """It is never swallowed because it came while a listener was at work, and nobody misses an event for it."""
    heard: list[Event] = []

    def handle(*_: object) -> None:
        raise error

    observer.subscribe("*", lambda _: signal.raise_signal(signal.SIGUSR1))
    observer.subscribe("*", heard.append)
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(type(error)) as caught:
            observer.emit(TransactionStarted, **STARTED)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert error is caught.value
    assert 1 == len(heard)


def test_the_first_of_two_passes(observer: Observer, caplog: pytest.LogCaptureFixture) -> None:
    """What comes next is logged."""
    errors = [SystemExit(143), KeyboardInterrupt()]

    def handle(_: Event) -> None:
        raise errors.pop(0)

    first = errors[0]
    observer.subscribe("*", handle)
    observer.subscribe("*", handle)
    with pytest.raises(SystemExit) as caught:
        observer.emit(TransactionStarted, **STARTED)

    assert first is caught.value
    assert "failed on transaction.started: KeyboardInterrupt()" in caplog.text


def test_a_cancellation_in_a_listener_is_its_own(observer: Observer, caplog: pytest.LogCaptureFixture) -> None:
    """It looked at something that was cancelled: nobody has cancelled the task whose work it hears of."""

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        observer.subscribe("*", lambda _: future.result())
        observer.emit(TransactionStarted, **STARTED)

    asyncio.run(main())

    assert "failed on transaction.started: CancelledError(" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_what_a_listener_raises_on_another_thread(
    observer: Observer, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    """There it isn't Ctrl-C, whatever it is: it is logged, the others are told, and the thread goes on."""
    heard: list[Event] = []

    def fail(_: Event) -> None:
        raise error

    observer.subscribe("*", fail)
    observer.subscribe("*", heard.append)
    thread = threading.Thread(target=lambda: heard.append(observer.emit(TransactionStarted, **STARTED)))  # type: ignore[func-returns-value]
    thread.start()
    thread.join()

    assert 2 == len(heard)
    assert f"failed on transaction.started: {error()!r}" in caplog.text


def test_an_error_that_cannot_be_shown(observer: Observer, caplog: pytest.LogCaptureFixture) -> None:
    """A listener's error whose own repr raises is logged by its class, and disturbs nobody."""

    class Shy(Exception):  # noqa: N818
        def __repr__(self) -> str:
            raise RuntimeError("no")

    def fail(_: Event) -> None:
        raise Shy

    heard: list[Event] = []
    observer.subscribe("*", fail)
    observer.subscribe("*", heard.append)

    observer.emit(TransactionStarted, **STARTED)

    assert 1 == len(heard)
    assert "failed on transaction.started: Shy, which has no repr" in caplog.text


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_log_handler_that_exits_on_another_thread(observer: Observer, error: type[BaseException]) -> None:
    """A handler that raises something else than an Exception doesn't end the thread that logs, as the pool's own."""
    ended: list[str] = []

    def exits(_: logging.LogRecord) -> None:
        raise error

    def work() -> None:
        observer.emit(TransactionStarted, **STARTED)
        ended.append("well")

    observer.subscribe("*", _fail)
    with _Handler("wd_di", exits):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    assert ["well"] == ended


def test_listener_may_emit(observer: Observer) -> None:
    """A listener can cause further events."""
    heard: list[Event] = []
    observer.subscribe(TransactionStarted, lambda _: observer.emit(TransactionCommitted, **COMMITTED))
    observer.subscribe(TransactionCommitted, heard.append)

    observer.emit(TransactionStarted, **STARTED)

    assert [TransactionCommitted(**COMMITTED)] == heard


class _Handler(logging.Handler):
    """Calls a function with each record, as a handler that ships logs through a pool would."""

    def __init__(self, logger: str, handle: Any) -> None:
        super().__init__()
        self.handler = handle
        self.logger = logging.getLogger(logger)

    def emit(self, record: logging.LogRecord) -> None:
        self.handler(record)

    def __enter__(self) -> None:
        self.logger.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self.logger.removeHandler(self)


def test_logging_never_goes_in_circles(caplog: pytest.LogCaptureFixture) -> None:
    """A log handler that causes events itself, which are logged again, comes to an end."""
    caplog.set_level(logging.INFO, "wd_di")
    observer = LoggingObserver()
    lines: list[str] = []

    def ship(record: logging.LogRecord) -> None:
        lines.append(record.getMessage())
        observer.emit(MessageFailed, pool="orders", index=0, topic="logs", error=OSError("no broker"))

    observer.subscribe("*", _fail)
    with _Handler("wd_di", ship):
        observer.emit(ConnectionPoolCreated, **CREATED)

    assert len(lines) == 2
    assert lines[0].startswith("orders: connection_pool.created")
    assert "_fail failed on connection_pool.created" in lines[1]


def test_failing_log_handler_disturbs_nobody(observer: Observer) -> None:
    """A log handler that raises hides neither the pool's work nor the other listeners."""
    heard: list[Event] = []
    observer.subscribe("*", _fail)
    observer.subscribe("*", heard.append)

    with _Handler("wd_di", _fail):
        observer.emit(TransactionStarted, **STARTED)

    assert len(heard) == 1
