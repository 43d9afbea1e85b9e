"""The pool as its users see it: open, borrow, look, reload, close."""

from __future__ import annotations

import _thread
import asyncio
import os
import threading
import time
import warnings
import weakref
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, overload

from wd_di._borrowing.checkout import Checkout, Lender
from wd_di._borrowing.lease import Lease
from wd_di._borrowing.policies import Policies
from wd_di._borrowing.scopes import TransactionRun, begin_on, run, run_async
from wd_di._concurrency.caller import caller, on_loop, refuse_in_trio, refuse_on_loop, refuse_outside_of_a_task
from wd_di._concurrency.deadline import Deadline
from wd_di._concurrency.greenlets import refuse_eventlet
from wd_di._concurrency.tasks import outwaited
from wd_di._concurrency.workers import Workers
from wd_di._forks import renew_in_child
from wd_di._hints import OF_POOLS, no_attribute, no_keyword, settings_elsewhere
from wd_di._kafka.checking import check
from wd_di._kafka.handle import pin_all
from wd_di._kafka.memory import MemoryBroker
from wd_di._kafka.port import Fault
from wd_di._kafka.translation import without_frames
from wd_di._slots.housekeeping import Housekeeper
from wd_di._slots.ids import free_ids, reserve_ids
from wd_di._slots.plan import default_instance, make_plan
from wd_di._slots.slots import State
from wd_di._transactions.options import DEFAULTS, Options
from wd_di.errors import PoolClosedError, PoolOpenError, PoolTimeoutError, SettingsError, uncopyable
from wd_di.events import (
    ConnectionPoolCreated,
    ConnectionPoolReload,
    ConnectionPoolReloaded,
    ConnectionPoolSetup,
    ConnectionPoolShutdown,
    Observer,
)
from wd_di.settings import KafkaSettings, checked_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from types import TracebackType
    from typing import Unpack

    from wd_di._borrowing.handles import TransactionScope
    from wd_di._hints import NoOthers
    from wd_di._slots.plan import Configure, Plan, SlotPlan
    from wd_di._slots.stats import Holder, PoolStats
    from wd_di._transactions.options import Propagation, Retry
    from wd_di.settings import PoolSettings

R = TypeVar("R")

EXIT_TIMEOUT = 5.0
"""Seconds that all forgotten pools together may take at interpreter exit."""
PROBE_PATIENCE = 0.2
"""Seconds of the first probe; between two of them we look for what makes all others pointless."""
OPEN_INSTEAD = "await pool.aopen(), or 'async with' the pool or running(...)"
RELOAD_INSTEAD = "await pool.areload()"
OPTIONS = ("timeout_ms", "propagation", "commit_on", "retry")
WORKERS_MAX = 16
"""Tasks that may wait at once for an open, a reload or a close of one pool."""
FORCE_PATIENCE = 0.15
"""Seconds after the deadline of a close that ending what is taken by force may take."""


_begins_on_loops: ContextVar[bool] = ContextVar("_begins_on_loops", default=False)


@contextmanager
def begins_on_loops() -> Iterator[None]:
    """On an event loop's thread, a pool that is opened in this block only begins to: its first checkouts connect."""
    token = _begins_on_loops.set(True)
    try:
        yield
    finally:
        _begins_on_loops.reset(token)


@dataclass(frozen=True, slots=True)
class CloseReport:
    """What became of a pool's producers and messages.

    Attributes:
        pool: The pool's name.
        flushed: Messages that were still unanswered when the close began, and were answered before its end.
        purged: Messages given up; those that were in flight may still arrive.
        held: Who still holds a producer; it closes when it comes back.
        abandoned: Indices of producers whose closing hadn't ended in time; it goes on in the background.
        duration_ms: How long the close took.
    """

    pool: str
    flushed: int
    purged: int
    held: tuple[Holder, ...]
    abandoned: tuple[int, ...]
    duration_ms: float

    @property
    def clean(self) -> bool:
        """Whether nothing was lost and nothing is left."""
        return not (self.purged or self.held or self.abandoned)


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
        settings = checked_pool(name, settings)
        self.observer: Observer = checked_observer(name, observer)
        self._configure = configure
        self._parents_ids: frozenset[str] | None = None
        self._settings = settings
        plan = self._checked_plan(settings)
        reserve_ids(plan.ids, name, self)
        self._memory_broker = self._memory()
        policies = Policies.of(plan, backoff=self._memory_broker.backoff)
        self._house = Housekeeper(plan, policies.slots, self.observer, self._memory_broker)
        self._lender = Lender(self._house, policies, begin_on)
        self._workers = Workers(f"wd_di-{name}-pool", WORKERS_MAX)
        self._phase = threading.RLock()  # a signal handler may close while its own thread does
        self._opened = False
        self._closed = threading.Event()
        self._report: CloseReport | None = None
        self._stale = False
        _pools.add(self)
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
        if self._stale:
            self._refresh()
        return Checkout(self._lender, timeout_ms)

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
        if self._stale:
            self._refresh()
        if timeout_ms is None and propagation == "join" and not commit_on and retry is None:
            return TransactionRun(self._lender, DEFAULTS)
        return TransactionRun(self._lender, Options(timeout_ms, propagation, commit_on, retry))

    @overload
    def run(
        self, fn: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, retry: Retry | None = None, **kwargs: Any
    ) -> Coroutine[Any, Any, R | None]: ...
    @overload
    def run(self, fn: Callable[..., R], /, *args: Any, retry: Retry | None = None, **kwargs: Any) -> R | None: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, retry: Retry | None = None, **kwargs: Any) -> Any:
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
            PoolClosedError: It was closed before.
            ScopeError: On a thread with a running event loop, which waiting would block: await :meth:`aopen` there.
        """
        if _foreign:
            no_keyword("open", _foreign, [])
        deadline = Deadline.of_ms(timeout_ms, self._settings.open_timeout_ms)
        self._refresh()
        with self._phase:
            self._refuse_if_closed()
            if self._opened:
                return
        if self._settings.open_policy == "fail":
            if on_loop() and _begins_on_loops.get():
                self._house.start()
                return
            refuse_in_trio(f"{self.name}: open")
            if not self._settings.allow_blocking_in_loop:
                refuse_on_loop("open", self.name, OPEN_INSTEAD)
        self._house.start()
        if self._settings.open_policy == "fail":
            try:
                failed = self._connect(deadline)
            except BaseException:
                self.close(timeout_ms=0, force=True)
                raise
            if failed is not None:
                self.close(timeout_ms=0, force=True)
                raise failed  # from here: whoever reads the traceback has nothing of the steps below
        self._opened = True

    async def aopen(self, *, timeout_ms: int | None = None, **_foreign: Unpack[NoOthers]) -> None:
        """Open as :meth:`open` does, while the event loop goes on; a cancellation waits for the end, and then goes on.

        Args:
            timeout_ms: Milliseconds; ``None`` is the pool's ``open_timeout_ms``.

        Raises:
            PoolOpenError: With the reason; the pool is closed then, and nothing of it is left.
            PoolClosedError: It was closed before.
            ScopeError: No task of asyncio's runs here.
        """
        refuse_outside_of_a_task(self.name)
        try:
            await outwaited(self._workers, lambda: self.open(timeout_ms=timeout_ms, **_foreign))
        except PoolOpenError as error:
            raise error.with_traceback(None)  # noqa: B904  (itself, without the frames of a worker)

    def _refuse_if_closed(self) -> None:
        if self._house.table.closing:
            raise PoolClosedError(f"{self.name}: the pool is closed; make another one")

    def _connect(self, deadline: Deadline) -> PoolOpenError | None:
        """Wait until enough producers are connected; why they aren't, if it fails."""
        table = self._house.table
        self._house.carry_out(table.warm() if self._lender.policies.slots.warm else table.start_one())
        wanted = self._settings.size if self._lender.policies.slots.warm else 1
        self._house.wait_until(lambda: self._ready() >= wanted or table.hopeless or table.closing, deadline)
        if self._ready() < wanted:
            return self._not_opened(wanted, deadline)
        return None if self._lender.policies.sending.transactional else self._probe(deadline)

    def _probe(self, deadline: Deadline) -> PoolOpenError | None:
        """A plain producer connects when it must; ask it now, so that a wrong address shows at the start."""
        lease = Lease(self._lender, caller())
        self._lender.borrow(lease, self, int(deadline.left * 1000), ambient=False)
        connection, patience = lease.connection, PROBE_PATIENCE
        if connection is None:
            return None
        client = connection.client
        try:
            while True:
                try:
                    client.probe(deadline.slice(patience))
                except Fault as fault:
                    patience *= 2  # each probe asks anew: a cluster that answers more slowly would never be heard
                    client.poll(0)
                    if client.fault is not None:
                        error = PoolOpenError(f"{self.name}: {client.last_error or fault}")
                        error.__cause__ = without_frames(fault)
                        return error
                    if deadline.passed:
                        cause = client.last_error or f"Timed out, {self._house.unanswered()}"
                        return self._too_late("no broker has answered", cause, deadline)
                else:
                    return None
        finally:
            self._lender.give_back(lease)

    def _ready(self) -> int:
        return len(self._house.table.in_state(State.IDLE, State.LEASED))

    def _not_opened(self, wanted: int, deadline: Deadline) -> PoolOpenError:
        cause = self._house.trouble()
        what = f"{self._ready()} of {wanted} producers could be connected"
        if self._house.table.hopeless or not deadline.passed:
            error = PoolOpenError(f"{self.name}: {what}; last error: {cause}")
        else:
            error = self._too_late(what, cause, deadline)
        error.__cause__ = without_frames(cause) if isinstance(cause, BaseException) else None
        return error

    def _too_late(self, what: str, cause: object, deadline: Deadline) -> PoolOpenError:
        """Return the error of brokers that may be there a moment later."""
        addresses = self._house.addresses()
        where = "" if addresses in str(cause) else f" at {addresses}"
        return PoolOpenError(
            f"{self.name}: {what} within {deadline.seconds:.3g} s{where} "
            f'(to start without a broker and go on connecting, set open_policy="background"); last error: {cause}'
        )

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
        stats = self.stats()
        state = (
            "closed" if self._house.table.closing else "open" if self._house.started or stats.totals.requests else "new"
        )
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
            PoolClosedError: The pool is closed, or was closed meanwhile.
            ScopeError: On a thread with a running event loop, which waiting would block: await :meth:`areload` there.
        """
        if _foreign:
            no_keyword("reload", _foreign, ["settings"])
        deadline = Deadline.of_ms(timeout_ms, self._settings.close_timeout_ms)
        refuse_in_trio(f"{self.name}: reload")
        if not self._settings.allow_blocking_in_loop:
            refuse_on_loop("reload", self.name, RELOAD_INSTEAD)
        self._refresh()
        started = time.monotonic()
        house = self._house
        self._refuse_if_closed()
        given = None if settings is None else checked_pool(self.name, settings)
        plan = None if given is None else self._next_plan(given)
        with self._phase:  # a close that comes meanwhile comes before or after all of this
            self._refuse_if_closed()  # again: configure may have taken its time, or closed the pool
            if given is not None and plan is not None:
                self._apply(plan)
                self._settings = given
            effects = house.table.reload()
            generation = house.table.generation
        self.observer.emit(ConnectionPoolReload, pool=self.name, generation=generation)
        house.carry_out(effects)
        if not house.wait_until(self._reloaded, deadline):
            raise self._not_reloaded()
        if house.table.closing:
            raise PoolClosedError(f"{self.name}: the pool was closed while it reloaded")
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
        await outwaited(self._workers, lambda: self.reload(settings, timeout_ms=timeout_ms, **_foreign))

    def _reloaded(self) -> bool:
        table = self._house.table
        return table.closing or not (self._house.started and table.outdated())

    def _not_reloaded(self) -> PoolTimeoutError:
        table, cause = self._house.table, self._house.trouble()
        text = f"{self.name}: producers {list(table.outdated())} are still of the generation before: "
        text += _holders(table.holders())
        return PoolTimeoutError(f"{text}; last error: {cause}" if cause else text)

    def _next_plan(self, settings: PoolSettings) -> Plan:
        plan = self._checked_plan(settings)
        if settings.size != self._settings.size or plan.transactional != self._house.plan.transactional:
            raise SettingsError(
                f"{self.name}: reload can't change size or transactional_id on and off: make another pool"
            )
        return plan

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
        with self._phase:
            first = not self._house.table.closing
            if first:
                started, unsettled, purged = time.monotonic(), self._unsettled(), self._house.purged
                self._house.close_producers(deadline)
        if not first:
            return self._close_again(deadline, force=force)
        try:
            self._await_holders(deadline, force=force)
        finally:  # Ctrl-C ends the waiting, not the closing
            self._report = report = self._make_report(started, unsettled, purged)
            self._finish(report)
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

        return await outwaited(self._workers, close)

    def _close_again(self, deadline: Deadline, *, force: bool) -> CloseReport:
        """Join a close that is under way; what it left with its holders can be taken by force later."""
        started, purged = time.monotonic(), self._house.purged
        self._closed.wait(deadline.left)
        report = self._report
        if force and self._house.table.holders():
            self._await_holders(deadline, force=True)
            report = None
        self._free_ids()
        return report or self._make_report(started, 0, purged)

    def _finish(self, report: CloseReport) -> None:
        if not self._left():
            self._house.stop(FORCE_PATIENCE)
        self._closed.set()
        self._free_ids()
        self.observer.emit(ConnectionPoolShutdown, pool=self.name, report=report)

    def _await_holders(self, deadline: Deadline, *, force: bool) -> None:
        house = self._house
        mine = self._lender.holds()
        house.wait_until(lambda: self._left() <= mine, deadline)
        if force and self._left():
            house.seize(FORCE_PATIENCE)
        if self._left() > len(house.table.holders()):
            house.wait_until(lambda: not self._left(), Deadline(FORCE_PATIENCE))

    def _left(self) -> int:
        """Slots that aren't closed yet."""
        return self._settings.size - len(self._house.table.in_state(State.EMPTY))

    def _unsettled(self) -> int:
        return sum(len(each.in_flight.undecided()) for _, each in self._house.table.living())

    def _make_report(self, started: float, unsettled: int, purged: int) -> CloseReport:
        table = self._house.table
        lost = self._house.purged - purged
        return CloseReport(
            pool=self.name,
            flushed=max(0, unsettled - lost - (self._unsettled() if unsettled else 0)),
            purged=lost,
            held=table.holders(),
            abandoned=table.in_state(State.CREATING, State.RETIRING),
            duration_ms=(time.monotonic() - started) * 1000,
        )

    def _free_ids(self) -> None:
        """Another pool may take the ids once no producer of this one lives."""
        if not self._left():
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
        house.forget()
        if not house.table.closing and house.table.inhabited:
            _forgotten.add(house)
            with suppress(RuntimeError):  # no more threads
                # Not threading's start, which waits: the collector may be at work inside of that module's own locks.
                _thread.start_new_thread(_close_forgotten, (house,))
            text = f"pool {self.name!r} was never closed: call close(), or use it in 'with'"
            warnings.warn(text, ResourceWarning, 2, source=self)

    # -- plans and forks -----------------------------------------------------------------------------

    def _checked_plan(self, settings: PoolSettings) -> Plan:
        instance = None
        if self._parents_ids is not None:  # in a forked child, whatever settings it gets
            instance = f"{settings.instance or default_instance()}-{os.getpid()}"
            settings = _own_ids(settings)
        plan = make_plan(settings, name=self.name, configure=self._configure, instance=instance)
        seen: list[dict[str, Any]] = []
        for slot in plan.slots:
            if slot.remote and slot.transactional_id in (self._parents_ids or ()):
                raise SettingsError(
                    f"{self.name}: configure sets transactional.id {slot.transactional_id!r} again in a forked child, "
                    "which would fence the parent's producer: make it of os.getpid(), or use transactional_id"
                )
            alike: dict[str, Any] = {"deliver": slot.deliver}
            alike |= {key: value for key, value in slot.kafka.items() if key not in ("transactional.id", "client.id")}
            if alike in seen:
                continue
            seen.append(alike)
            for part in _to_check(slot):
                try:
                    check(self.name, part)
                except SettingsError as error:
                    if slot.deliver or "No such configuration property" in str(error):
                        raise
        return plan

    def _after_fork(self) -> None:
        """In the child: nothing of the parent's is touched; new ids are made at the first use, outside the fork."""
        self._phase = threading.RLock()
        self._stale = True
        ids = (slot.transactional_id for slot in self._house.plan.slots)
        self._parents_ids = (self._parents_ids or frozenset()).union(filter(None, ids))
        closing = self._house.table.closing
        self._memory_broker.lock = threading.Lock()
        self._house = Housekeeper(self._house.plan, self._lender.policies.slots, self.observer, self._memory_broker)
        self._lender.start_anew(self._house)
        self._opened = False
        if closing:
            self._house.table.close()

    def _refresh(self) -> None:
        if not self._stale:
            return
        with self._phase:
            if self._stale and not self._house.table.closing:  # a closed pool takes no ids from anybody
                self._apply(self._checked_plan(self._settings))
                self._stale = False

    def _apply(self, plan: Plan) -> None:
        """Go by this plan from now on."""
        reserve_ids(plan.ids, self.name, self)
        policies = Policies.of(plan, backoff=self._memory_broker.backoff)
        self._house.apply(plan, policies.slots)
        self._lender.apply(policies)


def _to_check(slot: SlotPlan) -> list[Mapping[str, object]]:
    """What librdkafka is asked about: where nothing is sent, names only, since the values may be right elsewhere."""
    if slot.deliver:
        return [slot.kafka]
    if "plugin.library.paths" in slot.kafka:  # a plugin brings settings of its own
        return []
    return [{name: ""} for name in slot.kafka if not KafkaSettings.knows(name)]


def _own_ids(settings: PoolSettings) -> PoolSettings:
    """A child's settings: an id that says nothing of the process would fence the parent's producers."""
    template = settings.transactional_id
    if template is None or "{instance}" in template or "{pid}" in template:
        return settings
    return settings.model_copy(update={"transactional_id": template + "-{pid}"})


def checked_observer(name: str, observer: Observer | None) -> Observer:
    """Return the observer of a pool, a new one if it was given none.

    Raises:
        SettingsError: It is something else.
    """
    if observer is None:
        return Observer()
    if isinstance(observer, type) or not callable(getattr(observer, "emit", None)):
        kind = f"the class {observer.__name__}" if isinstance(observer, type) else type(observer).__name__
        raise SettingsError(f"{name}: observer must be an Observer, not {kind}")
    return observer


def _holders(holders: tuple[Holder, ...]) -> str:
    return ", ".join(f"{h.index} held {h.held_ms / 1000:.1f} s by {h.owner}" for h in holders) or "nobody holds them"


_pools: weakref.WeakSet[ProducerPool] = weakref.WeakSet()
_forgotten: weakref.WeakSet[Housekeeper] = weakref.WeakSet()
"""What pools have left behind that were collected unclosed; kept alive by the threads that close it."""


def _close_forgotten(house: Housekeeper) -> None:
    """What was produced is still sent, though nobody could ask for it any more."""
    house.close_producers(Deadline(house.plan.settings.close_timeout_ms / 1000))


def _end_forgotten(house: Housekeeper, deadline: Deadline) -> None:
    house.wait_until(lambda: not house.table.in_state(State.IDLE, State.RETIRING), deadline)
    house.seize(FORCE_PATIENCE)
    house.wait_until(lambda: not house.table.inhabited, Deadline(FORCE_PATIENCE))


def _close_all() -> None:
    """When the process ends: maybe no thread can be started any more, so in sequence, under one deadline.

    Called by the package, which registers it earlier than this module could.
    """
    deadline = Deadline(EXIT_TIMEOUT)
    for pool in tuple(_pools):
        table = pool._house.table  # noqa: SLF001  (its own module)
        # One from before a fork that this child hasn't used has nothing to close, and nobody to tell.
        if not pool._stale and (not table.closing or table.holders()):  # noqa: SLF001
            left_ms = min(int(deadline.left * 1000), pool._settings.close_timeout_ms)  # noqa: SLF001
            # By force: nobody comes back any more, and a transaction left open would block readers until its time-out.
            pool.close(timeout_ms=left_ms, force=True)
    for house in tuple(_forgotten):
        _end_forgotten(house, deadline)
    pin_all()


def _after_fork_in_child() -> None:
    _forgotten.clear()
    for pool in tuple(_pools):
        pool._after_fork()  # noqa: SLF001  (its own module)


renew_in_child("pools", _after_fork_in_child)
