"""What became of a commit whose answer is missing."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from wd_di._concurrency.errands import Errand
from wd_di._kafka.port import Fault
from wd_di._records.connection import initialise
from wd_di._transactions.positions import told
from wd_di.errors import Resolution, WdDiError

if TYPE_CHECKING:
    from wd_di._concurrency.deadline import Deadline
    from wd_di._kafka.port import Client, Reader
    from wd_di._records.connection import Connection
    from wd_di._records.delivery import Ledger
    from wd_di._transactions.positions import Move


class Doubt:
    """A commit without an answer, and how its outcome is looked for.

    First the id is initialised anew: the coordinator then ends what is open under it, refuses a commit that comes later
    from the old producer, and has written all markers when it answers. Where another owner of the id has fenced this
    one, that has happened already, and must not happen to the other one. Then a reader looks for one record of the
    transaction in each topic, until one tells; else, or without records, where the group stands. If that is where it
    was before, it proves a no. At the offsets it proves a yes only without records: then it is the same to everybody,
    whoever has brought it there.

    Args:
        connection: What the commit was asked of. Its client is gone afterwards.
        ledger: What it has sent.
        moves: What it took along of consumer groups.
        fenced: Whether another owner has the id.
    """

    def __init__(self, connection: Connection, ledger: Ledger, moves: list[Move], *, fenced: bool) -> None:
        self._connection = connection
        self._records = ledger.records > 0
        self._stored = [
            (topic, partition, offset)
            for topic, (partition, offset, *_) in ledger.stored.items()
            if partition is not None and offset is not None and offset >= 0
        ]
        self._moves = moves
        self._fenced = fenced
        self._started = time.monotonic()
        self._successor: Client | None = None
        self._initialised = False
        self._reader: Reader | None = None

    def look(self, deadline: Deadline) -> Errand[Resolution]:
        """Let a worker find it out, until the deadline at most."""
        errand = Errand(lambda: self._resolution(deadline), self._clear_up)
        self._connection.entrust(errand)
        return errand

    def unknown(self, told: str) -> Resolution:
        """Return that it couldn't be found out."""
        return self._found("unknown", None, told)

    # -- on the worker -----------------------------------------------------------------------------

    def _resolution(self, deadline: Deadline) -> Resolution:
        if not (self._stored or self._moves):
            return self.unknown("nothing of it could be looked for")
        try:
            if not self._fenced:
                self._take_over(deadline)
            self._reader = self._connection.read()
            return self._read_back(self._reader, deadline)
        except WdDiError as error:
            cause = None if self._successor is None else self._successor.last_error
            return self.unknown(f"transactional.id {self._connection.client.transactional_id!r}: {cause or error}")
        except Exception as error:  # noqa: BLE001  (whatever it is, the commit's own outcome is what is told)
            return self.unknown(f"{type(error).__name__}: {error}")

    def _take_over(self, deadline: Deadline) -> None:
        self._connection.client.close()
        self._successor = self._connection.successor()
        initialise(self._successor, lambda: not deadline.passed)
        self._initialised = True

    def _read_back(self, reader: Reader, deadline: Deadline) -> Resolution:
        reasons: list[str] = []
        left = len(self._stored) + len(self._moves)
        for topic, partition, offset in self._stored:
            where = f"{topic}[{partition}]@{offset}"
            try:
                if reader.sees(topic, partition, offset, deadline.share(left)):
                    return self._found("committed", "record", f"a reader finds its record at {where}")
            except Fault as fault:
                reasons.append(str(fault))
                left -= 1
            else:
                return self._found("aborted", "record", f"readers skip its record at {where}")
        for move in self._moves:
            try:
                stands = reader.stands(move.to, move.member, deadline.share(left), stable=True)
            except Fault as fault:
                reasons.append(str(fault))
                left -= 1
                continue
            moved, what = told(move, stands)
            if moved is False:
                return self._found("aborted", "offsets", what)
            if moved and not self._records:
                return self._found("committed", "offsets", what)
            reasons.append(f"{what}, as it may have done before" if moved else what)
        return self.unknown("; ".join(dict.fromkeys(reasons)))

    def _found(
        self,
        outcome: Literal["committed", "aborted", "unknown"],
        way: Literal["record", "offsets"] | None,
        told: str,
    ) -> Resolution:
        return Resolution(outcome, way, told, (time.monotonic() - self._started) * 1000)

    def _clear_up(self) -> None:
        """Close what was made for it. What has asked for the id waits for its answer, which else might come later."""
        if self._reader is not None:
            self._reader.close()
        if self._successor is None:
            return
        with suppress(WdDiError):
            if not self._initialised:
                initialise(self._successor, lambda: not self._connection.services.closing())
        self._successor.close()
