"""What the handles for threads and for tasks have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, Protocol

from wd_di._hints import no_attribute
from wd_di._threads import Deadline
from wd_di.errors import uncopyable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    from wd_di._hooks import Outcome, When
    from wd_di._scope import TransactionOptions, TransactionScope
    from wd_di._sender import Sender
    from wd_di._unit import Unit


class Held(Protocol):
    """What a handle knows of the claim it works under."""

    sender: Sender

    def open_unit(self) -> Unit | None: ...
    def scope(self, **options: Unpack[TransactionOptions]) -> TransactionScope: ...


class Handle:
    """A borrower's hold on a sender, for as long as its block lasts."""

    __slots__ = ("__weakref__", "_held")

    def __init__(self, held: Held) -> None:
        self._held = held

    @property
    def index(self) -> int:
        """The slot's, zero-based."""
        return self._sender.index

    @property
    def _sender(self) -> Sender:
        """Asked anew each time: a claim may come by another producer between two transactions."""
        return self._held.sender

    def transaction(self, **options: Unpack[TransactionOptions]) -> TransactionScope:
        """Return a transaction on this very producer; the options are those of ``ProducerPool.transaction``.

        Raises:
            NotTransactionalError: The pool has no ``transactional_id``.
        """
        self._sender.refuse_if_over()
        scope = self._held.scope(**options)
        scope.keeps = self
        return scope

    def _sending(self) -> Sender | None:
        """Who sends now: the transaction that is open here, else this producer; nobody, where a call must open one."""
        unit = self._held.open_unit()
        if unit is not None:
            return unit
        return None if self._sender.terms.transactional else self._sender

    def _deadline(self, timeout_ms: int | None) -> Deadline:
        return Deadline.of_ms(timeout_ms, self._sender.terms.produce_timeout_ms)

    if not TYPE_CHECKING:  # type checkers find it themselves, but not past a __getattr__

        def __getattr__(self, name: str) -> NoReturn:
            no_attribute(self, name)

    def __reduce__(self) -> NoReturn:
        raise uncopyable(self, "it is lent to one borrower until its block ends. Ask the process's own pool for one")

    def __repr__(self) -> str:
        ledger = self._sender.ledger
        state = f"{len(ledger.pending)} unanswered"
        if ledger.ended:
            state = "returned" if self._sender.vacant is None else "waits for a producer"
        return f"<{type(self).__name__} {self.index} of {self._sender.terms.pool!r}, {state}>"


class InTransaction:
    """What a handle can do inside a transaction.

    Attributes:
        id: Names the transaction in errors and events: its transactional id and a number.
    """

    __slots__ = ()

    _unit: Unit

    @property
    def id(self) -> str:
        """Names the transaction in errors and events: its transactional id and a number."""
        return self._unit.id

    @property
    def remaining_ms(self) -> int:
        """Milliseconds left to commit in: 80 % of ``transaction.timeout.ms`` from the first write on."""
        return self._unit.remaining_ms

    def abort_only(self) -> None:
        """Decide that this transaction will abort when its scope ends, without an error."""
        self._unit.refuse_if_ended()
        self._unit.abort_only = True

    def before_commit(self, fn: Callable[[], object]) -> None:
        """Call ``fn()`` before the commit, still inside the transaction; what it raises aborts."""
        self._hook("before_commit", fn)

    def after_commit(self, fn: Callable[[], object]) -> None:
        """Call ``fn()`` after a commit, once the producer is back; what it raises is an event and a log line."""
        self._hook("after_commit", fn)

    def after_abort(self, fn: Callable[[], object]) -> None:
        """Call ``fn()`` after an abort, once the producer is back; what it raises is an event and a log line."""
        self._hook("after_abort", fn)

    def after_completion(self, fn: Callable[[Outcome], object]) -> None:
        """Call ``fn(outcome)`` after any end: ``"committed"``, ``"aborted"`` or, in doubt, ``"unknown"``."""
        self._hook("after_completion", fn)

    def _hook(self, when: When, fn: Callable[..., object]) -> None:
        self._unit.refuse_if_ended()
        self._unit.hooks.add(when, fn)

    @property
    def _sender(self) -> Unit:
        return self._unit

    def _sending(self) -> Unit:
        return self._unit
