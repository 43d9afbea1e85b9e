from __future__ import annotations

import logging
import signal
import sys
from typing import Any

import pytest

from wd_di.events import (
    EVENTS,
    CheckoutTimedOut,
    ConnectionPoolCreated,
    ConnectionPoolShutdown,
    ErrorOccurred,
    Event,
    MessageAcknowledged,
    MessageFailed,
    MessagePurged,
    ProducerRetired,
    StatisticsEmitted,
    TransactionAborted,
    TransactionCommitted,
    TransactionFinished,
    TransactionStarted,
)
from wd_di.observe.logging import LoggingObserver

STARTED: dict[str, Any] = {"pool": "orders", "index": 2, "transactional_id": "shop-2", "transaction_id": "t1"}
COMMITTED: dict[str, Any] = STARTED | {"records": 3, "duration_ms": 1.25}
CREATED: dict[str, Any] = {"pool": "orders", "size": 5, "timeout_ms": 5000}
ERROR = OSError("no broker")
FINISHED = COMMITTED | {"error": None}


@pytest.mark.parametrize(
    ("level", "kind", "values"),
    [
        ("INFO", ConnectionPoolCreated, CREATED),
        ("INFO", ConnectionPoolShutdown, {"pool": "orders"}),
        ("DEBUG", TransactionStarted, STARTED),
        ("DEBUG", TransactionCommitted, COMMITTED),
        ("INFO", TransactionAborted, COMMITTED | {"cause": ERROR}),
        ("DEBUG", TransactionFinished, FINISHED | {"outcome": "committed"}),
        ("WARNING", TransactionFinished, FINISHED | {"outcome": "unknown"}),
        ("DEBUG", MessagePurged, {"pool": "orders", "index": 0, "topic": "t"}),
        ("WARNING", MessageFailed, {"pool": "orders", "index": 0, "topic": "t", "error": ERROR}),
        ("WARNING", CheckoutTimedOut, {"pool": "orders", "timeout_ms": 5000, "error": ERROR}),
        (
            "WARNING",
            ProducerRetired,
            {"pool": "orders", "index": 0, "transactional_id": None, "reason": "fenced", "error": ERROR},
        ),
        ("ERROR", ErrorOccurred, {"pool": "orders", "index": None, "where": "hook", "error": ERROR}),
    ],
)
def test_levels(level: str, kind: type[Event], values: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Each event is one line at the level of its weight, and only error.occurred shows a traceback."""
    caplog.set_level(logging.DEBUG, "wd_di")

    LoggingObserver().emit(kind, **values)

    (record,) = caplog.records
    assert ("wd_di", level) == (record.name, record.levelname)
    assert record.getMessage().startswith(f"orders: {kind.name}")
    assert (kind is ErrorOccurred) == bool(record.exc_info)


def test_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """The line says the pool, the event and its fields."""
    caplog.set_level(logging.DEBUG, "wd_di")

    LoggingObserver().emit(TransactionCommitted, **COMMITTED)

    assert caplog.messages == [
        "orders: transaction.committed index=2 transactional_id=shop-2 transaction_id=t1 records=3 duration_ms=1.2"
    ]


def test_log_extra(caplog: pytest.LogCaptureFixture) -> None:
    """Each field is an attribute of the record under a name of its own; what isn't plain goes as text."""
    caplog.set_level(logging.INFO, "wd_di")

    LoggingObserver().emit(TransactionAborted, **COMMITTED, cause=ERROR)

    (record,) = caplog.records
    expected = {f"wd_di_{key}": value for key, value in COMMITTED.items()}
    ours = {key: value for key, value in vars(record).items() if key.startswith("wd_di_")}
    assert expected | {"wd_di_event": "transaction.aborted", "wd_di_cause": "OSError('no broker')"} == ours


@pytest.mark.parametrize(
    ("options", "unwanted"),
    [
        ({}, {MessageAcknowledged, StatisticsEmitted}),
        ({"messages": True}, {StatisticsEmitted}),
        ({"statistics": True}, {MessageAcknowledged}),
        ({"messages": True, "statistics": True}, set()),
    ],
)
def test_costly_events_on_request(options: dict[str, Any], unwanted: set[type[Event]]) -> None:
    """Acknowledged messages and statistics aren't even built unless they are asked for."""
    observer = LoggingObserver(**options)

    assert unwanted == {each for each in EVENTS if not observer.wants(each)}


def test_statistics_are_logged_apart(caplog: pytest.LogCaptureFixture) -> None:
    """The statistics' JSON is in the record, but not in the line."""
    caplog.set_level(logging.DEBUG, "wd_di")

    LoggingObserver(statistics=True).emit(StatisticsEmitted, pool="orders", index=0, json='{"txmsgs": 7}')

    (record,) = caplog.records
    assert record.getMessage() == "orders: statistics.emitted index=0"
    assert record.__dict__["wd_di_json"] == '{"txmsgs": 7}'


def test_a_handler_of_signals_comes_through_a_handler_of_logs(caplog: pytest.LogCaptureFixture) -> None:
    """A SIGTERM ends the program also while an event is written to the log."""
    caplog.set_level(logging.DEBUG, "shop.kafka")

    class Terminated(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            signal.raise_signal(signal.SIGUSR1)

    handler, logger = Terminated(), logging.getLogger("shop.kafka")
    before = signal.signal(signal.SIGUSR1, lambda *_: sys.exit(143))
    logger.addHandler(handler)
    try:
        with pytest.raises(SystemExit, match="143"):
            LoggingObserver(logger).emit(TransactionCommitted, **COMMITTED)
    finally:
        logger.removeHandler(handler)
        signal.signal(signal.SIGUSR1, before)


def test_own_logger(caplog: pytest.LogCaptureFixture) -> None:
    """The lines go to the logger that was given."""
    caplog.set_level(logging.INFO, "shop.kafka")

    LoggingObserver(logging.getLogger("shop.kafka")).emit(ConnectionPoolCreated, **CREATED)

    assert [record.name for record in caplog.records] == ["shop.kafka"]


def test_silent_level_formats_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Below the logger's level no text is made."""
    caplog.set_level(logging.INFO, "wd_di")

    class Unprintable(Exception):  # noqa: N818
        def __repr__(self) -> str:
            pytest.fail("was formatted")

    LoggingObserver().emit(TransactionFinished, **FINISHED | {"outcome": "aborted", "error": Unprintable()})

    assert not caplog.records


def test_logging_observer_has_listeners(caplog: pytest.LogCaptureFixture) -> None:
    """Others can listen to a LoggingObserver, which then logs and tells them."""
    caplog.set_level(logging.INFO, "wd_di")
    heard: list[Event] = []
    observer = LoggingObserver()
    observer.subscribe(ConnectionPoolCreated, heard.append)

    observer.emit(ConnectionPoolCreated, **CREATED)

    assert (len(heard), len(caplog.records)) == (1, 1)
    assert repr(observer) == "<LoggingObserver: 2 subscriptions>"
