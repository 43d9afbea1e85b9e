"""How a thread or a task borrows a producer, waits its turn, and gives back."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import weakref
from asyncio import _get_running_loop
from contextlib import contextmanager
from threading import current_thread
from typing import TYPE_CHECKING, Final

from wd_di._borrowing.handles import AsyncProducer, AsyncTransaction, Producer, Transaction
from wd_di._borrowing.lease import Lease
from wd_di._borrowing.refusals import counts, failed, timed_out
from wd_di._borrowing.unopened import Scope, open_already
from wd_di._concurrency.caller import caller, refuse_in_trio, refuse_outside_of_a_task
from wd_di._concurrency.deadline import Deadline, check_timeout
from wd_di._concurrency.waiters import TaskWaiter, ThreadWaiter
from wd_di._records.connection import Retirement
from wd_di._slots.slots import GRANTED
from wd_di._slots.table import SlotTable
from wd_di.errors import PoolClosedError, PoolExhaustedError, ScopeError, WdDiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from wd_di._borrowing.handles import TransactionScope
    from wd_di._borrowing.policies import Policies
    from wd_di._concurrency.workers import Workers
    from wd_di._records.connection import Connection
    from wd_di._slots.housekeeping import Housekeeper
    from wd_di._slots.slots import Waiter
    from wd_di._transactions.options import TransactionOptions

    Begin = Callable[["Lender", Lease, object, "Deadline | None", TransactionOptions], TransactionScope]

AGED: Final = "transactional_id_expiry_ms"
"""Why a producer is retired whose id the broker may have forgotten."""


class Lender:
    """Where borrowers come to: it knows who holds what in which thread or task.

    Args:
        house: Who looks after the slots; a forked child gets another one.
        policies: By which it lends.
        begin: Makes a transaction to come, on a lease.

    Attributes:
        stale: Whether a fork came since ids were made; the next borrower's pool makes new ones first.
    """

    def __init__(self, house: Housekeeper, policies: Policies, begin: Begin) -> None:
        self.name: str = house.name
        self.house: Housekeeper = house
        self.table: SlotTable[Connection] = house.table
        self.policies: Policies = policies
        self.held: dict[object, Lease] = {}
        self.stale: bool = False
        self._begin = begin
        self._waiting: dict[threading.Thread, object] = {}

    def apply(self, policies: Policies) -> None:
        """Lend by these from now on."""
        self.policies = policies

    def leave_to_parent(self) -> None:
        """After a fork nobody in the child holds anything, and nothing is lent: the pool may be gone."""
        self.table, self.held = SlotTable(self.name, self.policies.slots), {}
        self.table.close()

    def start_anew(self, house: Housekeeper) -> None:
        """Lend other slots: the pool is there, in the child, too."""
        self.house, self.table = house, house.table

    # -- who holds what ----------------------------------------------------------------------------

    def current(self) -> Lease | None:
        """What the calling thread or task holds, the innermost; child tasks and other threads inherit nothing."""
        while (lease := self.held.get(caller())) is not None:
            opened = lease.opened
            if opened is not None and opened.adrift:  # nobody can commit it, though somebody may still have it
                lease.end_transaction(opened)
            elif opened is None and lease.forgotten:
                lease.end()
            else:
                return lease
        return None

    def holds(self) -> int:
        """How many slots the calling thread or task holds, or the task that waits for this thread."""
        count, lease = 0, self.held.get(self._waiting.get(threading.current_thread(), caller()))
        while lease is not None:
            count, lease = count + (lease.state is GRANTED), lease.outer
        return count

    @contextmanager
    def working_for(self, borrower: object) -> Iterator[None]:
        """Let this thread's questions after what it holds be those of a task that waits for it."""
        self._waiting[threading.current_thread()] = borrower
        try:
            yield
        finally:
            del self._waiting[threading.current_thread()]

    def forget(self, lease: Lease) -> None:
        """Unlink the lease, also when scopes end in another order than they began; harmless when it isn't linked."""
        top = self.held.get(lease.owner)
        if top is lease:
            if lease.outer is None:
                del self.held[lease.owner]
            else:
                self.held[lease.owner] = lease.outer
            return
        while top is not None and top.outer is not lease:
            top = top.outer
        if top is not None:
            top.outer = lease.outer

    # -- lending -----------------------------------------------------------------------------------

    def borrow(self, lease: Lease, keeper: object, timeout_ms: int | None, *, ambient: bool = True) -> None:
        """Take a slot, at once or in turn: see :meth:`take` and :meth:`wait`."""
        if not self.take(lease, keeper, ambient):
            self.wait(lease, timeout_ms, ambient)

    def take(self, lease: Lease, keeper: object, ambient: bool) -> bool:  # noqa: FBT001  (a keyword costs as much as a lock)
        """Take an idle slot whose producer is fit, at once; false if there is none, which the two below are for.

        Args:
            lease: What gets it.
            keeper: With what the lease ends, if nobody ends it.
            ambient: Whether nested calls of the same thread or task find it.

        Raises:
            PoolClosedError: The pool is closed.
        """
        try:
            lease.ref = weakref.ref(keeper, lease.abandoned)
            table = self.table
            if not table.take(lease):
                return False
            slot, lifetime = lease.slot, table.policy.id_lifetime
            connection = slot.connection
            if connection is None or connection.client.fault is not None:
                return False
            if lifetime is not None and lease.since - slot.heard_at >= lifetime:
                return False
            lease.connection = connection
            if ambient:
                owner, held = lease.owner, self.held
                lease.outer = held.get(owner)
                held[owner] = lease
        except BaseException as error:
            self._abandon(lease, error)
            raise
        return True

    def wait(self, lease: Lease, timeout_ms: int | None, ambient: bool) -> None:  # noqa: FBT001  (as above)
        """Wait for a slot behind all others.

        Args:
            lease: What gets it, after :meth:`take`.
            timeout_ms: Milliseconds to wait; ``None`` is the pool's setting.
            ambient: As above.

        Raises:
            PoolTimeoutError: None came free, or none could be connected, in time.
            PoolExhaustedError: The caller holds one already, and waiting for another could wait for ever.
            PoolClosedError, PoolOpenError, PoolUnhealthyError: There is nothing to wait for.
        """
        try:
            for deadline in self._until_lent(lease, timeout_ms):
                self._wait(lease, deadline)
            if ambient:
                self._remember(lease)
        except BaseException as error:
            self._abandon(lease, error)
            raise

    async def wait_async(self, lease: Lease, timeout_ms: int | None, ambient: bool) -> None:  # noqa: FBT001  (as above)
        """Wait for a slot from a task, as :meth:`wait` does; cancelled meanwhile, it leaves nothing behind."""
        try:
            for deadline in self._until_lent(lease, timeout_ms):
                await self._wait_async(lease, deadline)
            if ambient:
                self._remember(lease)
        except BaseException as error:
            self._abandon(lease, error)
            raise

    def _remember(self, lease: Lease) -> None:
        """Let nested calls of the same thread or task find it."""
        lease.outer = self.held.get(lease.owner)
        self.held[lease.owner] = lease

    def _until_lent(self, lease: Lease, timeout_ms: int | None) -> Iterator[Deadline]:
        """Yield until when to wait, until the lease has a producer that is fit."""
        deadline: Deadline | None = None
        while lease.state is not GRANTED or (flaw := self._equip(lease)) is not None:
            if lease.state is GRANTED:
                self._release(lease, flaw)
                if self.table.take(lease):
                    continue
            if deadline is None:
                deadline = self._patience(timeout_ms)
            yield deadline

    def give_back(self, lease: Lease) -> None:
        """Return the slot; harmless when it was taken back by force, or when this is a child after a fork."""
        table = self.table
        if lease.table is not table:  # from before a fork, with a gate that nobody may ever open
            lease.over, lease.vacant, lease.ref = True, None, None
            return
        try:
            lease.over = True
            lease.vacant = None
            if lease.touched:
                with lease.slot.gate:  # whoever began before it was over has begun
                    pass
            if lease.sender is not None:
                lease.sender.end()
            if lease.outer is None and self.held.get(lease.owner) is lease:
                del self.held[lease.owner]
            else:
                self.forget(lease)
            connection, retirement = lease.connection, lease.retirement
            if retirement is None and connection is not None:
                client = connection.client
                if client.fault is not None or client.in_transaction:
                    retirement = connection.unfit()
            effects = table.release(lease, retirement)
            if effects is not None:
                self.house.hand_over(effects)
            lease.ref = None
        except BaseException:  # a signal's, between any two steps; each of them may be taken twice
            table.disturbed = True
            lease.over, lease.vacant = True, None
            if lease.sender is not None:
                lease.sender.end()
            self.forget(lease)
            self._release(lease, lease.retirement or (None if lease.connection is None else lease.connection.unfit()))
            lease.ref = None
            self._mend()
            raise

    def recover(self, lease: Lease) -> None:
        """Return the slot of a borrower that is gone, however far it had come. Its producer isn't lent again.

        The collector may be at work, inside of any lock: so the poller tells.
        """
        if lease.connection is not None:
            if lease.table is self.table and lease.state is GRANTED:
                lease.retirement = lease.retirement or Retirement("checkout lost")
                self.house.lost.append((lease, time.monotonic()))
                self.house.nudge()
            self.give_back(lease)
        else:
            lease.ref = None
            self._release(lease)

    def begins(
        self, lease: Lease, handle: object, within: Deadline | None, options: TransactionOptions
    ) -> TransactionScope:
        """Return a transaction to come on the lease; see :meth:`Lease.begins`."""
        return self._begin(self, lease, handle, within, options)

    @property
    def jobs(self) -> Workers:
        """Who does what would block a loop."""
        return self.house.jobs

    # -- another producer for who holds one --------------------------------------------------------

    def flaw(self, lease: Lease) -> Retirement | None:
        """Why a held producer is to be exchanged before another transaction.

        Its id was forgotten, or may have been, or it was spent on finding out what became of a commit.
        """
        if lease.table is not self.table:
            return None
        if lease.over:
            return lease.vacant
        if lease.retirement is not None:
            return lease.retirement if lease.retirement.expired or lease.retirement.spent else None
        return Retirement(AGED) if self.table.outlived(lease) else None

    def exchange(self, lease: Lease, timeout_ms: int | None) -> None:
        """Let the holder go on with another producer; without one in time it has none, and may ask again.

        Raises:
            PoolTimeoutError: None came free, or could be connected, in time.
            PoolOpenError: There is nothing to wait for.
            PoolClosedError: Nor will there be; the lease has ended.
        """
        deadline = self._patience(timeout_ms)
        flaw = self._end(lease)
        try:
            for each in self._until_fit(lease, flaw):
                waiter, lease.deadline = ThreadWaiter(), deadline
                self._swap(lease, each, waiter)
                waiter.wait(deadline.left)
                self._waited(lease, deadline)
        except BaseException as error:
            self._not_exchanged(lease, flaw, error)
            raise

    async def exchange_async(self, lease: Lease, timeout_ms: int | None) -> None:
        """Let a task go on with another producer, as :meth:`exchange` does."""
        deadline = self._patience(timeout_ms)
        flaw = self._end(lease)
        try:
            for each in self._until_fit(lease, flaw):
                waiter, lease.deadline = TaskWaiter(), deadline
                self._swap(lease, each, waiter)
                await waiter.wait(deadline.left)
                self._waited(lease, deadline)
        except BaseException as error:
            self._not_exchanged(lease, flaw, error)
            raise

    def _end(self, lease: Lease) -> Retirement | None:
        """End the lease of a producer that won't do, and say why; once, for two threads may share the lease."""
        with lease.gate:
            flaw = self.flaw(lease)
            if flaw is not None:
                lease.over, lease.vacant = True, None
            elif lease.over:
                raise lease.returned()
            return flaw

    def _until_fit(self, lease: Lease, flaw: Retirement | None) -> Iterator[Retirement]:
        """Yield why the lease's present producer won't do, until it has one that does."""
        while flaw is not None:
            yield flaw
            flaw = self._equip(lease)

    def _swap(self, lease: Lease, flaw: Retirement, waiter: Waiter) -> None:
        lease.waiter, lease.error = waiter, None
        self.house.carry_out(self.table.exchange(lease, flaw))
        self.house.nudge()

    def _not_exchanged(self, lease: Lease, flaw: Retirement | None, error: BaseException) -> None:
        """Give back what has come too late; the lease stands, unless the pool is closed or a signal came."""
        if isinstance(error, PoolClosedError) or not isinstance(error, (WdDiError, asyncio.CancelledError)):
            self._abandon(lease, error)
            return
        if not self.table.withdraw(lease):
            self._release(lease)
        lease.over, lease.vacant = True, flaw

    # -- steps -----------------------------------------------------------------------------------

    def _patience(self, timeout_ms: int | None) -> Deadline:
        return Deadline.of_ms(timeout_ms, self.policies.settings.timeout_ms)

    def _equip(self, lease: Lease) -> Retirement | None:
        """Let the lease send by its slot's producer, unless that broke or aged while idle, unseen by the poller."""
        connection = lease.slot.connection
        if connection is None:  # a forced close was faster than this thread
            raise PoolClosedError(f"{self.name}: the pool is closed")
        if connection.client.fault is not None:
            return connection.broken()
        if self.table.expired(lease):  # the poller couldn't renew it in time, as after SIGSTOP
            return lease.retirement or Retirement(AGED)
        lease.connection, lease.sender, lease.retirement = connection, None, None
        lease.over, lease.vacant = False, None
        return None

    def _release(self, lease: Lease, retirement: Retirement | None = None) -> None:
        if lease.table is self.table and (effects := self.table.release(lease, retirement)) is not None:
            self.house.hand_over(effects)

    def _abandon(self, lease: Lease, error: BaseException) -> None:
        """Give back whatever the lease has by now: an interrupt may come between any two steps."""
        ordinary = isinstance(error, (WdDiError, asyncio.CancelledError))
        table, known = self.table, self.table.disturbed
        table.disturbed = True  # until it is done, since one may come here, too
        if not table.withdraw(lease):
            self.forget(lease)
            self._release(lease)
        lease.over, lease.vacant, lease.ref = True, None, None
        if ordinary:
            table.disturbed = known
        else:
            self._mend()

    def _mend(self) -> None:
        """Finish what the table decided and nobody has carried out. If that is interrupted, too, the poller does it."""
        self.table.disturbed = True
        self.house.carry_out(self.table.mend())

    # -- waiting -----------------------------------------------------------------------------------

    def _wait(self, lease: Lease, deadline: Deadline) -> None:
        self._refuse_second(lease)
        if _get_running_loop() is not None and not self.policies.settings.allow_blocking_in_loop:
            raise ScopeError(
                f"{self.name}: no producer is idle, and waiting would block this thread's event loop: use 'async with'"
            )
        waiter, lease.deadline = ThreadWaiter(), deadline
        self._queue(lease, waiter)
        waiter.wait(deadline.left)
        self._waited(lease, deadline)

    async def _wait_async(self, lease: Lease, deadline: Deadline) -> None:
        self._refuse_second(lease)
        waiter, lease.deadline = TaskWaiter(), deadline
        self._queue(lease, waiter)
        await waiter.wait(deadline.left)
        self._waited(lease, deadline)

    def _refuse_second(self, lease: Lease) -> None:
        if lease.owner in self.held:
            raise PoolExhaustedError(
                f"{self.name}: no second producer is idle, and the caller holds one already: waiting could wait for "
                f"itself ({counts(self.table)})"
            )

    def _queue(self, lease: Lease, waiter: Waiter) -> None:
        lease.waiter = waiter
        house = self.house
        house.start()
        effects = self.table.wait(lease)
        if effects is not None:  # else it waits for a return, whatever the poller does
            house.carry_out(effects)
            house.nudge()

    def _waited(self, lease: Lease, deadline: Deadline) -> None:
        lease.waiter = None
        if lease.state is GRANTED:
            return
        if self.table.withdraw(lease, timed_out=True):
            raise timed_out(self.house, self.policies, deadline)
        if lease.error is not None:
            raise failed(self.name, lease.error)


class Checkout(Scope[Producer, AsyncProducer]):
    """A producer to come: ``with pool.producer() as producer``.

    Nested in the same thread or task it gives the producer that is held already, and inside an open transaction that
    transaction; the inner exit then ends nothing.
    """

    __slots__ = ("_ambient", "_handle", "_lease", "_lender", "_timeout_ms")

    def __init__(self, lender: Lender, timeout_ms: int | None, *, ambient: bool = True) -> None:
        if timeout_ms is not None:
            check_timeout(timeout_ms, 0)
        self._lender = lender
        self._timeout_ms = timeout_ms
        self._ambient = ambient
        self._handle: object = None  # while it is open: with the last one its lease ends
        self._lease: Lease | None = None

    def begin(self, *, ambient: bool = True) -> Checkout:
        """Return another one like it, unopened."""
        return Checkout(self._lender, self._timeout_ms, ambient=ambient)

    def __enter__(self) -> Producer:
        if self._handle is not None:
            raise open_already(self)
        lender = self._lender
        modules = sys.modules
        if "trio.lowlevel" in modules:
            refuse_in_trio(lender.name)
        greenlet = modules.get("greenlet")  # as in caller(), which would be a third of all calls here
        apart = _get_running_loop() is not None or (greenlet is not None and greenlet.getcurrent().parent is not None)
        owner = caller() if apart else current_thread()
        if self._ambient and owner in lender.held and (held := lender.current()) is not None:
            joined = self._handle = held.handle(Producer, Transaction)
            return joined
        lease = Lease(lender, owner)
        producer = self._handle = Producer(lease)
        try:
            if not lender.take(lease, producer, self._ambient):
                lender.wait(lease, self._timeout_ms, self._ambient)
            self._lease = lease
        except BaseException:  # a signal's, or what it was refused for: Python leaves only what it has entered
            self._handle = None
            if lease.connection is not None:
                lender.give_back(lease)
            raise
        return producer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lease is not None:
            self._lender.give_back(self._lease)
            self._lease = None
        self._handle = None

    async def __aenter__(self) -> AsyncProducer:
        if self._handle is not None:
            raise open_already(self)
        lender = self._lender
        refuse_outside_of_a_task(lender.name)
        owner = caller()
        if self._ambient and owner in lender.held and (held := lender.current()) is not None:
            joined = self._handle = held.handle(AsyncProducer, AsyncTransaction)
            return joined
        lease = Lease(lender, owner)
        producer = self._handle = AsyncProducer(lease)
        try:
            if not lender.take(lease, producer, self._ambient):  # apart, for a coroutine costs half a checkout
                await lender.wait_async(lease, self._timeout_ms, self._ambient)
            self._lease = lease
        except BaseException:  # as above
            self._handle = None
            if lease.connection is not None:
                lender.give_back(lease)
            raise
        return producer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)  # giving back contains no await, so no cancellation can come between

    def __repr__(self) -> str:
        return f"producer of pool {self._lender.name!r}"
