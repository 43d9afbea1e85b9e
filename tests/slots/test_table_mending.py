from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.interrupts import interrupt_at
from tests.slots.bench import FENCED, Bench
from wd_di._records.connection import Retirement
from wd_di._slots.slots import Claim, ClaimState, Effects, State


class Waiter:
    """Somebody who waits for a claim until it is woken."""

    def __init__(self) -> None:
        self.woken = False

    def wake(self) -> bool:
        self.woken = True
        return True


@dataclass
class Scene:
    """What a borrower does while others wait.

    Attributes:
        mine: The borrower's claim.
        act: What is interrupted.
        undo: What the borrower does then, before it asks the table to mend.
        others: Those of whoever waits.
        staying: That of somebody who holds the same slot, and keeps it.
    """

    bench: Bench
    mine: Claim[Any]
    act: Callable[[], object]
    undo: Callable[[], Effects | None]
    others: list[Claim[Any]]
    staying: list[Claim[Any]] = field(default_factory=list)


def waiting(bench: Bench, count: int) -> list[Claim[Any]]:
    """Let so many others wait."""
    claims = []
    for number in range(count):
        claim = bench.queue(f"other {number}")
        claim.waiter = Waiter()
        claims.append(claim)
    return claims


def borrowing(bench: Bench, act: Callable[[Claim[Any]], object], others: int = 0) -> Scene:
    """Somebody wants a slot, and leaves when that is interrupted."""
    mine: Claim[Any] = Claim("me")

    def undo() -> Effects | None:
        return None if bench.table.withdraw(mine) else bench.table.release(mine)

    return Scene(bench, mine, lambda: act(mine), undo, waiting(bench, others))


def returning(bench: Bench, retirement: Retirement | None = None, others: int = 0) -> Scene:
    """Somebody gives a slot back, and does so again when that is interrupted."""
    mine = bench.borrow("me")

    def back() -> Effects | None:
        return bench.table.release(mine, retirement)

    return Scene(bench, mine, back, back, waiting(bench, others))


def exchanging(bench: Bench, others: int) -> Scene:
    """Somebody wants another producer, and leaves when that is interrupted."""
    scene = borrowing(bench, lambda _: None)
    scene.mine.owner = "me"
    assert bench.table.take(scene.mine)
    scene.act = lambda: bench.table.exchange(scene.mine, Retirement("broken"))
    scene.others = waiting(bench, others)
    return scene


def leaving(bench: Bench, others: int) -> Scene:
    """Somebody has waited for long enough."""
    scene = borrowing(bench, lambda mine: bench.table.withdraw(mine, timed_out=True))
    bench.table.wait(scene.mine)
    scene.others = waiting(bench, others)
    return scene


def returning_one_of_two(others: int) -> Scene:
    """Somebody gives a place in a shared slot back, where somebody else stays."""
    bench = Bench(size=1, share=2).warm()
    staying = bench.borrow("sharer")
    scene = returning(bench, others=others)
    scene.staying.append(staying)
    return scene


SCENES: dict[str, Callable[[], Scene]] = {
    "take what rests": lambda: borrowing(warm := Bench(size=1).warm(), warm.table.take),
    "take a shared one": lambda: borrowing(shared := Bench(size=1, share=2).warm(), shared.table.take),
    "wait": lambda: borrowing(bench := Bench(), bench.table.wait, others=1),
    "wait in vain": lambda: borrowing(bench := Bench(size=1), bench.table.wait, others=2),
    "come late": lambda: borrowing(warm := Bench(size=1).warm(), warm.table.wait),
    "give back": lambda: returning(Bench().warm()),
    "give back the old one": lambda: returning(Bench(max_lifetime=0.0, warm=True).warm()),
    "hand on": lambda: returning(Bench(size=1).warm(), others=2),
    "hand on a shared one": lambda: returning_one_of_two(others=3),
    "give back for good": lambda: returning(Bench(size=1).warm(), Retirement("broken"), others=2),
    "give back what is fenced": lambda: returning(Bench(size=1, fenced_retries=0).warm(), FENCED, others=2),
    "give back what is forgotten": lambda: returning(Bench(size=3).warm(), Retirement("expired", expired=True)),
    "exchange": lambda: exchanging(Bench(size=1).warm(), others=1),
    "exchange for what rests": lambda: exchanging(Bench(size=2).warm(), others=0),
    "leave the queue": lambda: leaving(Bench(size=1), others=1),
}


def carry_out(bench: Bench, effects: Effects | None) -> None:
    """Do what the threads of a pool do."""
    while effects is not None:
        more: Effects = Effects()
        for claim in effects.wake:
            if claim.waiter is not None:
                claim.waiter.wake()
        for slot in effects.create:
            if bench.table.begin(slot, State.CREATING):
                more.add(bench.table.created(slot, object()))
        for slot in effects.retire:
            if bench.table.begin(slot, State.RETIRING):
                more.add(bench.table.retired(slot))
        effects = more if more != Effects() else None


def interruptions(name: str) -> Iterator[tuple[str, Scene]]:
    """The scene, interrupted wherever CPython may call a signal's handler, and where that was."""
    for number in itertools.count(1):
        scene = SCENES[name]()
        place = interrupt_at(number, scene.act)
        if place is None:
            assert number > 1
            return
        yield place, scene


@pytest.mark.parametrize("name", SCENES)
def test_an_interrupt_costs_the_others_nothing(name: str) -> None:
    """Wherever it comes: they are served in turn or told, without a look at the clock; no slot is lost."""
    for place, scene in interruptions(name):
        bench, table = scene.bench, scene.bench.table
        carry_out(bench, scene.undo())
        carry_out(bench, table.mend())
        assert not any(claim.waiter.woken for claim in scene.others if claim.state is ClaimState.WAITING), place
        served = []
        while held := [claim for claim in scene.others if claim.state is ClaimState.GRANTED]:
            for claim in held:
                assert claim.waiter.woken, place
                served.append(claim)
                claim.waiter = None  # as whoever was woken does
                carry_out(bench, table.release(claim))
        told = [claim for claim in scene.others if claim.error is not None]

        assert scene.others == [*told, *served], place
        assert all(claim.waiter.woken for claim in told), place
        assert scene.mine.state in (ClaimState.NEW, ClaimState.DONE), place
        assert scene.staying == table.claims(), place
        assert table._away == len(table.in_state(State.EMPTY, State.CREATING, State.RETIRING)), place

        for claim in told:
            claim.waiter = None
        carry_out(bench, table.tick())
        assert [] == table._failed, place

        for claim in scene.staying:
            carry_out(bench, table.release(claim))

        assert {"e", "i"} >= set(bench.states()), place
        assert all(slot.connection is not None for slot in table._idle), place
        assert sorted(slot.index for slot in table._idle) == list(table.in_state(State.IDLE)), place
