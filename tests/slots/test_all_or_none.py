"""Processes that refuse ids of others, and come in between each other's steps: who has all ids, and who none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import pytest

from tests.pools import Recorder
from wd_di._slots import rivals, seats

if TYPE_CHECKING:
    from collections.abc import Callable


class Hall:
    """The seats of a host whose processes are all this one, by turns: whoever is ``me``."""

    def __init__(self) -> None:
        self.me = 0
        self.taken: dict[str, int] = {}
        self.wanted: list[str] = []
        self.meanwhile: list[Callable[[], object]] = []

    def pools(self, *ids: str) -> Callable[[str], bool]:
        """Let another process come; whether the maker of one of its pool's ids may go on."""
        self.me += 1
        pid, met = self.me, rivals.Rivals("orders", Recorder())

        def meets(which: str) -> bool:
            before, self.me = self.me, pid
            index = ids.index(which)
            try:
                return met.meet(index, "cluster", which, refuse=True, beside=ids) is None
            finally:
                self.me = before

        return meets

    def take(self, name: str) -> seats.Seat | None:
        """Take it, and see what comes at this very moment."""
        self.wanted.append(name)
        if name in self.taken:
            self._meanwhile()
            return None
        self.taken[name] = self.me
        self._meanwhile()
        return cast("seats.Seat", Chair(lambda: self.taken.pop(name)))

    def occupant(self, name: str) -> seats.Occupant | None:
        """Say who has it."""
        return seats.Occupant(self.taken[name]) if name in self.taken else None

    def forget(self, name: str) -> None:
        """Nothing is kept."""

    def _meanwhile(self) -> None:
        if self.meanwhile:
            self.meanwhile.pop(0)()


class Chair:
    """A seat there."""

    def __init__(self, close: Callable[[], object]) -> None:
        self.close = close


@pytest.fixture
def hall(monkeypatch: pytest.MonkeyPatch) -> Hall:
    """The host of this test."""
    hall = Hall()
    monkeypatch.setattr(seats, "host", hall)
    monkeypatch.setattr(os, "getpid", lambda: hall.me)
    return hall


def test_makers_of_two_pools_take_turns(hall: Hall) -> None:
    """Whatever makes come first, the process of the first one has all ids, and the other none."""
    one, two = hall.pools("a", "b", "c"), hall.pools("a", "b", "c")

    assert one("b")
    assert [False, False] == [two("a"), two("c")]
    assert [True, True] == [one("c"), one("a")]


@pytest.mark.parametrize("turn", range(3))
@pytest.mark.parametrize("which", ["a", "b", "c"])
def test_another_comes_while_all_are_taken(hall: Hall, turn: int, which: str) -> None:
    """Whoever comes in between is refused, however many of the ids are still free."""
    one, two = hall.pools("c", "a", "b"), hall.pools("a", "b", "c")
    said: list[bool] = []
    hall.meanwhile = [*[bool] * turn, lambda: said.append(two(which))]

    assert one("b")
    assert [False] == said
    assert {1} == set(hall.taken.values())


@pytest.mark.parametrize("turn", range(2))
def test_pools_that_share_some_ids(hall: Hall, turn: int) -> None:
    """One of them gets through, and what the other had taken by then is free again."""
    one, two = hall.pools("a", "b"), hall.pools("b", "c")
    said: list[bool] = []
    hall.meanwhile = [*[bool] * turn, lambda: said.append(two("c"))]
    said.append(one("a"))

    assert 1 == said.count(True)
    assert {1 + (turn == 0)} == set(hall.taken.values())
    assert 2 == len(hall.taken)


def test_an_owner_that_ends_at_that_moment(hall: Hall) -> None:
    """Whoever didn't get its seat gets it then, and is seen by the next one."""
    one, two, three = (hall.pools("a") for _ in range(3))
    assert one("a")
    hall.meanwhile = [hall.taken.clear]

    assert two("a")
    assert not three("a")


def test_ids_are_kept_while_a_producer_is_there(hall: Hall) -> None:
    """A producer that is replaced loses its id to nobody; with the last one all are free."""
    hall.me = 1
    met = rivals.Rivals("orders", Recorder())
    for index, which in enumerate("ab"):
        assert met.meet(index, "cluster", which, refuse=True, beside="abc") is None
    met.leave(0)
    assert not hall.pools("a")("a")
    hall.me = 1
    assert met.meet(0, "cluster", "a", refuse=True, beside="ab") is None
    assert not hall.pools("b")("b")
    met.leave(1)
    met.leave(0)

    assert {} == hall.taken


def test_what_a_reload_gives_up_is_free(hall: Hall) -> None:
    """Ids that the pool has no more go with the producer that had them, also where it doesn't refuse any more."""
    hall.me = 1
    met = rivals.Rivals("orders", Recorder())
    for index, which in enumerate("ab"):
        met.meet(index, "cluster", which, refuse=True, beside="ab")
    met.leave(0)
    met.meet(0, "cluster", "c", refuse=True, beside="cd")
    assert ["b", "c", "d"] == sorted(ids_of(met))
    met.leave(1)
    met.meet(1, "cluster", "d", refuse=False)
    assert ["c", "d"] == sorted(ids_of(met))
    met.leave(1)

    assert ["c"] == ids_of(met)


def ids_of(met: rivals.Rivals) -> list[str]:
    """Those of which a pool has seats."""
    return [name for _, name in met._places]


def test_who_refuses_wants_the_first_seat(hall: Hall) -> None:
    """One that takes another seat, if only for a moment, could make the owner of the first one refuse, too."""
    one, two = hall.pools("id"), hall.pools("id")
    assert one("id")
    [first] = hall.taken
    hall.wanted.clear()
    assert not two("id")
    assert {first} == set(hall.wanted)
    hall.me, hall.wanted[:] = 3, []
    rivals.Rivals("orders", Recorder()).meet(0, "cluster", "id", refuse=False)

    assert [first, f"{first[:-2]}-1"] == hall.wanted


def test_another_pool_of_the_same_process_still_has_the_first_seat(hall: Hall) -> None:
    """Its successor is no rival of it, but is to be seen when it has ended."""
    one = hall.pools("id")
    assert one("id")
    hall.me = 1
    successor = rivals.Rivals("orders", Recorder())
    assert successor.meet(0, "cluster", "id", refuse=True) is None
    hall.taken.pop(min(hall.taken))

    assert not hall.pools("id")("id")
