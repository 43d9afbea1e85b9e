"""A pool for tests: the real core and the real transactions over an in-memory broker that fails on cue."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, get_args

from wd_di._borrowing.lease import Lease
from wd_di._borrowing.opening import begins_on_loops
from wd_di._concurrency.caller import caller
from wd_di._concurrency.deadline import Deadline
from wd_di._kafka.port import Fault, FaultKind
from wd_di._records.connection import Retirement
from wd_di._slots.slots import State
from wd_di.errors import DeliveryError, PoolError
from wd_di.events import checked_observer
from wd_di.pool import ProducerPool
from wd_di.settings import PoolSettings, checked_pool
from wd_di.testing._fake_broker import PATIENCE, Call, FakeBroker, Found, LostAnswer
from wd_di.testing._sent import Sent, listed, missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from wd_di._kafka.memory import MemoryBroker, Record
    from wd_di._slots.closing import CloseReport
    from wd_di._transactions.transaction import OpenTransaction
    from wd_di.events import Event, Observer, RetirementReason

IMPATIENT_MS = 20
"""Milliseconds that a checkout waits, unless it says otherwise, while a cue keeps producers from it."""

_FAULTS: dict[str, FaultKind] = {
    "create": FaultKind.OTHER,
    "begin": FaultKind.OTHER,
    "produce": FaultKind.OTHER,
    "send_offsets": FaultKind.REBALANCED,
    "commit": FaultKind.ABORTABLE,
    "abort": FaultKind.OTHER,
}


class FakePool(ProducerPool):
    """A pool that keeps its records in memory; everything else about it is the real pool.

    It is open at once and needs no ``close``. Two things differ: a topic has whichever partition a record names, and 0
    if it names none; and what the real pool waits after a fencing or a failed creation takes a hundredth of the time.

    Args:
        name: The pool's name.
        settings: Settings of your own, such as the application's; ``deliver`` is off in any case.
        transactional: Whether the fake has transactions; with ``settings`` these decide.
        size: Producers; with ``settings`` these decide.
        observer: Who is told what happens, besides ``events``.

    Attributes:
        events: Everything that happened, in order, such as ``TransactionCommitted``.
    """

    def __init__(
        self,
        name: str = "fake",
        *,
        settings: PoolSettings | Mapping[str, object] | None = None,
        transactional: bool = True,
        size: int = 2,
        observer: Observer | None = None,
    ) -> None:
        settings = _settings(name, settings, size=size, transactional=transactional)
        observer = checked_observer(name, observer)
        self._broker = FakeBroker()
        self.events: list[Event] = []
        self._broker.max_bytes = settings.kafka.message_max_bytes or self._broker.max_bytes
        self._listening = observer.subscribe("*", self._note)
        try:
            super().__init__(settings, name=name, observer=observer)
        except BaseException:
            self._listening.cancel()
            raise
        self.open()

    def open(self, *, timeout_ms: int | None = None) -> None:
        """Open as the real pool does; on an event loop's thread too, since nothing here takes time."""
        with begins_on_loops():
            super().open(timeout_ms=timeout_ms)
        if self._settings.open_policy != "background" and self._lender.policies.slots.warm:
            self._house.wait_until(
                lambda: len(self._house.table.in_state(State.IDLE, State.LEASED)) == self._settings.size,
                Deadline(PATIENCE),
            )

    def close(self, *, timeout_ms: int | None = None, force: bool = False) -> CloseReport:
        """Close as the real pool does; what was sent can still be asked for."""
        report = super().close(timeout_ms=timeout_ms, force=force)
        self._listening.cancel()
        return report

    def __del__(self) -> None:
        """A fake that was never closed has lost nothing."""

    def _memory(self) -> MemoryBroker:
        return self._broker

    def _note(self, event: Event) -> None:
        if event.pool == self.name:  # the observer may serve other pools too
            self.events.append(event)

    # -- what was sent -----------------------------------------------------------------------------

    @property
    def committed(self) -> list[Sent]:
        """What a ``read_committed`` reader would see, in the order of the commits."""
        return [_sent(record) for record in tuple(self._broker.committed)]

    @property
    def aborted(self) -> list[Sent]:
        """What was sent in transactions that aborted."""
        return [_sent(record) for record in tuple(self._broker.aborted)]

    @property
    def offsets(self) -> list[Any]:
        """The consumer offsets that were committed with transactions."""
        return list(self._broker.offsets)

    def assert_committed(self, *expected: Sent) -> None:
        """Assert that each expected record was committed; there may be others."""
        absent = missing(_checked(expected), self.committed)
        if absent:
            raise AssertionError(self._story("not committed", absent))

    def assert_aborted(self, *expected: Sent) -> None:
        """Assert that each expected record was sent and aborted; there may be others."""
        absent = missing(_checked(expected), self.aborted)
        if absent:
            raise AssertionError(self._story("not aborted", absent))

    def assert_nothing_committed(self) -> None:
        """Assert that no reader would see anything, nor a consumer group moved on."""
        if self._broker.committed or self._broker.offsets:
            raise AssertionError(self._story("something was committed"))

    def assert_no_open_transaction(self) -> None:
        """Assert that every transaction has ended."""
        open_ = self._open_transactions()
        if open_:
            holders = {holder.index: holder for holder in self._house.table.holders()}
            held = [(tx.id, holders[tx.connection.index]) for tx in open_ if tx.connection.index in holders]
            told = (f"\n  {name}, held by {holder.owner}" for name, holder in held)
            raise AssertionError(f"{self.name}: open transactions: {len(open_)}{''.join(told)}")

    def _story(self, what: str, expected: Sequence[Sent] = ()) -> str:
        parts = [f"{self.name}: {what}", *(f"  {record!r}" for record in expected)]
        for title, records in (("committed", self.committed), ("aborted", self.aborted)):
            parts.append(listed(title, records, like=expected))
        if self.offsets:
            parts.append(f"offsets: {self.offsets}")
        return "\n".join(parts)

    # -- faults on cue -----------------------------------------------------------------------------

    def fail_next(self, call: Call, *, unknown: bool = False, found: Found | None = None, times: int = 1) -> None:
        """Let the next call fail as a broker would let it.

        Args:
            call: ``"create"`` (no connection; idle producers are retired, so that there is one to create), ``"begin"``,
                ``"produce"`` (the record is refused at once), ``"send_offsets"`` (the group has rebalanced),
                ``"commit"`` (refused, so it aborts) or ``"abort"``.
            unknown: For ``"commit"``: no answer comes, and the pool can't find out what became of it, so the caller is
                in doubt. The records end up aborted.
            found: For ``"commit"``: no answer comes, and this is what the pool finds out: ``"committed"`` or
                ``"aborted"``. A pool with ``resolve_timeout_ms=0`` doesn't look.
            times: How many calls fail.

        Raises:
            ValueError: There is no such call, ``unknown`` or ``found`` isn't for it, or ``times`` is negative.
            TypeError: ``times`` is no whole number.
        """
        if call not in get_args(Call):
            raise ValueError(f"call is one of {', '.join(get_args(Call))}, not {call!r}")
        if unknown and call != "commit":
            raise ValueError(f"only the outcome of a commit can be unknown, not that of {call!r}")
        if found is not None and (call != "commit" or unknown or found not in get_args(Found)):
            raise ValueError(f"found is what becomes of a commit: {' or '.join(get_args(Found))}, and without unknown")
        _check_times(times)
        lost = LostAnswer(found) if unknown or found is not None else None
        self._broker.cues.setdefault(call, deque()).extend(
            lost or Fault(_FAULTS[call], f"{call} failed on cue") for _ in range(times)
        )
        if call == "create":
            self._retire_idle("create failed on cue")

    def fail_delivery(self, topic: str, error: Exception | None = None, *, times: int | None = None) -> None:
        """Let records for the topic fail after they were enqueued.

        Args:
            topic: The topic.
            error: What the deliveries report; a ``DeliveryError`` if left out.
            times: How many records; ``None`` is all from now on.

        Raises:
            TypeError, ValueError: An argument isn't what it should be.
        """
        if not isinstance(topic, str):
            raise TypeError(f"topic is a topic's name, not {type(topic).__name__}")
        if error is not None and not isinstance(error, Exception):
            given = f"the class {error.__name__}" if isinstance(error, type) else type(error).__name__
            raise TypeError(f"error is an exception, such as DeliveryError('out of space'), not {given}")
        if times is not None:
            _check_times(times)
        self._broker.failing[topic] = (error or DeliveryError(f"a record for {topic!r} failed on cue"), times)

    def fence(self) -> None:
        """Let somebody else take over every transactional id: transactions, open ones too, end in ``FencedError``."""
        for _, connection in self._house.table.living():
            if connection.client.transactional_id is not None:
                self._broker.new_epoch(connection.client.transactional_id)

    def time_out(self) -> None:
        """Let every transaction that has written be older than ``transaction.timeout.ms``: the broker has aborted it.

        It ends in ``TransactionTimedOutError``.
        """
        age = self._house.plan.transaction_timeout_ms / 1000
        for transaction in self._open_transactions():
            if transaction.first_write is not None:  # instead of waiting for so long
                transaction.backdate(age)
                self._broker.new_epoch(transaction.client.transactional_id or "")

    @contextmanager
    def exhaust(self) -> Iterator[None]:
        """Hold every producer that is free meanwhile, so that a checkout raises ``PoolTimeoutError``.

        It does so after 20 ms, unless it has a ``timeout_ms`` of its own.
        """
        leases: list[Lease] = []
        # A thread of its own: this one may hold a producer already, or run an event loop, and must not wait then.
        holder = threading.Thread(target=self._hold_all, args=(leases,), name=f"{self.name}.exhaust()", daemon=True)
        holder.start()
        holder.join(PATIENCE)
        try:
            with self._impatient():
                yield
        finally:
            for lease in leases:
                self._lender.give_back(lease)

    @contextmanager
    def slow_creation(self) -> Iterator[None]:
        """Retire all idle producers, and hold up the creation of new ones meanwhile.

        A checkout raises ``PoolTimeoutError`` after 20 ms, unless it has a ``timeout_ms`` of its own.
        """
        gate = self._broker.gate = threading.Event()
        try:
            self._retire_idle("creation is slow on cue")
            with self._impatient():
                yield
        finally:
            self._broker.gate = None
            gate.set()

    def _retire_idle(self, reason: RetirementReason) -> None:
        table = self._house.table
        for slot, connection in table.living():
            if slot.state is State.IDLE:
                self._house.carry_out(table.mark_broken(slot, connection, Retirement(reason)))

    def _hold_all(self, leases: list[Lease]) -> None:
        with suppress(PoolError):  # whatever it is, there is nothing left to hold
            while (stats := self.stats()).available or stats.in_use < stats.size:
                lease = Lease(self._lender, caller())
                self._lender.borrow(lease, self, None, ambient=False)
                leases.append(lease)

    @contextmanager
    def _impatient(self) -> Iterator[None]:
        usual = self._lender.policies
        timeout_ms = min(IMPATIENT_MS, usual.settings.timeout_ms)
        hasty = replace(usual, settings=usual.settings.model_copy(update={"timeout_ms": timeout_ms}))
        self._lender.apply(hasty)
        try:
            yield
        finally:
            if self._lender.policies is hasty:  # else a reload has brought others
                self._lender.apply(usual)

    def reset(self) -> None:
        """Forget records, events and faults."""
        broker = self._broker
        for kept in (broker.committed, broker.aborted, broker.offsets, broker.cues, broker.failing, self.events):
            kept.clear()

    def _open_transactions(self) -> list[OpenTransaction]:
        leases = (claim for claim in self._house.table.claims() if isinstance(claim, Lease))
        return [lease.opened.transaction for lease in leases if lease.opened is not None]


@contextmanager
def faked(container: Any, pool: str, **options: Any) -> Iterator[FakePool]:
    """Replace a container's pool by a :class:`FakePool` meanwhile.

    Singletons are reset before and after: one that was built before would still have the real pool, and one that was
    built meanwhile would keep the fake for ever.

    Args:
        container: The container, wired or not. Its own pool isn't opened; one that is open stays so beneath.
        pool: The pool's attribute: ``"orders"``, or ``"billing.orders"`` in a container within.
        options: Those of :class:`FakePool`; its ``name`` is that of the attribute.

    Raises:
        TypeError: The container is a class.
    """
    if isinstance(container, type):
        raise TypeError(
            f"{container.__name__} is a class, and a pool lives in a container made of it: {container.__name__}()"
        )
    provider = attrgetter(pool)(container)
    fake = FakePool(options.pop("name", pool), **options)
    try:
        with container.reset_singletons(), provider.override(fake):
            yield fake
    finally:
        fake.close(timeout_ms=0, force=True)


def _checked(expected: Sequence[Sent]) -> Sequence[Sent]:
    for each in expected:
        if not isinstance(each, Sent):
            raise TypeError(f"a record is expected as Sent(topic, value, ...), not as {type(each).__name__}")
    return expected


def _check_times(times: object) -> None:
    if not isinstance(times, int) or isinstance(times, bool):
        raise TypeError(f"times is a whole number, not {type(times).__name__}")
    if times < 0:
        raise ValueError(f"times is {times}: it can't be negative")


def _settings(
    name: str, given: PoolSettings | Mapping[str, object] | None, *, size: int, transactional: bool
) -> PoolSettings:
    if given is not None:
        return checked_pool(name, given).model_copy(update={"deliver": False})
    ids = {"transactional_id": "fake-{pool}-{index}-{pid}"} if transactional else {}
    return PoolSettings(size=size, deliver=False, timeout_ms=1_000, close_timeout_ms=1_000, warm=True, **ids)  # type: ignore[arg-type]


def _sent(record: Record) -> Sent:
    return Sent(
        record.name,
        record.value,
        record.key,
        record.headers,
        partition=record.number,
        timestamp_ms=record.written_ms,
        offset=record.position,
    )
