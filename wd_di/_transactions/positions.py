"""Where consumer groups stand whose offsets a transaction takes along: before it, and by its commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wd_di._concurrency.deadline import Deadline
from wd_di._kafka.port import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wd_di._records.connection import Connection

Place = tuple[str, int]
"""A topic and a partition."""

PATIENCE = 1.0
"""Seconds that a broker has to say where a group stands before its offsets are sent without that."""
GROUPS_MAX = 64
"""Members of groups that are remembered; a rebalance makes another one of each."""


@dataclass(slots=True)
class Move:
    """What one transaction does to a group.

    Attributes:
        member: The metadata of a member, by which the group is known.
        to: Where it brings the group; sent twice, the last one counts.
        before: Where the group stood, as far as that is known.
    """

    member: Any
    to: dict[Place, int] = field(default_factory=dict)
    before: dict[Place, int] = field(default_factory=dict)

    def add(self, offsets: Iterable[Any]) -> None:
        """Take on offsets that were sent."""
        self.to |= {(each.topic, each.partition): each.offset for each in offsets}

    @property
    def name(self) -> object:
        """What it is remembered by; what isn't bytes is a fake's, which has one group."""
        return self.member if isinstance(self.member, bytes) else type(self.member)


def note_before(connection: Connection, move: Move, offsets: Iterable[Any], deadline: Deadline) -> None:
    """Note where the group stands; asked of the brokers once for each member of it.

    It is never waited for the end of another transaction here, and a group that can't be asked isn't.
    """
    stood = connection.services.stood
    known = stood.get(move.name, {})
    places = {(each.topic, each.partition) for each in offsets}
    if unknown := places - known.keys() - move.to.keys():
        reader = connection.read()
        try:
            patience = Deadline(min(PATIENCE, deadline.left / 3))
            known = known | reader.stands(unknown, move.member, patience, stable=False)
        except Fault:
            pass
        finally:
            reader.close()
        stood[move.name] = known
        while len(stood) > GROUPS_MAX:
            stood.pop(next(iter(stood)), None)
    move.before = {place: known[place] for place in places if place in known} | move.before


def note_commit(connection: Connection, moves: Iterable[Move]) -> None:
    """Note where a commit has brought the groups."""
    stood = connection.services.stood
    for move in moves:
        stood[move.name] = stood.get(move.name, {}) | move.to


def told(move: Move, stands: dict[Place, int]) -> tuple[bool | None, str]:
    """Return whether the group was moved, if its positions prove it, and what is to be seen of it.

    A yes is that it stands there. A no is that it stands where it did before. Anywhere else it was brought by somebody
    else, since or before.
    """
    moved = [place for place, offset in move.to.items() if stands.get(place) == offset]
    stayed = [
        place
        for place, offset in move.before.items()
        if stands.get(place) == offset and offset != move.to.get(place, offset)
    ]
    if len(moved) == len(move.to):
        return True, "the group stands at its offsets"
    if stayed and not any(move.before.get(place) != move.to[place] for place in moved):
        return False, "the group stands where it did before"
    topic, partition = next(place for place in move.to if place not in moved)
    return None, f"the group stands at {stands.get((topic, partition))} of {topic}[{partition}], which tells nothing"
