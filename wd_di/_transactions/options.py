"""How a transaction is to be run: what an open one around it means, what commits, and when it is run again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from wd_di._concurrency.deadline import check_timeout
from wd_di.errors import DeliveryError, TransactionError


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


class Attempts:
    """The runs of one transaction, and whether there is another."""

    def __init__(self, retry: Retry | None) -> None:
        self._retry = retry or _ONCE
        self._made = 0

    def failed(self, error: Exception, *, repeatable: bool) -> float:
        """Return the seconds until the next run.

        Args:
            error: What came out of this one.
            repeatable: Whether nothing of it can have become visible, nor belongs to a transaction around it.

        Raises:
            Exception: The error, if there is no next run.
        """
        self._made += 1
        if self._made >= self._retry.attempts or not repeatable or not self._retry.covers(error):
            raise error
        return self._retry.pause(self._made)


_ONCE = Retry(attempts=1)

Propagation = Literal["join", "new", "mandatory", "never"]


OPTIONS = ("timeout_ms", "propagation", "commit_on", "retry")
"""Their names."""


class TransactionOptions(TypedDict, total=False):
    """The options of ``ProducerPool.transaction`` and ``PoolResource.transaction_with``."""

    timeout_ms: int | None
    propagation: Propagation
    commit_on: tuple[type[Exception], ...]
    retry: Retry | None


@dataclass(frozen=True, slots=True)
class Options:
    """A scope's options, checked when the scope is made."""

    timeout_ms: int | None = None
    propagation: Propagation = "join"
    commit_on: tuple[type[Exception], ...] = ()
    retry: Retry | None = None

    def __post_init__(self) -> None:
        check_timeout(self.timeout_ms, 0)
        if self.propagation not in get_args(Propagation):
            raise ValueError(f"propagation is one of {', '.join(get_args(Propagation))}, not {self.propagation!r}")
        exception_classes("commit_on", self.commit_on)
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise TypeError(f"retry is a wd_di.Retry, not {type(self.retry).__name__}")


DEFAULTS = Options()
