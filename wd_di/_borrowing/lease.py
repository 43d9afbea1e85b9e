"""What a borrower has for its time: a claim with what is lent, and how it ends if nobody ends it."""

from __future__ import annotations

import sys
import threading
import weakref
from asyncio import _get_running_loop
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from wd_di._concurrency.caller import caller
from wd_di._records.connection import Connection, Retirement
from wd_di._records.sender import Sender, inherited, returned
from wd_di._slots.slots import NEW, NOWHERE, Claim
from wd_di.errors import ScopeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    from wd_di._borrowing.policies import Policies
    from wd_di._concurrency.deadline import Deadline
    from wd_di._concurrency.workers import Workers
    from wd_di._records.sender import SendPolicy
    from wd_di._slots.slots import ClaimState, Slot, Waiter
    from wd_di._slots.table import SlotTable
    from wd_di._transactions.options import TransactionOptions
    from wd_di._transactions.transaction import OpenTransaction

H = TypeVar("H")

_PACKAGE = __file__.rpartition("_borrowing")[0]

_BY_STACKS = (ExitStack.enter_context.__code__, AsyncExitStack.enter_async_context.__code__)

TWICE = 2
"""Looks after which what is gone counts as forgotten: its end may be under way at the first."""


class Lends(Protocol):
    """Who lends, and takes back: what a lease asks of its lender."""

    name: str
    table: SlotTable[Connection]
    policies: Policies

    @property
    def jobs(self) -> Workers: ...
    def begins(self, lease: Lease, handle: object, within: Deadline | None, options: TransactionOptions) -> Any: ...
    def recover(self, lease: Lease) -> None: ...
    def forget(self, lease: Lease) -> None: ...


class Opened:
    """The transaction that is open on a lease, for as long as somebody can commit it.

    Attributes:
        transaction: The transaction.
        ref: What its scope has given.
        twin: The same for tasks, or for threads, if somebody asked for that, too.
        scope: The scope; without it nobody can commit any more.
        bound: Whether the lease was there before, and stays.
    """

    __slots__ = ("bound", "looks", "ref", "scope", "transaction", "twin")

    def __init__(self, transaction: OpenTransaction, scope: object, ref: weakref.ref[object], *, bound: bool) -> None:
        self.transaction: OpenTransaction = transaction
        self.scope: weakref.ref[object] = weakref.ref(scope)
        self.ref: weakref.ref[object] = ref
        self.twin: weakref.ref[object] | None = None
        self.bound: bool = bound
        self.looks: int = 0

    @property
    def adrift(self) -> bool:
        """Whether the scope is gone: nobody can leave it any more."""
        return self.scope() is None

    @property
    def over(self) -> bool:
        """Whether what it gave is gone, too: nobody can use it any more."""
        return self.scope() is None and self.ref() is None


class Lease(Claim[Connection]):
    """A borrower's claim on a slot, with what it works with.

    It knows what its borrower holds by a weak reference only. CPython may raise a signal's exception right before the
    first instruction of ``__exit__``, and doesn't call it again (bpo-29988); nor does anybody who has entered by hand
    and kept only what that gave. So a lease ends when that is gone.

    Attributes:
        lender: Who has lent it.
        policy: By which its records are sent.
        table: Where the claim is noted; another one after a fork.
        connection: What is lent.
        outer: What the same thread or task held before.
        over: Whether its time is over.
        vacant: Why it went back, where the borrower asks for another one.
        retirement: Why the producer must not be handed out again.
        touched: Whether a transaction was begun by it, or is about to be. Set before ``over`` is asked, as the end sets
            ``over`` before it asks this: so one of the two sees the other, and an end without it needs no lock.
        sender: Sends outside of transactions, from the first record on.
        opened: The transaction that is open.
    """

    __slots__ = (
        "_at",
        "_code",
        "_place",
        "connection",
        "lender",
        "looks",
        "opened",
        "outer",
        "over",
        "policy",
        "ref",
        "retirement",
        "sender",
        "table",
        "touched",
        "twin",
        "vacant",
    )

    def __init__(self, lender: Lends, owner: object) -> None:  # one call for both classes: it is made at every checkout
        policies = lender.policies
        self.owner: object = owner
        self.state: ClaimState = NEW
        self.slot: Slot[Connection] = NOWHERE
        self.waiter: Waiter | None = None
        self.deadline: Deadline | None = None
        self.error: BaseException | None = None
        self.heard_after: float = 0.0
        self.reported: bool = False
        self._place: str | None = None if policies.slots.leak_after is None else _place()
        try:
            opener = sys._getframe(2)  # noqa: SLF001  (of whoever entered the scope; a walk would cost as much again)
        except ValueError:  # a thread was started with nothing else to do
            opener = sys._getframe(1)  # noqa: SLF001
        if opener.f_code in _BY_STACKS and opener.f_back is not None:
            opener = opener.f_back
        self._code: CodeType = opener.f_code
        self._at: int = opener.f_lasti
        self.lender: Lends = lender
        self.policy: SendPolicy = policies.sending
        self.table: SlotTable[Connection] = lender.table
        self.connection: Connection | None = None
        self.outer: Lease | None = None
        self.over: bool = False
        self.touched: bool = False
        self.vacant: Retirement | None = None
        self.retirement: Retirement | None = None
        self.sender: Sender | None = None
        self.opened: Opened | None = None
        self.ref: weakref.ref[object] | None = None
        self.twin: weakref.ref[object] | None = None
        self.looks: int = 0

    @property
    def place(self) -> str | None:
        """The line that opened the scope; the package's own lines tell nobody anything."""
        if self._place is None:
            code, at = self._code, self._at
            if not code.co_filename.startswith(_PACKAGE):
                line = next((line for start, end, line in code.co_lines() if start <= at < end), None)
                self._place = f"{code.co_filename}:{line or code.co_firstlineno}"
        return self._place

    # -- for handles -------------------------------------------------------------------------------

    def handle(self, kind: type[H], in_transaction: type[H]) -> H:
        """Return what a thread, or a task, works with: the open transaction, else the producer; always the same object.

        Args:
            kind: What is made of a lease.
            in_transaction: What is made of a lease and its open transaction.
        """
        opened = self.opened
        place: Lease | Opened = self if opened is None else opened
        make: Any = kind if opened is None else in_transaction
        for ref in (place.ref, place.twin):
            known: Any = None if ref is None else ref()
            if isinstance(known, make):
                return cast("H", known)
        kept = None if place.ref is None else place.ref()
        twin: H = make(self, kept) if opened is None else make(self, kept, opened.transaction)
        place.twin = weakref.ref(twin)
        return twin

    def open_transaction(self) -> OpenTransaction | None:
        """Return the transaction that is open here.

        Raises:
            ScopeError: Another thread or task has opened it: whoever shares the producer mustn't slip into it.
        """
        opened = self.opened
        if opened is None:
            return None
        transaction = opened.transaction
        if transaction.owner is not caller():
            raise ScopeError(
                f"{self.lender.name}: transaction {transaction.id} is open in another thread or task, on this "
                "producer: use the transaction itself, or a producer of your own"
            )
        if opened.adrift:
            self.end_transaction(opened)
            return None
        return transaction

    def sending(self) -> Sender | None:
        """Who sends now: the open transaction, else the producer itself; nobody, where a call must open one."""
        if self.sender is not None:  # so there are no transactions
            return self.sender
        if self.opened is not None and (transaction := self.open_transaction()) is not None:
            return transaction
        return None if self.policy.transactional else self._begin_sending()

    def _begin_sending(self) -> Sender:
        with self.gate:  # two threads may begin
            if self.over or self.connection is None:
                raise self.returned()
            if self.sender is None:
                self.sender = Sender(self.connection, self.policy)
            sender = self.sender
        if self.over:  # meanwhile: whoever ended it looked for no sender before this one was there
            sender.end()
            raise self.returned()
        return sender

    @property
    def gate(self) -> threading.RLock:
        """Held by whoever begins to send, or ends the lease; after a fork another one, for it may stay held."""
        return self.slot.gate if self.table is self.lender.table else threading.RLock()

    def refuse_if_ended(self) -> None:
        """Raise if it has no producer any more."""
        if self.over:
            raise self.returned()

    def refuse_if_over(self) -> None:
        """Raise if this borrower's time is over, and not only that of a producer whose successor it asks for."""
        if self.over and self.vacant is None:
            raise self.returned()

    def returned(self) -> Exception:
        """Return what is raised when the time is over."""
        if self.table is not self.lender.table:
            return inherited(self.lender.name, self.slot.index)
        return returned(self.lender.name, self.slot.index)

    @property
    def condition(self) -> str:
        """What is to be seen of it."""
        if self.over:
            return "returned" if self.vacant is None else "waits for a producer"
        return self.sender.condition if self.sender is not None else "0 unanswered"

    def begins(self, handle: object, within: Deadline | None, options: TransactionOptions) -> Any:
        """Return a transaction to come, on this very slot.

        Args:
            handle: What it was asked of, and which it keeps: with the last one the lease ends.
            within: The deadline of a call that is a transaction of its own.
            options: Its options.
        """
        return self.lender.begins(self, handle, within, options)

    def leave_to_parent(self) -> None:
        """In a forked child: neither a producer nor a transaction is open here, whatever the borrower has kept."""
        if self.opened is not None:
            self.opened.transaction.leave_to_parent()
        self.over, self.vacant, self.opened, self.ref = True, None, None, None

    def transaction_ended(self) -> None:
        """Another one may begin."""
        self.opened = None

    # -- the end that nobody makes -----------------------------------------------------------------

    def abandoned(self, _: object) -> None:
        """What the borrower held is gone."""
        self._end_somewhere(self.end)

    def transaction_abandoned(self, ref: object) -> None:
        """What the borrower held of a transaction is gone."""
        opened = self.opened
        if opened is not None and opened.ref is ref:
            self._end_somewhere(lambda: self.end_transaction(opened))

    def overdue(self) -> Callable[[], object] | None:
        """Return what ends it, if its borrower was gone already at the last look: a signal's exception came in, too.

        It says so once, and is asked by a thread on which no signal's handler runs.
        """
        opened = self.opened
        if opened is not None and opened.bound:
            opened.looks = opened.looks + 1 if opened.over else 0
            if opened.looks == TWICE:
                return lambda: self.end_transaction(opened)
        self.looks = self.looks + 1 if self.forgotten else 0
        return self.end if self.looks == TWICE else None

    @property
    def forgotten(self) -> bool:
        """Whether nobody can give it back any more."""
        return self.ref is not None and self.ref() is None

    def end(self) -> None:
        """Give back what a scope has taken that is gone without its exit; harmless when it is back.

        Not under a transaction with a scope of its own: that one gives the slot back, see :meth:`end_if_over`.
        """
        opened = self.opened
        if opened is not None and opened.bound and not opened.over:
            return
        try:
            aborted = opened is not None and self._abort(opened.transaction)
        finally:
            self.lender.recover(self)
        if opened is not None and aborted:
            run_hooks(opened.transaction)

    def end_transaction(self, opened: Opened) -> None:
        """End only this transaction, as :meth:`end` does."""
        if self._abort(opened.transaction):
            run_hooks(opened.transaction)
        if opened.bound:
            self.end_if_over()
        else:
            self.lender.recover(self)

    def end_if_over(self) -> None:
        """Give the slot back after a transaction, if its borrower is gone meanwhile."""
        if self.forgotten:
            self.end()

    def _abort(self, transaction: OpenTransaction) -> bool:
        """Abort what is open, once, though the collector, the poller and the borrower's next scope may all come here.

        After the first of them the producer is somebody else's. Those that come meanwhile wait for it.
        """
        with transaction.connection.ending:
            if transaction.closed:
                return False
            try:
                transaction.finish(GeneratorExit(), ())
            finally:
                self.retirement = self.retirement or transaction.retirement
            return True

    def _end_somewhere(self, end: Callable[[], None]) -> None:
        """Call ``end`` for the collector, which may run in any thread, between any two steps.

        On a worker, if it may block and its transaction isn't that of the thread at hand.
        """
        if sys.is_finalizing():  # the pool is closed, its clients are given up, and no thread would ever begin
            return
        opened = self.opened
        if opened is None or (_get_running_loop() is None and opened.transaction.owner is caller()):
            end()
            return
        if not opened.bound or end == self.end:  # its thread or task has nothing to wait for
            self.lender.forget(self)
        self.lender.jobs.submit(end)


def run_hooks(transaction: OpenTransaction) -> None:
    """Run the hooks of a transaction that its scope doesn't end; a task's need its loop."""
    if not isinstance(transaction.owner, weakref.ref):
        transaction.run_hooks()


def _place() -> str:
    """The caller's line, outside of this package."""
    frame: Any = sys._getframe(1)  # noqa: SLF001  (a whole stack would cost 100 µs)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("wd_di."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "unknown"
