"""What a borrower is told that gets no producer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wd_di.errors import PoolClosedError, PoolOpenError, PoolTimeoutError, PoolUnhealthyError
from wd_di.events import CheckoutTimedOut

if TYPE_CHECKING:
    from wd_di._borrowing.policies import Policies
    from wd_di._concurrency.deadline import Deadline
    from wd_di._records.connection import Connection
    from wd_di._slots.housekeeping import Housekeeper
    from wd_di._slots.table import SlotTable


def timed_out(house: Housekeeper, policies: Policies, deadline: Deadline) -> PoolTimeoutError:
    """Tell of a time-out, and return it: who holds what, since when, what went wrong last, and what cures it."""
    cause, timeout_ms = house.trouble(), round(deadline.seconds * 1000)
    text = f"{house.name}: no producer free after {timeout_ms} ms ({counts(house.table)}){_crowded(house, policies)}"
    error = PoolTimeoutError(f"{text}; last error: {cause}" if cause else text)
    error.__cause__ = cause if isinstance(cause, BaseException) else None
    house.observer.emit(CheckoutTimedOut, pool=house.name, timeout_ms=timeout_ms, error=error)
    return error


def failed(pool: str, error: BaseException) -> Exception:
    """Return the public error of a wait that has ended in vain."""
    if isinstance(error, PoolClosedError | PoolUnhealthyError):
        told: Exception = type(error)(str(error))  # each waiter gets its own: to one object, tracebacks would pile up
        told.__cause__ = error.__cause__
        return told
    told = PoolOpenError(f"{pool}: no producer can be connected: {error}")
    told.__cause__ = error
    return told


def counts(table: SlotTable[Connection]) -> str:
    """Return how many slots are where, and who has held one for longest."""
    stats, holders = table.stats(), table.holders()
    text = f"{stats.in_use} of {stats.size} in use, {stats.waiting} waiting"
    if stats.creating:
        text += f", {stats.creating} connecting"
    if stats.retiring:
        text += f", {stats.retiring} closing"
    if holders:
        text += f"; longest held {holders[0].held_ms / 1000:.1f} s by {holders[0].owner}"
    return text


def _crowded(house: Housekeeper, policies: Policies) -> str:
    """What cures a plain pool with more borrowers than producers."""
    stats = house.table.stats()
    if policies.sending.transactional or stats.waiting < stats.size:
        return ""
    return f"; borrowers can use a plain producer at once: raise share, which is {policies.settings.share}"
