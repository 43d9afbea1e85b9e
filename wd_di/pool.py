"""The pool as its users see it: open, borrow, look, reload, close."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Self, TypeVar, overload

from wd_di._borrowing.checkout import Checkout, Lender
from wd_di._borrowing.opening import OPEN_INSTEAD, RELOAD_INSTEAD, Brief, Opening, only_begins
from wd_di._borrowing.policies import Policies
from wd_di._borrowing.scopes import TransactionRun, begin_on, run, run_async
from wd_di._concurrency.caller import caller, on_loop, refuse_in_trio, refuse_on_loop, refuse_outside_of_a_task
from wd_di._concurrency.deadline import Deadline
from wd_di._concurrency.greenlets import refuse_eventlet
from wd_di._concurrency.tasks import outwaited
from wd_di._concurrency.workers import Workers
from wd_di._forks import WeakCalls, renew_in_child
from wd_di._hints import OF_POOLS, no_attribute, no_keyword, settings_elsewhere
from wd_di._kafka.handle import pin_all
from wd_di._kafka.memory import MemoryBroker
from wd_di._slots.closing import CloseReport, Closing, end_forgotten, forget_parents, leave_behind
from wd_di._slots.housekeeping import Housekeeper
from wd_di._slots.ids import free_ids, reserve_ids
from wd_di._slots.planning import Planner
from wd_di._transactions.options import DEFAULTS, OPTIONS, Options
from wd_di.errors import PoolClosedError, PoolOpenError, uncopyable
from wd_di.events import (
    ConnectionPoolCreated,
    ConnectionPoolReload,
    ConnectionPoolReloaded,
    ConnectionPoolSetup,
    ConnectionPoolShutdown,
    Observer,
    checked_observer,
)
from wd_di.settings import checked_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from types import TracebackType
    from typing import Unpack

    from wd_di._borrowing.handles import TransactionScope
    from wd_di._hints import NoOthers
    from wd_di._slots.plan import Configure, Plan
    from wd_di._slots.stats import PoolStats
    from wd_di._transactions.options import Propagation, Retry
    from wd_di.settings import PoolSettings

__all__ = ["CloseReport", "ProducerPool"]

R = TypeVar("R")
State = Literal["new", "open", "closed"]

EXIT_TIMEOUT = 5.0
"""Seconds that all forgotten pools together may take at interpreter exit."""
WORKERS_MAX = 16
"""Tasks that may wait at once for an open or a reload of one pool; and for its close, which they mustn't keep."""


class ProducerPool:
    """A pool of Kafka producers for threads; usable with or without a container.

    Args:
        settings: Size, deadlines and Kafka's own settings; a mapping of them is validated.
        name: Names the pool in errors, events and ``{pool}`` of the id template.
        configure: Called once for every zero-based index when the pool is built, and again by ``reload(settings)``,
            with ``(config, index)`` or ``(config)``; may change ``config.kafka`` and ``config.deliver``.
        observer: Who is told what happens.

    Raises:
        SettingsError: Settings clash with one another, with another pool of this process, or with librdkafka; or an
            argument is nothing of its kind.
    """

    _reload_instead: ClassVar[str] = RELOAD_INSTEAD

    @settings_elsewhere("ProducerPool")
    def __init__(
        self,
        settings: PoolSettings | Mapping[str, object],
        *,
        name: str = "default",
        configure: Configure | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.name = name
        refuse_eventlet(name)
        with Brief():
            settings = checked_pool(name, settings)
            self.observer: Observer = checked_observer(name, observer)
            self._planner = Planner(name, configure)
            self._settings = settings
            plan = self._planner.plan(settings)
            reserve_ids(plan.ids, name, self)
        self._memory_broker = self._memory()
        policies = Policies.of(plan, backoff=self._memory_broker.backoff)
        self._house = Housekeeper(plan, policies.slots, self.observer, self._memory_broker)
        self._lender = Lender(self._house, policies, begin_on)
        self._workers = Workers(f"wd_di-{name}-pool", WORKERS_MAX)
        self._closers = Workers(f"wd_di-{name}-close", WORKERS_MAX)
        self._changing = threading.RLock()  # a signal handler may close while its own thread does
        self._state: State = "new"
        self._closing: Closing | None = None
        _at_exit.add(self._end_with_the_process)
        _in_child.add(self._lender.leave_to_parent)  # first, and also of a pool that is gone then
        _in_child.add(self._after_fork)
        sizes = {"pool": name, "size": settings.size, "timeout_ms": settings.timeout_ms}
        self.observer.emit(ConnectionPoolCreated, **sizes)
        self.observer.emit(ConnectionPoolSetup, **sizes)

    def _memory(self) -> MemoryBroker:
        """Where records go with ``deliver=False``."""
        return MemoryBroker()

    # -- borrowing -----------------------------------------------------------------------------------

    def producer(self, *, timeout_ms: int | None = None, **_foreign: Unpack[NoOthers]) -> Checkout:
        """Return a checkout: ``with pool.producer() as producer``.

        Args:
            timeout_ms: Milliseconds for the wait, the creation and ``init_transactions`` together; ``None`` is the
                pool's setting, 0 doesn't wait.

        Raises (when opened):
            PoolTimeoutError: No producer came free, or none could be connected, in time.
            PoolOpenError: None can be connected: settings, authentication or rights.
            PoolClosedError: The pool is closed.
        """
        if _foreign:
            no_keyword("producer", _foreign, [])
        lender = self._lender
        if lender.stale:
            self._refresh()
        return Checkout(lender, timeout_ms)

    def transaction(
        self,
        *,
        timeout_ms: int | None = None,
        propagation: Propagation = "join",
        commit_on: tuple[type[Exception], ...] = (),
        retry: Retry | None = None,
        **_foreign: Unpack[NoOthers],
    ) -> TransactionScope:
        """Return a transaction to come: ``with pool.transaction() as tx``. Returned: committed. Raised: aborted.

        Args:
            timeout_ms: Milliseconds to get a producer; ``None`` is the pool's setting, 0 doesn't wait.
            propagation: What to do inside an open transaction of the same thread or task: ``"join"`` it, begin a
                ``"new"`` one on a second producer, or insist that there is one (``"mandatory"``) or none (``"never"``).
            commit_on: Exceptions of the block that commit and are then raised on.
            retry: For ``inject``, which can call its function again; with ``run`` pass it there.

        Raises (when opened):
            NotTransactionalError: The pool has no ``transactional_id``.
            PropagationError: ``mandatory`` found no transaction, or ``never`` found one.
            PoolError: As :meth:`producer`.
        """
        if _foreign:
            no_keyword("transaction", _foreign, OPTIONS)
        if self._lender.stale:
            self._refresh()
        if timeout_ms is None and propagation == "join" and not commit_on and retry is None:
            return TransactionRun(self._lender, DEFAULTS)
        return TransactionRun(self._lender, Options(timeout_ms, propagation, commit_on, retry))

    @overload
    def run(
        self, fn: Callable[..., Coroutine[Any, Any, R]], /, *args: object, retry: Retry | None = None, **kwargs: object
    ) -> Coroutine[Any, Any, R | None]: ...
    @overload
    def run(self, fn: Callable[..., R], /, *args: object, retry: Retry | None = None, **kwargs: object) -> R | None: ...
    def run(self, fn: Callable[..., Any], /, *args: object, retry: Retry | None = None, **kwargs: object) -> Any:
        """Call ``fn(tx, *args, **kwargs)`` in a transaction, and again after a confirmed abort if ``retry`` says so.

        Returns:
            What ``fn`` returned; ``None`` if it raised :class:`AbortTransaction`. Await it if ``fn`` is a coroutine
            function.

        Raises:
            TypeError: ``fn`` can't be called, or only makes a generator.
        """
        if not callable(fn):
            raise TypeError(f"run takes a function of a transaction, not {type(fn).__name__}")
        if isgeneratorfunction(fn) or isasyncgenfunction(fn):
            raise TypeError("run takes a function that does its work when it is called, not a generator function")
        if iscoroutinefunction(fn) or iscoroutinefunction(type(fn).__call__):
            return run_async(self.transaction(retry=retry), lambda tx: fn(tx, *args, **kwargs))
        return run(self.transaction(retry=retry), lambda tx: fn(tx, *args, **kwargs))

    # -- opening -------------------------------------------------------------------------------------

    def open(self, *, timeout_ms: int | None = None, **_foreign: Unpack[NoOthers]) -> None:
        """Connect, and wait until it is proved; harmless on an open pool.

        A transactional pool initialises all its ids in parallel, a plain one makes one producer and asks the cluster
        for its id. With ``open_policy="background"`` it only begins to.

        Args:
            timeout_ms: Milliseconds; ``None`` is the pool's ``open_timeout_ms``.

        Raises:
            PoolOpenError: With the reason; the pool is closed then, and nothing of it is left.
            PoolClosedError: It was closed before, or meanwhile.
            ScopeError: On a thread with a running event loop, which waiting would block: await :meth:`aopen` there.
        """
        if _foreign:
            no_keyword("open", _foreign, [])
        deadline = Deadline.of_ms(timeout_ms, self._settings.open_timeout_ms)
        self._refresh()
        with self._changing:
            self._refuse_if_closed()
            if self._state == "open":
                return
        if self._settings.open_policy == "fail":
            if on_loop() and only_begins():
                self._house.start()
                return
            refuse_in_trio(f"{self.name}: open")
            if not self._settings.allow_blocking_in_loop:
                refuse_on_loop("open", self.name, OPEN_INSTEAD)
        self._house.start()
        if self._settings.open_policy == "fail":
            try:
                failed = Opening(self._lender, deadline).failure()
            except BaseException:
                self.close(timeout_ms=0, force=True)
                raise
            if failed is not None:
                if isinstance(failed, PoolOpenError):  # else whoever closes it says how long its holders have
                    self.close(timeout_ms=0, force=True)
                raise failed  # from here: whoever reads the traceback has nothing of the steps below
        self._state = "open"

    async def aopen(self, *, timeout_ms: int | None = None, **_foreign: Unpack[NoOthers]) -> None:
        """Open as :meth:`open` does, while the event loop goes on; a cancellation waits for the end, and then goes on.

        Args:
            timeout_ms: Milliseconds; ``None`` is the pool's ``open_timeout_ms``.

        Raises:
            PoolOpenError: With the reason; the pool is closed then, and nothing of it is left.
            PoolClosedError: It was closed before, or meanwhile.
            ScopeError: No task of asyncio's runs here.
        """
        refuse_outside_of_a_task(self.name)
        try:
            await outwaited(self._workers, lambda: self.open(timeout_ms=timeout_ms, **_foreign))
        except PoolOpenError as error:
            raise error.with_traceback(None)  # noqa: B904  (itself, without the frames of a worker)

    def _refuse_if_closed(self) -> None:
        if self._closing is not None:
            raise PoolClosedError(f"{self.name}: the pool is closed; make another one")

    # -- looking -------------------------------------------------------------------------------------

    def stats(self) -> PoolStats:
        """Return one consistent picture of slots, waiters and totals."""
        return self._house.table.stats()

    if not TYPE_CHECKING:  # type checkers find it themselves, but not past a __getattr__

        def __getattr__(self, name: str) -> NoReturn:
            no_attribute(self, name, OF_POOLS)

    def __repr__(self) -> str:
        if not hasattr(self, "_house"):
            return f"<ProducerPool {self.name!r}, not made>"  # its settings are refused, and a debugger looks
        stats, state = self.stats(), self._state
        if self._closing is not None:
            state = "closed"
        elif self._house.started or stats.totals.requests:
            state = "open"
        return (
            f"<ProducerPool {self.name!r} {state}: {stats.size} slots, {stats.idle} idle, {stats.in_use} in use, "
            f"{stats.waiting} waiting>"
        )

    # -- reloading -----------------------------------------------------------------------------------

    def reload(
        self,
        settings: PoolSettings | Mapping[str, object] | None = None,
        *,
        timeout_ms: int | None = None,
        **_foreign: Unpack[NoOthers],
    ) -> None:
        """Replace every producer: idle ones one after another, held ones when they come back; checkouts go on.

        Args:
            settings: New settings of the same size, for which ``configure`` is called again; ``None`` keeps the old.
            timeout_ms: Milliseconds to wait for the end; ``None`` is the pool's ``close_timeout_ms``.

        Raises:
            SettingsError: The new settings clash, or change what a pool is: its size, or whether it is transactional.
            PoolTimeoutError: Some producers are still of the old generation; they will follow.
            PoolOpenError, PoolUnhealthyError: No new one can be made, for a reason that waiting doesn't cure.
            PoolClosedError: The pool is closed, or was closed meanwhile.
            ScopeError: On a thread with a running event loop, which waiting would block: await :meth:`areload` there.
        """
        if _foreign:
            no_keyword("reload", _foreign, ["settings"])
        deadline = Deadline.of_ms(timeout_ms, self._settings.close_timeout_ms)
        refuse_in_trio(f"{self.name}: reload")
        if not self._settings.allow_blocking_in_loop:
            refuse_on_loop("reload", self.name, self._reload_instead)
        self._refresh()
        started = time.monotonic()
        house = self._house
        self._refuse_if_closed()
        with Brief():
            given = None if settings is None else checked_pool(self.name, settings)
            plan = None if given is None else self._planner.next_plan(given, house.plan)
        with self._changing:  # a close that comes meanwhile comes before or after all of this
            self._refuse_if_closed()  # again: configure may have taken its time, or closed the pool
            if given is not None and plan is not None:
                self._apply(plan)
                self._settings = given
            effects = house.table.reload()
            generation = house.table.generation
        self.observer.emit(ConnectionPoolReload, pool=self.name, generation=generation)
        house.carry_out(effects)
        house.await_reload(deadline)
        duration = (time.monotonic() - started) * 1000
        self.observer.emit(ConnectionPoolReloaded, pool=self.name, generation=generation, duration_ms=duration)

    async def areload(
        self,
        settings: PoolSettings | Mapping[str, object] | None = None,
        *,
        timeout_ms: int | None = None,
        **_foreign: Unpack[NoOthers],
    ) -> None:
        """Reload as :meth:`reload` does, while the event loop goes on; arguments and errors are the same.

        ``configure`` is called on a worker thread. A cancellation waits for the end, and then goes on.
        """
        refuse_outside_of_a_task(self.name)
        with Brief():
            await outwaited(self._workers, lambda: self.reload(settings, timeout_ms=timeout_ms, **_foreign))

    # -- closing -------------------------------------------------------------------------------------

    def close(self, *, timeout_ms: int | None = None, force: bool = False, **_foreign: Unpack[NoOthers]) -> CloseReport:
        """Refuse newcomers, wait for holders, flush and close; twice is harmless and gives the same report.

        Args:
            timeout_ms: Milliseconds for the whole; ``None`` is the pool's ``close_timeout_ms``.
            force: Take from their holders what they still hold at the deadline, also after a close without force. Else
                it closes when they give it back.

        Returns:
            What was flushed, what was given up and who still holds what.
        """
        if _foreign:
            no_keyword("close", _foreign, ["force"])
        deadline = Deadline.of_ms(timeout_ms, self._settings.close_timeout_ms)
        with self._changing:
            closing, first = self._closing, self._closing is None
            if closing is None:
                closing = self._closing = Closing(self._house, deadline, self._closed)
        mine = self._lender.holds()
        if first:
            return closing.run(mine, force=force)
        report = closing.join(deadline, mine, force=force)
        self._free_ids()
        return report

    async def aclose(
        self, *, timeout_ms: int | None = None, force: bool = False, **_foreign: Unpack[NoOthers]
    ) -> CloseReport:
        """Close as :meth:`close` does, while the event loop goes on; arguments and report are the same.

        A cancellation waits for the end, and then goes on.
        """
        refuse_outside_of_a_task(self.name)
        task = caller()

        def close() -> CloseReport:
            with self._lender.working_for(task):
                return self.close(timeout_ms=timeout_ms, force=force, **_foreign)

        return await outwaited(self._closers, close)

    def _closed(self, report: CloseReport) -> None:
        self._state = "closed"
        self._free_ids()
        self.observer.emit(ConnectionPoolShutdown, pool=self.name, report=report)

    def _free_ids(self) -> None:
        """Another pool may take the ids once no producer of this one lives."""
        if self._closing is not None and not self._closing.left():
            free_ids(self)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        try:
            await self.aopen()
        except asyncio.CancelledError:  # it may be open by now, and nobody would close it
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> NoReturn:
        raise uncopyable(
            self,
            "its producers belong to this process. Make a pool in each process, from the same settings; a container "
            "takes one that exists as providers.Object(pool)",
        )

    def __del__(self) -> None:
        house: Housekeeper | None = getattr(self, "_house", None)
        if house is None:  # its settings were refused
            return
        if leave_behind(house):
            text = f"pool {self.name!r} was never closed: call close(), or use it in 'with'"
            warnings.warn(text, ResourceWarning, 2, source=self)

    # -- plans and forks -----------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """In the child: nothing of the parent's is touched; new ids are made at the first use, outside the fork."""
        self._changing = threading.RLock()
        self._lender.stale = True
        plan = self._house.plan
        self._planner.forked(plan)
        self._memory_broker.lock = threading.Lock()
        self._house = Housekeeper(
            plan, self._lender.policies.slots, self.observer, self._memory_broker, prepare=self._refresh
        )
        self._lender.start_anew(self._house)
        if self._closing is None:
            self._state = "new"
        else:
            self._house.table.close()

    def _end_with_the_process(self, deadline: Deadline) -> None:
        """Close by force: nobody comes back any more, and a transaction left open would block readers for a while.

        One from before a fork that this child hasn't used has nothing to close, and nobody to tell.
        """
        if not self._lender.stale and (self._closing is None or self._house.table.holders()):
            left_ms = min(int(deadline.left * 1000), self._settings.close_timeout_ms)
            self.close(timeout_ms=left_ms, force=True)

    def _refresh(self) -> None:
        if not self._lender.stale:
            return
        with self._changing:
            if self._lender.stale and self._closing is None:  # a closed pool takes no ids from anybody
                self._apply(self._planner.plan(self._settings))
                self._lender.stale = False

    def _apply(self, plan: Plan) -> None:
        """Go by this plan from now on."""
        reserve_ids(plan.ids, self.name, self)
        policies = Policies.of(plan, backoff=self._memory_broker.backoff)
        self._house.apply(plan, policies.slots)
        self._lender.apply(policies)


_at_exit = WeakCalls()
_in_child = WeakCalls()


def close_all() -> None:
    """When the process ends: maybe no thread can be started any more, so in sequence, under one deadline.

    Called by the package, which registers it earlier than this module could.
    """
    deadline = Deadline(EXIT_TIMEOUT)
    _at_exit(deadline)
    end_forgotten(deadline)
    pin_all()


def _after_fork_in_child() -> None:
    forget_parents()
    _in_child()


renew_in_child("pools", _after_fork_in_child)
