"""The inside of a pool, for tests of what can't be seen from outside: its private names stand here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wd_di._borrowing.checkout import Lender
    from wd_di._borrowing.lease import Lease
    from wd_di._kafka.memory import MemoryBroker
    from wd_di._records.connection import Connection
    from wd_di._records.delivery import Ledger
    from wd_di._records.questions import Questions
    from wd_di._slots.housekeeping import Housekeeper
    from wd_di._slots.plan import Plan
    from wd_di._slots.table import SlotTable
    from wd_di._transactions.transaction import OpenTransaction
    from wd_di.pool import ProducerPool
    from wd_di.settings import PoolSettings


def settings(pool: ProducerPool) -> PoolSettings:
    """What the pool goes by."""
    return pool._settings


def is_transactional(pool: ProducerPool) -> bool:
    """Whether its producers have transactional ids."""
    return settings(pool).transactional_id is not None


def broker(pool: ProducerPool) -> MemoryBroker:
    """Where its records go if they aren't delivered."""
    return pool._memory_broker


def lender(pool: ProducerPool) -> Lender:
    """Who lends its producers."""
    return pool._lender


def nothing_is_held(pool: ProducerPool) -> bool:
    """Whether no thread and no task is on record as a holder."""
    return not lender(pool).held


def house(pool: ProducerPool) -> Housekeeper:
    """Who makes its producers, serves and closes them."""
    return pool._house


def plan(pool: ProducerPool) -> Plan:
    """What its producers are made of."""
    return house(pool).plan


def table(pool: ProducerPool) -> SlotTable[Connection]:
    """Who decides about its slots."""
    return house(pool).table


def clients(pool: ProducerPool) -> list[Any]:
    """The clients of its producers, in the order of their slots."""
    return [connection.client for _, connection in table(pool).living()]


def lease(handle: Any) -> Lease:
    """What a producer or transaction was lent by."""
    return handle._lease


def questions(handle: Any) -> Questions:
    """What a producer has brokers asked."""
    return handle._lease.connection.questions


def client(handle: Any) -> Any:
    """The client that it works with."""
    return lease(handle).connection.client


def ledger(handle: Any) -> Ledger:
    """Its records that are still to be told of."""
    return lease(handle).sending().ledger


def transaction(handle: Any) -> OpenTransaction:
    """The transaction that it stands for."""
    return handle._transaction
