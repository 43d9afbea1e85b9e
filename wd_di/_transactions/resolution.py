"""What became of a commit whose answer is missing."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from wd_di._concurrency.errands import Errand
from wd_di._kafka.port import Fault
from wd_di._records.connection import initialise
from wd_di.errors import Resolution, WdDiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._concurrency.deadline import Deadline
    from wd_di._kafka.port import Client, Reader
    from wd_di._records.connection import Connection
    from wd_di._records.delivery import Ledger

Sent = tuple[list[Any], Any]
"""Offsets, and the metadata of the group whose they are."""


class _Question(NamedTuple):
    """What is asked, and what the answers mean."""

    way: Literal["record", "offsets"]
    yes: str
    no: str
    ask: Callable[[Deadline], bool]


class Doubt:
    """A commit without an answer, and how its outcome is looked for.

    First the id is initialised anew: the coordinator then ends what is open under it, refuses a commit that comes later
    from the old producer, and has written all markers when it answers. Where another owner of the id has fenced this
    one, that has happened already, and must not happen to the other one. Then a reader looks for one record of the
    transaction in each topic, until one tells; else, or without records, where the group stands. If that is at its
    offsets, it proves a yes only without records: then it is the same to everybody, whoever has brought it there.

    Args:
        connection: What the commit was asked of. Its client is gone afterwards.
        ledger: What it has sent.
        offsets: What it took along of consumer groups.
        fenced: Whether another owner has the id.
    """

    def __init__(self, connection: Connection, ledger: Ledger, offsets: list[Sent], *, fenced: bool) -> None:
        self._connection = connection
        self._records = ledger.records > 0
        self._stored = [
            (topic, partition, offset)
            for topic, (partition, offset, *_) in ledger.stored.items()
            if partition is not None and offset is not None and offset >= 0
        ]
        self._offsets = offsets
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
        if not (self._stored or self._offsets):
            return self.unknown("nothing of it could be looked for")
        try:
            if not self._fenced:
                self._take_over(deadline)
            self._reader = self._connection.read()
        except WdDiError as error:
            return self.unknown(f"transactional.id {self._connection.client.transactional_id!r}: {error}")
        return self._read_back(self._reader, deadline)

    def _take_over(self, deadline: Deadline) -> None:
        self._connection.client.close()
        self._successor = self._connection.successor()
        initialise(self._successor, lambda: not deadline.passed)
        self._initialised = True

    def _read_back(self, reader: Reader, deadline: Deadline) -> Resolution:
        reasons: list[str] = []
        questions = self._questions(reader)
        for number, question in enumerate(questions):
            try:
                yes = question.ask(deadline.share(len(questions) - number))
            except Fault as fault:
                reasons.append(str(fault))
                continue
            if not yes:
                return self._found("aborted", question.way, question.no)
            if question.way == "record" or not self._records:
                return self._found("committed", question.way, question.yes)
            reasons.append(f"{question.yes}, as it may have done before")
        return self.unknown("; ".join(dict.fromkeys(reasons)))

    def _questions(self, reader: Reader) -> list[_Question]:
        return [
            *(
                _Question(
                    "record",
                    f"a reader finds its record at {topic}[{partition}]@{offset}",
                    f"readers skip its record at {topic}[{partition}]@{offset}",
                    partial(reader.sees, topic, partition, offset),
                )
                for topic, partition, offset in self._stored
            ),
            *(
                _Question(
                    "offsets",
                    "the group stands at its offsets",
                    "the group stands before its offsets",
                    partial(reader.stands_at, offsets, group),
                )
                for offsets, group in self._offsets
            ),
        ]

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
