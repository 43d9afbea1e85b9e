"""Every error of the library: who raised it, what is known of the outcome, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from wd_di._version import DISTRIBUTION

if TYPE_CHECKING:
    from collections.abc import Sequence


Outcome = Literal["aborted", "unknown"]


class WdDiError(Exception):
    """Base of all errors that wd_di raises.

    They can be pickled and copied with all that they carry, but for the cause, which Python leaves behind.
    """

    def __reduce__(self) -> tuple[object, ...]:
        _, args, *state = cast("tuple[object, ...]", super().__reduce__())
        return _restored, (type(self), args), *state


def _restored(kind: type[WdDiError], args: tuple[object, ...]) -> WdDiError:
    """Make an error without its own ``__init__``, which may want other arguments than it passed on."""
    error = kind.__new__(kind, *args)
    builtin: Any = next(each for each in kind.__mro__ if each.__module__ == "builtins")
    builtin.__init__(error, *args)
    return error


def uncopyable(thing: object, instead: str, *, known_as: str | None = None) -> TypeError:
    """Return what is raised when somebody pickles or copies what belongs to its process."""
    return TypeError(f"{known_as or type(thing).__name__} can't be pickled or copied: {instead}")


class SettingsError(WdDiError, ValueError):
    """Settings that clash with one another, with another pool, or with what librdkafka accepts."""


class NotConfiguredError(WdDiError):
    """The global pool was used before it was set up."""


class AlreadyConfiguredError(WdDiError):
    """The global pool was set up a second time without being closed."""


class MissingExtraError(WdDiError, ImportError):
    """An optional part was used whose packages aren't installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs packages that aren't installed: add the extra {extra} where {DISTRIBUTION} is installed "
            f"from, as by pip install '.[{extra}]' in a clone"
        )
        self.extra = extra


# -- the pool ----------------------------------------------------------------------------------


class PoolError(WdDiError):
    """Base of what goes wrong between a borrower and the pool."""


class PoolTimeoutError(PoolError, TimeoutError):
    """No producer came free, or none could be connected, within the checkout's deadline."""


class PoolClosedError(PoolError):
    """The pool is closing or closed."""


class PoolExhaustedError(PoolError):
    """Waiting would be pointless or isn't allowed: ``max_waiting`` reached, or the waiter holds what it waits for."""


class PoolOpenError(PoolError):
    """The pool, or one of its producers, can't be opened: wrong settings, authentication, rights or no broker."""


class PoolUnhealthyError(PoolError):
    """Producers were fenced again and again: somebody else owns the same ``transactional.id``."""


class ScopeError(PoolError):
    """A producer or transaction was used where it can't be: unopened, on an event loop, or outside a transaction."""


class UnopenedScopeError(ScopeError, AttributeError):
    """A scope was touched before anybody opened it (an ``AttributeError``, so that ``hasattr`` says no)."""


class CheckoutReturnedError(PoolError):
    """A producer was used after it had gone back to its pool."""


class ForkedPoolError(PoolError):
    """A producer or transaction from before a fork was used in the child."""


# -- producing ---------------------------------------------------------------------------------


class ProduceError(WdDiError):
    """Base of what goes wrong with a message."""


class FailedDelivery(Protocol):
    """What an error shows of a record that wasn't delivered: a :class:`wd_di.Delivery`."""

    topic: str

    @property
    def outcome(self) -> str:
        """What became of it."""

    def exception(self, timeout_ms: int | None = None) -> BaseException | None:
        """Return why."""


class DeliveryError(ProduceError):
    """The message wasn't delivered. ``failed`` lists every delivery this error speaks of."""

    def __init__(self, message: str, failed: Sequence[FailedDelivery] = ()) -> None:
        super().__init__(message)
        self.failed: tuple[FailedDelivery, ...] = tuple(failed)


class DeliveryTimeoutError(ProduceError, TimeoutError):
    """The broker hasn't answered within the deadline. The message may still be delivered."""


class QueueFullError(ProduceError):
    """librdkafka's local queue stayed full until the deadline; the message wasn't enqueued."""


class AuthorizationError(ProduceError):
    """The broker denies a right on the topic, the group or the ``transactional.id``."""


# -- transactions ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resolution:
    """What was found out about a commit that had no answer.

    Attributes:
        outcome: What became of the transaction.
        way: What told: one of its records, or where the consumer group stands whose offsets it took along.
        told: What was seen there, or why nothing could be, in words.
        duration_ms: How long finding out took, in milliseconds, from when the commit was given up.
    """

    outcome: Literal["committed", "aborted", "unknown"]
    way: Literal["record", "offsets"] | None
    told: str
    duration_ms: float


class TransactionError(WdDiError):
    """Base of what goes wrong with a transaction.

    Attributes:
        outcome: ``"aborted"`` (known: nothing of it is visible) or ``"unknown"``.
        safe_to_retry: Whether the whole transaction may be run again without risk of doing it twice.
        resolution: What was found out, if its commit had no answer.
    """

    outcome: Outcome = "aborted"
    safe_to_retry: bool = False
    resolution: Resolution | None = None


class TransactionAbortedError(TransactionError):
    """The transaction was aborted instead of committed."""

    safe_to_retry = True


class FencedError(TransactionError):
    """Another producer took over the same ``transactional.id``."""


class TransactionTimedOutError(TransactionError):
    """The transaction was open longer than ``transaction.timeout.ms`` allows."""


class CommitOutcomeUnknownError(TransactionError):
    """The commit was sent and its answer is missing: the records are either all visible or all hidden."""

    outcome: Outcome = "unknown"


class UnexpectedAbortError(TransactionError):
    """An inner scope failed and the outer one swallowed its error; the whole was aborted."""


class TransactionClosedError(TransactionError):
    """A transaction was used after its end."""


class NotTransactionalError(TransactionError):
    """A transaction was asked of a pool without a ``transactional_id``."""


class PropagationError(TransactionError):
    """``mandatory`` found no transaction, or ``never`` found one."""


class RebalancedError(TransactionError):
    """The consumer group moved on: the offsets no longer belong to this member. Abort and read again."""


class AbortTransaction(Exception):  # noqa: N818  (a signal, as StopIteration is)
    """Raise it inside a transaction to abort without an error; the scope swallows it."""
