"""LoggingObserver: every event as a line of the log."""

from __future__ import annotations

from dataclasses import fields
from logging import DEBUG, ERROR, INFO, WARNING, Logger

from wd_di._errorlog import LOGGER, write_log
from wd_di.events import (
    EVENTS,
    CheckoutLost,
    CheckoutTimedOut,
    ErrorOccurred,
    Event,
    MessageAcknowledged,
    MessageFailed,
    MessagePurged,
    Observer,
    ProducerContested,
    ProducerRetired,
    StatisticsEmitted,
    TransactionCommitted,
    TransactionFinished,
    TransactionResolved,
    TransactionStarted,
)

# What happens seldom is INFO; what happens with every message or transaction is DEBUG.
_LEVELS: dict[type[Event], int] = dict.fromkeys(EVENTS, INFO) | {
    TransactionStarted: DEBUG,
    TransactionCommitted: DEBUG,
    TransactionFinished: DEBUG,
    MessageAcknowledged: DEBUG,
    MessagePurged: DEBUG,
    StatisticsEmitted: DEBUG,
    CheckoutTimedOut: WARNING,
    ProducerContested: WARNING,
    CheckoutLost: WARNING,
    ProducerRetired: WARNING,
    MessageFailed: WARNING,
    ErrorOccurred: ERROR,
}


class LoggingObserver(Observer):
    """An observer that logs each event; others can subscribe to it as to any.

    Lifecycle and aborts are INFO; transactions and messages DEBUG; what failed, timed out, was retired or is in doubt
    WARNING; ``error.occurred`` ERROR with its traceback. Each field also is an attribute of the log record, under its
    name with ``wd_di_`` before it (``wd_di_pool``, ``wd_di_index``), beside ``wd_di_event``.

    Args:
        logger: Where to write; the logger ``wd_di`` if not given.
        messages: Also log each acknowledged message. It costs an event object per message.
        statistics: Also log librdkafka's statistics; the JSON is only in the record's ``wd_di_json``.
    """

    def __init__(self, logger: Logger | None = None, *, messages: bool = False, statistics: bool = False) -> None:
        super().__init__()
        self._logger = logger or LOGGER
        unasked = {MessageAcknowledged: not messages, StatisticsEmitted: not statistics}
        self._add((each for each in EVENTS if not unasked.get(each)), self._log)

    def _log(self, event: Event) -> None:
        level = _level(event)
        if self._logger.isEnabledFor(level):
            error = event.error if isinstance(event, ErrorOccurred) else None
            write_log(self._logger, level, _line(event), error=error, extra=_extra(event))


def _level(event: Event) -> int:
    in_doubt = isinstance(event, TransactionFinished | TransactionResolved) and event.outcome == "unknown"
    return WARNING if in_doubt else _LEVELS[type(event)]


def _line(event: Event) -> str:
    shown = [each.name for each in fields(event) if each.repr and each.name != "pool"]
    return " ".join([f"{event.pool}: {event.name}", *(f"{name}={_text(event[name])}" for name in shown)])


def _text(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(_plain(value))


def _extra(event: Event) -> dict[str, object]:
    return {"wd_di_event": event.name} | {f"wd_di_{key}": _plain(value) for key, value in dict(event).items()}


def _plain(value: object) -> object:
    # Handlers serialise what they are given: an error or a report goes as text, so that none of them can fail on it.
    return value if value is None or isinstance(value, str | int | float) else repr(value)
