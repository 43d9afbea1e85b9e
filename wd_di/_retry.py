"""Running a whole transaction again, and only when that can't do it twice."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from wd_di._loop import refuse_outside_of_a_task
from wd_di.errors import DeliveryError, TransactionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from wd_di._async_transaction import AsyncTransaction
    from wd_di._scope import Run, TransactionScope
    from wd_di._transaction import Transaction

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Retry:
    """When and how often a transaction is run again.

    It is run again only after a confirmed abort, by the outermost scope, and as a whole: hooks and records start anew.

    Args:
        attempts: Runs in all, the first included.
        backoff_ms: Milliseconds before the second run; doubled each time, with jitter.
        max_backoff_ms: Milliseconds that a pause never exceeds.
        on: Exceptions of your own function to run again for, besides failed deliveries and aborted commits.

    Raises:
        TypeError, ValueError: Names the argument that isn't what it should be.
    """

    attempts: int = 3
    backoff_ms: int = 100
    max_backoff_ms: int = 5_000
    on: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("attempts", 1), ("backoff_ms", 0), ("max_backoff_ms", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"Retry.{name} is an int, not {type(value).__name__}")
            if value < least:
                raise ValueError(f"Retry.{name} is {value}: it must be at least {least}")
        object.__setattr__(self, "on", exception_classes("Retry.on", self.on))

    def pause(self, attempt: int) -> float:
        """Seconds to wait after the run number ``attempt``; jittered, so that replicas don't come back together."""
        full = min(self.max_backoff_ms, self.backoff_ms * 2.0 ** min(attempt - 1, 60))  # a float overflows at 1024
        return full / 1000 * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)

    def covers(self, error: BaseException) -> bool:
        """Whether the transaction may be run again after this error, its abort being confirmed."""
        if isinstance(error, TransactionError):
            return error.safe_to_retry
        return isinstance(error, (DeliveryError, *self.on))


def exception_classes(name: str, given: object) -> tuple[type[Exception], ...]:
    """Return the classes, one by itself as a tuple; what isn't one would raise only when an error is looked at.

    Raises:
        TypeError: Among them is something else.
    """
    kinds = given if isinstance(given, tuple) else (given,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"{name} is a tuple of Exception classes, not {kind!r}")
    return kinds


def run(scope: TransactionScope, fn: Callable[[Transaction], R]) -> R | None:
    """Call ``fn(tx)`` inside the scope, again if the scope's retry says so; ``None`` if it was aborted by signal."""
    retry = scope.options.retry or Retry(attempts=1)
    attempt = 1
    while True:
        attempt_run = scope.begin()
        try:
            with attempt_run as tx:
                return fn(tx)
        except Exception as error:
            if attempt >= retry.attempts or not _may_repeat(attempt_run, retry, error):
                raise
        else:
            return None
        time.sleep(retry.pause(attempt))
        attempt += 1


async def run_async(scope: TransactionScope, fn: Callable[[AsyncTransaction], Awaitable[R]]) -> R | None:
    """Await ``fn(tx)`` inside the scope, as :func:`run` calls it."""
    refuse_outside_of_a_task(repr(scope))
    retry = scope.options.retry or Retry(attempts=1)
    attempt = 1
    while True:
        attempt_run = scope.begin()
        try:
            async with attempt_run as tx:
                return await fn(tx)
        except Exception as error:
            if attempt >= retry.attempts or not _may_repeat(attempt_run, retry, error):
                raise
        else:
            return None
        await asyncio.sleep(retry.pause(attempt))
        attempt += 1


def _may_repeat(attempt: Run, retry: Retry, error: Exception) -> bool:
    """Only the outermost scope, and only when nothing of it can have become visible."""
    confirmed = attempt.unit is None or attempt.unit.abort_confirmed
    return attempt.outermost and confirmed and retry.covers(error)
