"""How a thread or a task borrows a slot, waits its turn, and gives back."""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from asyncio import _get_running_loop
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wd_di._async_producer import AsyncProducer
from wd_di._async_transaction import AsyncTransaction
from wd_di._client import Kind
from wd_di._core import Lease, LeaseState, Retirement
from wd_di._green import current_greenlet
from wd_di._loop import TaskWaiter, refuse_in_trio, refuse_outside_of_a_task
from wd_di._producer import Producer
from wd_di._recipe import Recipe
from wd_di._sender import Sender
from wd_di._threads import Deadline, ThreadWaiter, check_timeout
from wd_di._transaction import Transaction
from wd_di._watch import Watch, watch
from wd_di.errors import PoolClosedError, PoolExhaustedError, PoolOpenError, PoolTimeoutError, ScopeError, WdDiError
from wd_di.events import CheckoutTimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Unpack

    from wd_di._client import Client, Fault
    from wd_di._core import Core, Waiter
    from wd_di._keeper import Keeper
    from wd_di._scope import TransactionOptions, TransactionScope
    from wd_di._unit import Unit


AGED = "transactional_id_expiry_ms"
"""Why a producer is retired whose id the broker may have forgotten."""


class Hold(Lease):
    """A borrower's lease with what the borrower works with."""

    __slots__ = (
        "_async_producer",
        "_keeper",
        "_producer",
        "ambient",
        "core",
        "retirement",
        "sender",
        "unit",
        "watch",
    )

    sender: Sender

    def __init__(self, owner: object, keeper: Keeper, place: str | None) -> None:
        super().__init__(owner, place)
        self.core: Core = keeper.core
        self.ambient: bool = False
        self.retirement: Retirement | None = None
        self.unit: Unit | None = None
        self.watch: Watch | None = None
        self._keeper = keeper
        self._producer: Producer | weakref.ref[Producer] | None = None
        self._async_producer: AsyncProducer | weakref.ref[AsyncProducer] | None = None

    def handle(self) -> Producer:
        """What a thread works with: the open transaction, else the producer; always the same object."""
        unit = self.unit
        if unit is not None:
            unit.face = unit.face or Transaction(self, unit)
            return unit.face
        producer = self._producer
        if isinstance(producer, weakref.ref):
            return producer() or Producer(self)
        if producer is None:
            producer = self._producer = Producer(self)
        return producer

    def async_handle(self) -> AsyncProducer:
        """What a task works with."""
        unit = self.unit
        if unit is not None:
            unit.async_face = unit.async_face or AsyncTransaction(self, unit)
            return unit.async_face
        producer = self._async_producer
        if isinstance(producer, weakref.ref):
            return producer() or AsyncProducer(self)
        if producer is None:
            producer = self._async_producer = AsyncProducer(self)
        return producer

    def let_go(self) -> object:
        """Return what works with it, and keep it alive no longer; nested scopes still give it."""
        for name in ("_async_producer", "_producer"):
            handle = getattr(self, name)
            if handle is not None:
                setattr(self, name, weakref.ref(handle))
                return handle
        return self.unit and self.unit.let_go()

    def end(self) -> None:
        """End what a scope has begun that is gone without its exit; harmless when it has ended.

        Not under a transaction with a scope of its own: that one gives the slot back, see :meth:`end_if_over`.
        """
        unit = self.unit
        seen = unit.watch if unit is not None else None
        if seen is not None and seen is not self.watch and not seen.over:
            return
        try:
            aborted = unit is not None and self._abort(unit)
        finally:
            self._keeper.desk.recover(self)
        if aborted:
            _run_hooks(unit)

    def end_unit(self, unit: Unit) -> None:
        """End only this transaction, as :meth:`end` does."""
        if self._abort(unit):
            _run_hooks(unit)
        self.end_if_over()

    def end_if_over(self) -> None:
        """Give the slot back after a transaction, if its borrower is gone meanwhile."""
        if self.watch is not None and self.watch.over:
            self.end()

    def call_for_collector(self, end: Callable[[], None]) -> None:
        """Call ``end``; on a worker, if it may block and its transaction isn't that of the thread at hand."""
        unit = self.unit
        if sys.is_finalizing():  # the pool is closed, its clients are given up, and no thread would ever begin
            return
        if unit is None or (_get_running_loop() is None and unit.owner is owner()):
            end()
            return
        if end == self.end:  # its thread or task has nothing to wait for
            self._keeper.desk.forget(self)
        self._keeper.terms.jobs.submit(end)

    def _abort(self, unit: Unit) -> bool:
        """Abort what is open, once, though the collector, the poller and the borrower's next scope may all come here.

        After the first of them the producer is somebody else's. Those that come meanwhile wait for it.
        """
        with unit.ending:
            if self.unit is not unit:
                return False
            try:
                unit.finish(GeneratorExit(), ())
            finally:
                self.retirement = self.retirement or unit.retirement
            return True

    def open_unit(self) -> Unit | None:
        """Return the transaction that is open here.

        Raises:
            ScopeError: Another thread or task has opened it: whoever shares the producer mustn't slip into it.
        """
        unit = self.unit
        if unit is not None and unit.owner is not owner():
            raise ScopeError(
                f"{self._keeper.name}: transaction {unit.id} is open in another thread or task, on this producer: use "
                "the transaction itself, or a producer of your own"
            )
        if unit is not None and unit.watch is not None and unit.watch.adrift:
            unit.watch.end()
            return None
        return unit

    def scope(self, **options: Unpack[TransactionOptions]) -> TransactionScope:
        """Return a transaction to come, on this very slot."""
        return self._keeper.scope(self, **options)


class Desk:
    """Where borrowers come to: it knows who holds what in which thread or task."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self._held: dict[object, Lease] = {}
        self._waiting: dict[threading.Thread, object] = {}

    def current(self) -> Hold | None:
        """What the calling thread or task holds, the innermost; child tasks and other threads inherit nothing."""
        hold = self._held.get(owner())
        if hold is None:
            return None
        assert isinstance(hold, Hold)  # noqa: S101  (nothing else is put in)
        seen, unit = hold.watch, hold.unit
        if unit is not None:  # nobody can commit it any more, though somebody may still have it
            seen = unit.watch
        if seen is not None and (seen.adrift if unit is not None else seen.over):
            seen.end()
            return self.current()
        return hold

    def borrow(self, timeout_ms: int | None, *, ambient: bool, scope: object = None) -> Hold:
        """Take a slot, at once or in turn, for as long as the scope lives, if there is one.

        Raises:
            PoolTimeoutError: None came free, or none could be connected, in time.
            PoolExhaustedError: The caller holds one already, and waiting for another could wait for ever.
            PoolClosedError, PoolOpenError, PoolUnhealthyError: There is nothing to wait for.
        """
        timeout_ms = check_timeout(timeout_ms, self.keeper.settings.timeout_ms)
        deadline = Deadline(timeout_ms / 1000)
        while True:
            hold = self._request(scope)
            try:
                if not hold.core.take(hold):
                    self._wait(hold, timeout_ms, deadline)
                if self._equipped(hold, ambient=ambient):
                    return hold
            except BaseException as error:
                self._abandon(hold, error)
                raise

    async def borrow_async(self, timeout_ms: int | None, *, ambient: bool, scope: object) -> Hold:
        """Take a slot from a task, as :meth:`borrow` does; cancelled while it waits, it leaves nothing behind."""
        timeout_ms = check_timeout(timeout_ms, self.keeper.settings.timeout_ms)
        deadline = Deadline(timeout_ms / 1000)
        while True:
            hold = self._request(scope)
            try:
                if not hold.core.take(hold):
                    await self._wait_async(hold, timeout_ms, deadline)
                if self._equipped(hold, ambient=ambient):
                    return hold
            except BaseException as error:
                self._abandon(hold, error)
                raise

    def flaw(self, hold: Hold) -> Retirement | None:
        """Why a held producer is to be exchanged before another transaction: its id was forgotten, or may have been."""
        if hold.core is not self.keeper.core:
            return None
        if hold.sender.ledger.ended:
            return hold.sender.vacant
        if hold.retirement is not None:
            return hold.retirement if hold.retirement.expired else None
        return Retirement(AGED) if hold.core.outlived(hold) else None

    def exchange(self, hold: Hold, timeout_ms: int | None) -> None:
        """Let the holder go on with another producer; without one in time it has none, and may ask again.

        Raises:
            PoolTimeoutError: None came free, or could be connected, in time.
            PoolOpenError: There is nothing to wait for.
            PoolClosedError: Nor will there be; the hold has ended.
        """
        timeout_ms = check_timeout(timeout_ms, self.keeper.settings.timeout_ms)
        deadline = Deadline(timeout_ms / 1000)
        flaw = self._end(hold)
        try:
            for each in self._until_fit(hold, flaw):
                waiter, hold.deadline = ThreadWaiter(), deadline
                self._swap(hold, each, waiter)
                waiter.wait(deadline.left)
                self._waited(hold, timeout_ms)
        except BaseException as error:
            self._not_exchanged(hold, flaw, error)
            raise

    async def exchange_async(self, hold: Hold, timeout_ms: int | None) -> None:
        """Let a task go on with another producer, as :meth:`exchange` does."""
        timeout_ms = check_timeout(timeout_ms, self.keeper.settings.timeout_ms)
        deadline = Deadline(timeout_ms / 1000)
        flaw = self._end(hold)
        try:
            for each in self._until_fit(hold, flaw):
                waiter, hold.deadline = TaskWaiter(), deadline
                self._swap(hold, each, waiter)
                await waiter.wait(deadline.left)
                self._waited(hold, timeout_ms)
        except BaseException as error:
            self._not_exchanged(hold, flaw, error)
            raise

    def give_back(self, hold: Hold) -> None:
        """Return the slot; harmless when it was taken back by force, or when this is a child after a fork."""
        try:
            hold.sender.end()
            if hold.ambient:
                self.forget(hold)
            self._release(hold, hold.retirement or _unfit(hold.sender.client))
            hold.watch = None
        except BaseException:  # a signal's, between any two steps; each of them may be taken twice
            self.keeper.core.disturbed = True
            hold.sender.end()
            self.forget(hold)
            self._release(hold, hold.retirement or _unfit(hold.sender.client))
            self._mend()
            raise

    def recover(self, hold: Hold) -> None:
        """Return the slot of a borrower that is gone, however far it had come."""
        if hasattr(hold, "sender"):
            self.give_back(hold)
        else:
            self._release(hold)

    def forget(self, hold: Hold) -> None:
        """Unlink the hold, also when scopes end in another order than they began; harmless when it isn't linked."""
        top = self._held.get(hold.owner)
        if top is hold:
            if hold.outer is None:
                del self._held[hold.owner]
            else:
                self._held[hold.owner] = hold.outer
            return
        while top is not None and top.outer is not hold:
            top = top.outer
        if top is not None:
            top.outer = hold.outer

    def forget_all(self) -> None:
        """After a fork nobody in the child holds anything."""
        self._held = {}

    @contextmanager
    def working_for(self, borrower: object) -> Iterator[None]:
        """Let this thread's questions after its holds be those of a task that waits for it."""
        self._waiting[threading.current_thread()] = borrower
        try:
            yield
        finally:
            del self._waiting[threading.current_thread()]

    def holds(self) -> int:
        """How many slots the calling thread or task holds, or the task that waits for this thread."""
        count, lease = 0, self._held.get(self._waiting.get(threading.current_thread(), owner()))
        while lease is not None:
            count, lease = count + (lease.state is LeaseState.GRANTED), lease.outer
        return count

    # -- steps -----------------------------------------------------------------------------------

    def _request(self, scope: object) -> Hold:
        keeper = self.keeper
        hold = Hold(owner(), keeper, _place() if keeper.settings.leak_after_ms else None)
        if scope is not None:
            hold.watch = watch(scope, hold.let_go, hold.end, hold)
        return hold

    def _equipped(self, hold: Hold, *, ambient: bool) -> bool:
        """Make the granted hold fit for use; false if its producer isn't, and was given back."""
        flaw = self._equip(hold)
        if flaw is not None:
            self._release(hold, flaw)
            return False
        if ambient:
            hold.ambient = True
            hold.outer = self._held.get(hold.owner)
            self._held[hold.owner] = hold
        return True

    def _equip(self, hold: Hold) -> Retirement | None:
        """Let the hold send by its slot's producer, unless that broke or aged while idle, unseen by the poller."""
        client = hold.slot.client
        if client is None:  # a forced close was faster than this thread
            raise PoolClosedError(f"{self.keeper.name}: the pool is closed")
        if client.fault is not None:
            return broken(client.fault)
        if hold.core.expired(hold):  # the poller couldn't renew it in time, as after SIGSTOP
            return hold.retirement or Retirement(AGED)
        hold.sender, hold.retirement = Sender(hold.slot.index, client, self.keeper.terms), None
        return None

    def _end(self, hold: Hold) -> Retirement | None:
        """End the claim on a producer that won't do, and say why; once, for two threads may share the hold."""
        sender = hold.sender
        with sender.ledger.gate:
            flaw = self.flaw(hold)
            if flaw is None:
                sender.refuse_if_ended()
            else:
                sender.end()
            return flaw

    def _until_fit(self, hold: Hold, flaw: Retirement | None) -> Iterator[Retirement]:
        """Yield why the hold's present producer won't do, until it has one that does."""
        while flaw is not None:
            yield flaw
            flaw = self._equip(hold)

    def _not_exchanged(self, hold: Hold, flaw: Retirement | None, error: BaseException) -> None:
        """Give back what has come too late; the claim stands, unless the pool is closed or a signal came."""
        if isinstance(error, PoolClosedError) or not isinstance(error, (WdDiError, asyncio.CancelledError)):
            self._abandon(hold, error)
            return
        if not hold.core.withdraw(hold):
            self._release(hold)
        hold.sender.end()
        hold.sender.vacant = flaw

    def _swap(self, hold: Hold, flaw: Retirement, waiter: Waiter) -> None:
        hold.waiter, hold.error = waiter, None
        self.keeper.carry_out(hold.core.exchange(hold, flaw))
        self.keeper.nudge()

    def _abandon(self, hold: Hold, error: BaseException) -> None:
        """Give back whatever the hold has by now: an interrupt may come between any two steps."""
        ordinary = isinstance(error, (WdDiError, asyncio.CancelledError))
        core, known = self.keeper.core, self.keeper.core.disturbed
        core.disturbed = True  # until it is done, since one may come here, too
        if not hold.core.withdraw(hold):
            self.forget(hold)
            self._release(hold)
        hold.watch = None
        if ordinary:
            core.disturbed = known
        else:
            self._mend()

    def _mend(self) -> None:
        """Finish what the core decided and nobody has carried out. If that is interrupted, too, the poller does it."""
        core = self.keeper.core
        core.disturbed = True
        self.keeper.carry_out(core.mend())

    def _release(self, hold: Hold, retirement: Retirement | None = None) -> None:
        if hold.core is self.keeper.core:
            self.keeper.carry_out(hold.core.release(hold, retirement), late=self.keeper.overdue)

    def _wait(self, hold: Hold, timeout_ms: int, deadline: Deadline) -> None:
        keeper = self.keeper
        self._refuse_second(hold)
        if _get_running_loop() is not None and not keeper.settings.allow_blocking_in_loop:
            raise ScopeError(
                f"{keeper.name}: no producer is idle, and waiting would block this thread's event loop: "
                "use 'async with'"
            )
        waiter, hold.deadline = ThreadWaiter(), deadline
        self._queue(hold, waiter)
        waiter.wait(deadline.left)
        self._waited(hold, timeout_ms)

    async def _wait_async(self, hold: Hold, timeout_ms: int, deadline: Deadline) -> None:
        self._refuse_second(hold)
        waiter, hold.deadline = TaskWaiter(), deadline
        self._queue(hold, waiter)
        await waiter.wait(deadline.left)
        self._waited(hold, timeout_ms)

    def _refuse_second(self, hold: Hold) -> None:
        if hold.owner in self._held:
            raise PoolExhaustedError(
                f"{self.keeper.name}: no second producer is idle, and the caller holds one already: waiting could wait "
                f"for itself ({self._counts()})"
            )

    def _queue(self, hold: Hold, waiter: Waiter) -> None:
        keeper = self.keeper
        hold.waiter = waiter
        keeper.start()
        keeper.carry_out(hold.core.wait(hold))
        keeper.nudge()

    def _waited(self, hold: Hold, timeout_ms: int) -> None:
        hold.waiter = None
        if hold.core.withdraw(hold, timed_out=True):
            raise self._timed_out(timeout_ms)
        if hold.error is not None:
            raise self._failed(hold.error)

    def _timed_out(self, timeout_ms: int) -> PoolTimeoutError:
        keeper = self.keeper
        cause = keeper.trouble()
        text = f"{keeper.name}: no producer free after {timeout_ms} ms ({self._counts()}){self._crowded()}"
        error = PoolTimeoutError(f"{text}; last error: {cause}" if cause else text)
        error.__cause__ = cause if isinstance(cause, BaseException) else None
        keeper.observer.emit(CheckoutTimedOut, pool=keeper.name, timeout_ms=timeout_ms, error=error)
        return error

    def _crowded(self) -> str:
        """What cures a plain pool with more borrowers than producers."""
        settings, stats = self.keeper.settings, self.keeper.core.stats()
        if self.keeper.terms.transactional or stats.waiting < stats.size:
            return ""
        return f"; borrowers can use a plain producer at once: raise share, which is {settings.share}"

    def _failed(self, error: BaseException) -> Exception:
        if isinstance(error, PoolClosedError):
            return PoolClosedError(str(error))
        failed = PoolOpenError(f"{self.keeper.name}: no producer can be connected: {error}")
        failed.__cause__ = error
        return failed

    def _counts(self) -> str:
        core = self.keeper.core
        stats, holders = core.stats(), core.holders()
        text = f"{stats.in_use} of {stats.size} in use, {stats.waiting} waiting"
        if stats.creating:
            text += f", {stats.creating} connecting"
        if stats.retiring:
            text += f", {stats.retiring} closing"
        if holders:
            text += f"; longest held {holders[0].held_ms / 1000:.1f} s by {holders[0].owner}"
        return text


class Checkout(Recipe[Producer, AsyncProducer]):
    """A producer to come: ``with pool.producer() as producer``.

    Nested in the same thread or task it gives the producer that is held already, and inside an open transaction that
    transaction; the inner exit then ends nothing.
    """

    __slots__ = ("_desk", "_timeout_ms")

    def __init__(self, desk: Desk, timeout_ms: int | None) -> None:
        super().__init__()
        check_timeout(timeout_ms, 0)
        self._desk = desk
        self._timeout_ms = timeout_ms

    def begin(self, *, ambient: bool = True) -> Borrowing:
        """Return a fresh scope."""
        return Borrowing(self._desk, self._timeout_ms, ambient=ambient)

    def __repr__(self) -> str:
        return f"producer of pool {self._desk.keeper.name!r}"


class Borrowing:
    """One checkout, from enter to exit."""

    __slots__ = ("__weakref__", "_ambient", "_desk", "_hold", "_timeout_ms")

    def __init__(self, desk: Desk, timeout_ms: int | None, *, ambient: bool) -> None:
        self._desk = desk
        self._timeout_ms = timeout_ms
        self._ambient = ambient
        self._hold: Hold | None = None

    def __enter__(self) -> Producer:
        refuse_in_trio(self._desk.keeper.name)
        held = self._desk.current() if self._ambient else None
        if held is not None:
            return held.handle()
        hold = self._hold = self._desk.borrow(self._timeout_ms, ambient=self._ambient, scope=self)
        try:
            return hold.handle()
        except BaseException:  # a signal's: Python leaves only what it has entered
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hold = self._hold
        if hold is not None:
            self._desk.give_back(hold)
            self._hold = None

    async def __aenter__(self) -> AsyncProducer:
        refuse_outside_of_a_task(self._desk.keeper.name)
        held = self._desk.current() if self._ambient else None
        if held is not None:
            return held.async_handle()
        hold = self._hold = await self._desk.borrow_async(self._timeout_ms, ambient=self._ambient, scope=self)
        try:
            return hold.async_handle()
        except BaseException:  # as above
            self.__exit__(None, None, None)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)  # giving back contains no await, so no cancellation can come between


def _run_hooks(unit: Unit | None) -> None:
    if unit is not None and not isinstance(unit.owner, weakref.ref):  # a task's need its loop
        unit.run_hooks()


def broken(fault: Fault) -> Retirement:
    """Why a producer with a fatal error is retired."""
    return Retirement("broken", fault, fenced=fault.kind is Kind.FENCED)


def _unfit(client: Client) -> Retirement | None:
    """Why a returned client can't be handed out again; an interrupt between two steps may leave a transaction open."""
    if client.fault is not None:
        return broken(client.fault)
    return Retirement("left in a transaction") if client.in_transaction else None


def owner() -> object:
    """Who asks: the running task, else the greenlet, else the thread. Not their numbers, since those are used again.

    A task is told by its one weak reference: if its loop is closed under it, it is collected, and so gives back.
    """
    if _get_running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return weakref.ref(task)
    return current_greenlet() or threading.current_thread()


def _place() -> str:
    """The caller's line, outside of this package."""
    frame: Any = sys._getframe(1)  # noqa: SLF001  (a whole stack would cost 100 µs)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("wd_di."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "unknown"
