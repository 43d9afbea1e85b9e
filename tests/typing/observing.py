"""What type checkers know of events and listeners; each ignore stands for an error that they must find."""

# ruff: noqa: D103  (nothing here is run)
from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

from wd_di import (
    ConnectionPoolCreated,
    Event,
    LoggingObserver,
    Observer,
    PoolSettings,
    ProducerPool,
    Subscription,
    TransactionAborted,
    TransactionCommitted,
)

observer = Observer()


def created(event: ConnectionPoolCreated) -> None:
    assert_type(event.size, int)
    assert_type(event.name, str)
    assert_type(event["size"], Any)


def anything(event: Event) -> str:
    return event.pool


def committed(event: TransactionCommitted) -> int:
    return event.records


assert_type(observer.subscribe(ConnectionPoolCreated, created), Subscription)
assert_type(observer.subscribe("connection_pool.created", created), Subscription)
observer.subscribe(ConnectionPoolCreated, lambda event: event.size)
observer.subscribe(ConnectionPoolCreated, anything)
observer.subscribe(Event, anything)
observer.subscribe("*", anything)
observer.subscribe("connection_pool.created", lambda event: assert_type(event, Any))
with observer.subscribe(TransactionCommitted, committed) as subscription:
    assert_type(subscription, Subscription)

observer.subscribe(TransactionCommitted, created)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
observer.subscribe(TransactionCommitted, lambda event: event.size)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownLambdaType]
observer.subscribe(5, anything)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


@observer.on(TransactionAborted)
def aborted(event: TransactionAborted) -> BaseException | None:
    return event.cause


@observer.on("transaction.committed", TransactionAborted)
def ended(event: Event) -> str:
    return event.name


assert_type(aborted, Callable[[TransactionAborted], BaseException | None])
observer.on(TransactionAborted)(committed)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

ProducerPool(PoolSettings(), observer=LoggingObserver())
