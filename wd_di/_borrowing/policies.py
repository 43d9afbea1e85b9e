"""What of the settings each layer decides by; made in one place, and replaced as a whole by a reload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wd_di._records.sender import SendPolicy
from wd_di._slots.slots import SlotPolicy
from wd_di._transactions.writing import TransactionPolicy

if TYPE_CHECKING:
    from wd_di._slots.plan import Plan
    from wd_di.settings import PoolSettings

EXPIRY_SHARE = 0.8
"""Share of ``transactional_id_expiry_ms`` after which an idle producer is made anew."""


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of one pool.

    Attributes:
        settings: What borrowing goes by: time-outs, sharing, places.
        slots: Who gets which slot.
        sending: How records are sent.
        transactions: How transactions end.
    """

    settings: PoolSettings
    slots: SlotPolicy
    sending: SendPolicy
    transactions: TransactionPolicy

    @classmethod
    def of(cls, plan: Plan, *, backoff: float) -> Policies:
        """Return those of a plan; ``backoff`` is the share that is waited before a new try to connect."""
        settings = plan.settings
        return cls(
            settings=settings,
            slots=SlotPolicy(
                size=settings.size,
                share=settings.share,
                order=plan.order,
                warm=plan.warm,
                max_waiting=settings.max_waiting,
                max_lifetime=_seconds(settings.max_lifetime_ms),
                idle_timeout=_seconds(settings.idle_timeout_ms),
                leak_after=_seconds(settings.leak_after_ms),
                fenced_retries=settings.fenced_retries,
                id_lifetime=settings.transactional_id_expiry_ms / 1000 * EXPIRY_SHARE if plan.transactional else None,
                backoff=backoff,
            ),
            sending=SendPolicy(
                pool=plan.name,
                produce_timeout_ms=settings.produce_timeout_ms,
                transactional=plan.transactional,
                implicit_transactions=settings.implicit_transactions,
                allow_blocking_in_loop=settings.allow_blocking_in_loop,
            ),
            transactions=TransactionPolicy(
                transaction_timeout=plan.transaction_timeout_ms / 1000,
                commit_timeout=settings.commit_timeout_ms / 1000,
                abort_timeout=settings.abort_timeout_ms / 1000,
                resolve_timeout=settings.resolve_timeout_ms / 1000,
            ),
        )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
