"""Who else of this host has our transactional ids, before we take one and when it was taken from us.

The cluster tells nobody. So each producer has a seat of its id on the host, from before it asks for the id until it is
gone: the first seat that is free, since the one who comes second is no worse off, and is to be seen as well.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

from wd_di._slots import seats
from wd_di.events import ProducerContested, log_warning

if TYPE_CHECKING:
    from wd_di._slots.seats import Occupant, Seat
    from wd_di.events import Observer

WAY_OUT = "give each process ids of its own, as by {host}-{pid} or {instance} in transactional_id, or end that one "
SEATS = 8
"""Of each id. Who finds them all taken sees the others, and isn't seen."""


class _Place:
    """One cluster's transactional id, as processes of this host have it."""

    def __init__(self, cluster: str, transactional_id: str) -> None:
        # Hashed, since everybody on the host can see the names; and neither may be cut, whatever its length.
        key = hashlib.sha256(f"{cluster}\0{transactional_id}".encode(), usedforsecurity=False).hexdigest()[:32]
        self._names: list[str] = [f"{key}-{number}" for number in range(SEATS)]
        self._seats: dict[str, Seat] = {}

    def sit_down(self, *, first: bool) -> None:
        """Take the first seat that is free, or none but the very first one."""
        for name in self._names[:1] if first else self._names:
            if (seat := seats.host.take(name)) is not None:
                self._seats[name] = seat
                return

    def others(self) -> list[Occupant]:
        """Who has the other seats; two pools of one process are told apart by their addresses, see ids."""
        found = (seats.host.occupant(name) for name in self._names if name not in self._seats)
        return [each for each in found if each is not None and each.pid != os.getpid()]

    def leave(self) -> None:
        """Stand up."""
        for seat in self._seats.values():
            seat.close()
        self._seats.clear()
        for name in self._names:
            seats.host.forget(name)


class Rivals:
    """The places of one pool's producers, and who else is there.

    Args:
        pool: The pool's name.
        observer: Is told of rivals.
    """

    def __init__(self, pool: str, observer: Observer) -> None:
        self._pool = pool
        self._observer = observer
        self._places: dict[int, _Place] = {}

    def meet(self, index: int, cluster: str, transactional_id: str, *, refuse: bool) -> str | None:
        """Take a seat for a producer that is about to ask for its id, and tell of who has one already.

        Args:
            index: The producer's.
            cluster: The id of its cluster.
            transactional_id: Its own.
            refuse: Whether to leave it alone if somebody is there.

        Returns:
            Why it must not ask for the id, if it mustn't.
        """
        self.leave(index)
        place = self._places[index] = _Place(cluster, transactional_id)
        place.sit_down(first=refuse)  # so that of two who refuse, and come at the same moment, one stays
        rival = _told(place.others())
        if not rival:
            return None
        values = {"pool": self._pool, "index": index, "transactional_id": transactional_id}
        self._observer.emit(ProducerContested, **values, rival=rival)
        text = f"transactional.id {transactional_id!r}: {rival}"
        if refuse:
            self.leave(index)
            return f"{text}, and ids_held_elsewhere='refuse' leaves it there: {WAY_OUT}"
        log_warning(f"{self._pool}.{rival}", f"{self._pool}: {text}, and is fenced now; if it isn't to end, {WAY_OUT}")
        return None

    def of(self, index: int) -> str:
        """Return who else has the id of this producer now, if anybody is known to."""
        place = self._places.get(index)
        return _told(place.others()) if place is not None else ""

    def leave(self, index: int) -> None:
        """The producer is gone."""
        place = self._places.pop(index, None)
        if place is not None:
            place.leave()


def _told(found: list[Occupant]) -> str:
    if not found:
        return ""
    first, more = found[0], f", as have {len(found) - 1} more" if len(found) > 1 else ""
    who = f"process {first.pid} of this host" if first.pid else "another process of this host"
    since = f", up since {_clock(first.since)}," if first.since is not None else ""
    return f"{who}{since} has the id{f' ({first.program})' if first.program else ''}{more}"


def _clock(since: float) -> str:
    at = time.localtime(since)
    return time.strftime("%H:%M" if at[:3] == time.localtime()[:3] else "%Y-%m-%d %H:%M", at)
