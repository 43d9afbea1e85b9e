"""Whether producers can be had: proved when a pool opens, or said why not."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING

from wd_di._borrowing.lease import Lease
from wd_di._concurrency.caller import ON_A_THREAD, caller
from wd_di._kafka.port import Fault
from wd_di._kafka.translation import public, without_frames
from wd_di._settings.problems import REFUSALS
from wd_di._slots.slots import State
from wd_di.errors import PoolClosedError, PoolError, PoolOpenError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wd_di._borrowing.checkout import Lender
    from wd_di._concurrency.deadline import Deadline
    from wd_di._kafka.port import Client

OPEN_INSTEAD = f"await pool.aopen(), or 'async with' the pool or running(...), {ON_A_THREAD}"
RELOAD_INSTEAD = f"await pool.areload(), {ON_A_THREAD}"
"""What else can be done on an event loop's thread."""
PROBE_PATIENCE = 0.2
"""Seconds of the first probe; between two of them we look for what makes all others pointless."""
OUR_OWN = ("wd_di.", "dependency_injector.")
"""Modules whose frames say nothing to whoever reads why a pool can't be opened."""


_begins_on_loops: ContextVar[bool] = ContextVar("_begins_on_loops", default=False)


@contextmanager
def begins_on_loops() -> Iterator[None]:
    """On an event loop's thread, a pool that is opened in this block only begins to: its first checkouts connect."""
    token = _begins_on_loops.set(True)
    try:
        yield
    finally:
        _begins_on_loops.reset(token)


def only_begins() -> bool:
    """Whether the calling code is in such a block."""
    return _begins_on_loops.get()


class Opening:
    """Connects what a pool needs at its start.

    Args:
        lender: The pool's.
        deadline: For the whole.
    """

    def __init__(self, lender: Lender, deadline: Deadline) -> None:
        self._lender = lender
        self._house = lender.house
        self._deadline = deadline

    def failure(self) -> PoolError | None:
        """Wait until enough producers are connected; why they aren't, if it fails."""
        failed: PoolOpenError | None = None
        with suppress(PoolClosedError):
            failed = self._failure()
        table = self._house.table
        if table.closing and (failed is None or not table.hopeless):
            return PoolClosedError(f"{self._house.name}: the pool was closed while it opened")
        return failed

    def _failure(self) -> PoolOpenError | None:
        house, policies, table = self._house, self._lender.policies, self._house.table
        house.carry_out(table.warm() if policies.slots.warm else table.start_one())
        wanted = policies.slots.size if policies.slots.warm else 1
        house.wait_until(lambda: self._ready() >= wanted or table.hopeless or table.closing, self._deadline)
        if self._ready() < wanted:
            return self._too_few(wanted)
        return None if policies.sending.transactional else self._unproved()

    def _unproved(self) -> PoolOpenError | None:
        """A plain producer connects when it must; ask it now, so that a wrong address shows at the start."""
        lease = Lease(self._lender, caller())
        self._lender.borrow(lease, self, int(self._deadline.left * 1000), ambient=False)
        try:
            return None if lease.connection is None else self._probe(lease.connection.client)
        finally:
            self._lender.give_back(lease)

    def _probe(self, client: Client) -> PoolOpenError | None:
        patience = PROBE_PATIENCE
        while True:
            try:
                client.probe(self._deadline.slice(patience))
            except Fault as fault:
                patience *= 2  # each probe asks anew: a cluster that answers more slowly would never be heard
                client.poll(0)
                if client.fault is not None:
                    error = PoolOpenError(f"{self._house.name}: {client.last_error or fault}")
                    error.__cause__ = without_frames(public(client.fault))
                    return error
                if self._house.table.closing:
                    return None
                if self._deadline.passed:
                    cause = client.last_error or f"Timed out, {self._house.unanswered()}"
                    return self._too_late("no broker has answered", cause)
            else:
                return None

    def _ready(self) -> int:
        return len(self._house.table.in_state(State.IDLE, State.LEASED))

    def _too_few(self, wanted: int) -> PoolOpenError:
        cause = self._house.trouble()
        what = f"{self._ready()} of {wanted} producers could be connected"
        if self._house.table.hopeless or not self._deadline.passed:
            error = PoolOpenError(f"{self._house.name}: {what}; last error: {cause}")
        else:
            error = self._too_late(what, cause)
        error.__cause__ = without_frames(cause) if isinstance(cause, BaseException) else None
        return error

    def _too_late(self, what: str, cause: object) -> PoolOpenError:
        """Return the error of brokers that may be there a moment later."""
        addresses = self._house.addresses()
        where = "" if addresses in str(cause) else f" at {addresses}"
        return PoolOpenError(
            f"{self._house.name}: {what} within {self._deadline.seconds:.3g} s{where} "
            f'(to start without a broker and go on connecting, set open_policy="background"); last error: {cause}'
        )


class Brief:
    """In this block, what a pool can't be made or opened for keeps only the frames of its users' own code.

    A container opens a pool through a dozen steps of its own, and the message is below them.
    """

    def __enter__(self) -> None:
        """Nothing to begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, (PoolError, *REFUSALS)):
            error.__traceback__ = _of_others(trace)


def _of_others(trace: TracebackType | None) -> TracebackType | None:
    if trace is None:
        return None
    below = _of_others(trace.tb_next)
    frame = trace.tb_frame
    where = str(frame.f_globals.get("__name__") or frame.f_code.co_name)  # Cython's frames have the one in the other
    return below if where.startswith(OUR_OWN) else TracebackType(below, frame, trace.tb_lasti, trace.tb_lineno)
