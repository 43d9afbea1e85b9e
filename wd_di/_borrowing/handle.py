"""What all that borrowers hold has in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from wd_di._concurrency.caller import refuse_on_loop
from wd_di._hints import no_attribute
from wd_di.errors import uncopyable

if TYPE_CHECKING:
    from wd_di._concurrency.deadline import Deadline
    from wd_di._records.connection import Connection
    from wd_di._records.sender import Sender, SendPolicy
    from wd_di._slots.slots import Slot
    from wd_di._transactions.options import TransactionOptions


class Via(Protocol):
    """By what a handle sends: a lease, or the transaction that it stands for."""

    policy: SendPolicy

    def sending(self) -> Sender | None: ...
    def refuse_if_over(self) -> None: ...


class Lent(Via, Protocol):
    """What a handle knows of the lease it works under."""

    slot: Slot[Connection]
    connection: Connection | None

    @property
    def condition(self) -> str: ...
    def begins(self, handle: object, within: Deadline | None, options: TransactionOptions) -> Any: ...


class Handle:
    """A borrower's hold on a producer, for as long as its block lasts.

    Args:
        lease: What it works under.
        keeps: The handle for which this one is the twin, and which lives as long.
    """

    __slots__ = ("__weakref__", "_keeps", "_lease", "_via")

    def __init__(self, lease: Lent, keeps: object = None) -> None:
        self._lease = lease
        self._via: Via = lease
        self._keeps = keeps

    @property
    def index(self) -> int:
        """The slot's, zero-based."""
        return self._lease.slot.index

    def _refuse_on_loop(self, what: str) -> None:
        policy = self._via.policy
        if not policy.allow_blocking_in_loop:
            refuse_on_loop(what, policy.pool)

    def _condition(self) -> str:
        return self._lease.condition

    if not TYPE_CHECKING:  # type checkers find it themselves, but not past a __getattr__

        def __getattr__(self, name: str) -> NoReturn:
            no_attribute(self, name)

    def __reduce__(self) -> NoReturn:
        raise uncopyable(self, "it is lent to one borrower until its block ends. Ask the process's own pool for one")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.index} of {self._via.policy.pool!r}, {self._condition()}>"
