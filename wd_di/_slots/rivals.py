"""Who else of this host has our transactional ids, before we take one and when it was taken from us.

The cluster tells nobody. So each producer has a seat of its id on the host, from before it asks for the id until it is
gone: the first seat that is free, since the one who comes second is no worse off, and is to be seen as well.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING

from wd_di._slots import seats
from wd_di.events import ProducerContested, log_warning

if TYPE_CHECKING:
    from collections.abc import Collection

    from wd_di._slots.seats import Occupant, Seat
    from wd_di.events import Observer

WAY_OUT = "give each process ids of its own, as by {host}-{pid} or {instance} in transactional_id, or end that one "
SEATS = 8
"""Of each id. Who finds them all taken sees the others, and isn't seen."""
TRIES = 3
"""For a seat that can't be had, though nobody has it: its owner has just ended, or somebody is looking at its file."""
BREATH = 0.001
"""Seconds between them."""

_Key = tuple[str, str]
"""A cluster, and a transactional id."""


class _Place:
    """One cluster's transactional id, as processes of this host have it."""

    def __init__(self, cluster: str, transactional_id: str) -> None:
        # Hashed, since everybody on the host can see the names; and neither may be cut, whatever its length.
        key = hashlib.sha256(f"{cluster}\0{transactional_id}".encode(), usedforsecurity=False).hexdigest()[:32]
        self._names: list[str] = [f"{key}-{number}" for number in range(SEATS)]
        self._seats: dict[str, Seat] = {}

    def sit_down(self) -> None:
        """Take the first seat that is free."""
        for name in self._names:
            if self._take(name):
                return

    def sit_first(self) -> None:
        """Take the very first seat, or none: of two who refuse, and come at the same moment, one stays.

        Another one is taken where this very process has that: an earlier pool's producers may still be closing.
        """
        for attempt in range(TRIES):
            if attempt:
                time.sleep(BREATH)
            if self._take(self._names[0]):
                return
            there = seats.host.occupant(self._names[0])
            if there is not None:
                if there.pid == os.getpid():
                    self.sit_down()
                return

    def _take(self, name: str) -> bool:
        if (seat := seats.host.take(name)) is not None:
            self._seats[name] = seat
        return seat is not None

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

    A pool that refuses has all its ids on a cluster, or none: if each were settled for itself, two that come at the
    same moment would each get some, and both be refused. It takes them in an order that all pools have in common, so
    that of several that share some of their ids one gets through. It keeps them all as long as one of its producers is
    there.

    Args:
        pool: The pool's name.
        observer: Is told of rivals.
    """

    def __init__(self, pool: str, observer: Observer) -> None:
        self._pool = pool
        self._observer = observer
        self._lock = threading.RLock()  # several makers come at once
        self._places: dict[_Key, _Place] = {}
        self._used: dict[int, _Key] = {}
        self._kept: set[_Key] = set()

    def meet(
        self, index: int, cluster: str, transactional_id: str, *, refuse: bool, beside: Collection[str] = ()
    ) -> str | None:
        """Take a seat for a producer that is about to ask for its id, and tell of who has one already.

        Args:
            index: The producer's.
            cluster: The id of its cluster.
            transactional_id: Its own.
            refuse: Whether to leave it alone if somebody is there.
            beside: All ids that the pool has on that cluster.

        Returns:
            Why it must not ask for the id, if it mustn't.
        """
        key = cluster, transactional_id
        with self._lock:
            self.leave(index)
            self._used[index] = key
            self._kept = {each for each in self._kept if each[0] != cluster}
            if refuse:
                self._kept |= {key, *((cluster, each) for each in beside)}
                contested, rival = self._all_or_none(key)
                if rival:
                    self.leave(index)
            else:
                contested, rival = transactional_id, self._join(key)
            self._leave_others()
        if not rival:
            return None
        values = {"pool": self._pool, "index": index, "transactional_id": contested}
        self._observer.emit(ProducerContested, **values, rival=rival)
        text = f"transactional.id {contested!r}: {rival}"
        if refuse:
            return f"{text}, and ids_held_elsewhere='refuse' leaves it there: {WAY_OUT}"
        log_warning(f"{self._pool}.{rival}", f"{self._pool}: {text}, and is fenced now; if it isn't to end, {WAY_OUT}")
        return None

    def _join(self, key: _Key) -> str:
        """Sit down somewhere, and say who is there."""
        if key not in self._places:
            place = self._places[key] = _Place(*key)
            place.sit_down()
        return _told(self._places[key].others())

    def _all_or_none(self, own: _Key) -> tuple[str, str]:
        """Sit down in all places that are to be kept on the cluster, or say in which somebody is, and who."""
        taken: list[_Key] = []
        for key in sorted(each for each in self._kept if each[0] == own[0]):
            if key not in self._places:
                taken.append(key)
                place = self._places[key] = _Place(*key)
                place.sit_first()
            elif key != own:
                continue
            if not (rival := _told(self._places[key].others())):
                continue
            self._kept -= {*taken, own}
            look = _Place(*own)
            rivals_own = _told(look.others()) if key != own else ""
            look.leave()
            return (own[1], rivals_own) if rivals_own else (key[1], rival)
        return own[1], ""

    def of(self, index: int) -> str:
        """Return who else has the id of this producer now, if anybody is known to."""
        key = self._used.get(index)
        place = self._places.get(key) if key is not None else None
        return _told(place.others()) if place is not None else ""

    def leave(self, index: int) -> None:
        """The producer is gone; with a cluster's last one all places there are free."""
        with self._lock:
            key = self._used.pop(index, None)
            if key is not None and not any(cluster == key[0] for cluster, _ in self._used.values()):
                self._kept = {each for each in self._kept if each[0] != key[0]}
            self._leave_others()

    def _leave_others(self) -> None:
        for each in self._places.keys() - self._used.values() - self._kept:
            self._places.pop(each).leave()


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
