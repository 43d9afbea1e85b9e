"""What the user is shown at the end, and whether the numbers agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from examples.departures.publishing import Journal, Score
    from examples.departures.readers import Seen

RECORDS = 2
"""Records in each transaction."""
MOCK_NOTE = (
    "n/a: the mock cluster hides aborted records from nobody, so it can't show what a read_committed reader sees. "
    "A real broker can: make demo KAFKA=local"
)


def counts(score: Score, seen: Seen) -> Table:
    """Who counted how many."""
    table = _table("", "transactions", "records")
    table.add_row("committed by the application", f"{score.committed:,}", f"{RECORDS * score.committed:,}")
    table.add_row("aborted by the application", f"{score.aborted:,}", f"{RECORDS * score.aborted:,}", end_section=True)
    table.add_row("seen by a read_committed reader", "", _number(seen.read_committed))
    table.add_row("seen by a read_uncommitted reader", "", _number(seen.read_uncommitted))
    return table


def events(journal: Journal) -> Table:
    """What happened, in the order of the names."""
    table = _table("event", "count")
    for name, count in sorted(journal.events.items()):
        table.add_row(name, f"{count:,}")
    return table


def times(durations_ms: Sequence[float]) -> str:
    """How long a transaction took."""
    if not durations_ms:
        return "No transaction has ended."
    ordered = sorted(durations_ms)
    median, p99 = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99))
    return f"Time per transaction: median {median:.1f} ms, p99 {p99:.1f} ms."


def differences(score: Score, seen: Seen) -> list[str]:
    """Say what doesn't agree: readers of committed records see the committed ones, the others see all."""
    committed, everything = RECORDS * score.committed, RECORDS * (score.committed + score.aborted)
    found = []
    if seen.read_committed is not None and seen.read_committed != committed:
        found.append(f"{committed:,} records were committed, and a read_committed reader sees {seen.read_committed:,}")
    if seen.read_uncommitted != everything:
        found.append(f"{everything:,} records were sent, and a read_uncommitted reader sees {seen.read_uncommitted:,}")
    return found


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _number(count: int | None) -> str:
    return "n/a" if count is None else f"{count:,}"
