"""The same seed means the same faults and the same work, and in time everything is done to everybody."""

from __future__ import annotations

import random
from itertools import islice

from tests.chaos.plans import Plan, draw_plan
from tests.chaos.schedule import ACTIONS, APIS, Cast, Fault, lanes

CAST = Cast((1, 2, 3), ("a", "b", "c"), forking=("a",), workers=("c",), deployed=("a", "b"))
MANY = 1_000


def drawn(seed: int, count: int = MANY) -> list[Fault]:
    """Return the first ones of each lane."""
    return [fault for lane in lanes(seed, CAST).values() for fault in islice(lane, count)]


def test_a_seed_repeats_the_faults() -> None:
    """The same seed gives the same faults, another one others."""
    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_haste_shortens_the_pauses() -> None:
    """In haste the same is done with less time in between."""
    slow, quick = (next(lanes(7, CAST, haste=haste)["brokers"]) for haste in (1, 4))

    assert slow.pause == 4 * quick.pause
    assert (slow.kind, slow.target) == (quick.kind, quick.target)


def test_everything_happens_to_everybody() -> None:
    """In time there is each fault for each target, and each action for each API key."""
    faults = drawn(7)
    told = {(fault.action, fault.api) for fault in faults if fault.action}

    assert len(ACTIONS) * len(APIS) == len(told)
    assert {"1", "2", "3"} == {fault.target for fault in faults if fault.lane == "brokers"}
    assert {"kill", "pause", "restart"} == {fault.way for fault in faults if fault.lane == "brokers"}
    assert {"freeze", "refuse", "cut", "lag", "request"} == {fault.way for fault in faults if fault.lane == "network"}
    assert {("fork", "a"), ("child", "c"), ("deploy", "a"), ("deploy", "b")} <= {(f.way, f.target) for f in faults}
    assert {"a", "b", "c"} == {fault.target for fault in faults if fault.way == "reload"}
    assert 50 <= len({fault.kind for fault in faults})


def test_a_seed_repeats_the_work() -> None:
    """The same seed gives a worker the same transactions: of all ways and fates, and cut only where it can be."""

    def plans(seed: int, *, cuts: bool) -> list[Plan]:
        draw = random.Random(seed)  # noqa: S311  (no secret)
        return [draw_plan(draw, ("x", "y"), cuts=cuts, pause=0.1) for _ in range(MANY)]

    threads, tasks = plans(7, cuts=False), plans(7, cuts=True)

    assert threads == plans(7, cuts=False) != plans(8, cuts=False)
    assert {"block", "run", "implicit"} == {plan.way for plan in tasks}
    assert {"return", "raise", "abort", "abort only"} == {plan.fate for plan in tasks}
    assert ({None}, {None, "cancel", "time-out"}) == ({plan.cut for plan in threads}, {plan.cut for plan in tasks})
    assert {"x", "y"} == {topic for plan in tasks for topic, _ in plan.records}
