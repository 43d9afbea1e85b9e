"""How the benchmarks compare: by turns, ratios within a round, medians. What they measure needs a broker."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tests.bench.clients import ID, LOG_PARTITIONS, _java_hash, instance
from tests.bench.comparing import Spread, compare, turn
from tests.bench.groups import Group
from tests.bench.rivals import AsyncBorrowed, AsyncIdle, Fair, Lent
from tests.bench.workloads import Effort, Place, Target, Turn, Workload


def test_each_way_is_first_in_turn():
    """Every second round goes backwards, after one that isn't counted."""
    order = []

    def way(name):
        return lambda: order.append(name) or Turn(1, 1.0, [0.1])

    compared = compare(Workload(1, "t", "u", {"a": way("a"), "b": way("b")}), rounds=3)

    assert "ab" + "ab" + "ba" + "ab" == "".join(order)
    assert ["a", "b"] == [row.way for row in compared.rows]


def test_a_ratio_is_one_of_the_same_round():
    """A round in which all was slow changes no ratio, and one that was an exception doesn't count."""
    base = iter([0, 100, 10, 100])
    other = iter([0, 200, 20, 50])
    ways = {
        "a": lambda: Turn(next(base), 1.0, [0.001, 0.002, 0.003]),
        "b": lambda: Turn(next(other), 1.0, [0.001]),
    }

    first, second = compare(Workload(1, "t", "u", ways), rounds=3).rows

    assert (Spread(100, 10, 100), Spread(1, 1, 1)) == (first.figures["rate"], first.ratio)
    assert (Spread(50, 20, 200), Spread(2, 0.5, 2)) == (second.figures["rate"], second.ratio)
    assert [2, 3, 3] == [first.figures[name].median for name in ("call", "p99", "longest")]


def test_less_is_better_of_what_is_paid():
    """A ratio is of the figure that the workload names, and each target of its own."""
    ways = {
        "a": lambda: Turn(10, 1.0, cpu=0.5, also={"share": 0.25}),
        "b": lambda: Turn(10, 2.0, cpu=1.0, also={"share": 0.5}),
    }
    asked = [
        Target("b", "time", 1.9, "at most", against="a"),
        Target("b", "cpu", 50_000, "at most", against="a", above=True),
        Target("b", "share", 0.5, "at least"),
    ]

    compared = compare(Workload(1, "t", "u", ways, figure="cpu", targets=asked), rounds=2)

    assert [1, 2] == [row.ratio.median for row in compared.rows]
    assert [(2, False), (50_000, True), (0.5, True)] == [(each.found.median, each.kept) for each in compared.verdicts]


def test_only_what_is_wanted_is_made_ready():
    """By its number, or all; a module that gives none of them isn't asked."""
    asked = []

    def rows(*numbers):
        def give(place):
            asked.append(numbers)
            return iter([Workload(number, "t", "u", {}) for number in numbers])

        return {*numbers}, give

    group = Group(lambda effort: iter([Place(effort)]), [rows(1, 2), rows(3)])

    assert [2] == [each.number for each in group.workloads(Effort(), {2})]
    assert [(1, 2)] == asked
    assert [1, 2, 3] == [each.number for each in group.workloads(Effort())]


def test_the_queue_by_hand_is_fair():
    """What it is compared with keeps the promise that is measured."""
    pool, order = Fair("x"), []

    def borrow(number):
        with Lent(pool):
            order.append(number)

    with Lent(pool) as item:
        threads = [threading.Thread(target=borrow, args=(number,)) for number in range(3)]
        for count, thread in enumerate(threads, 1):
            thread.start()
            while len(pool._waiting) < count:
                time.sleep(0.001)
    for thread in threads:
        thread.join()

    assert ("x", [0, 1, 2]) == (item, order)


async def test_the_pool_of_one_loop_waits():
    """So it is with what tasks are compared with."""
    pool = AsyncIdle("x")

    async def borrow():
        async with AsyncBorrowed(pool) as item:
            await asyncio.sleep(0)
            return item

    assert ["x", "x"] == await asyncio.gather(borrow(), borrow())
    assert ["x"] == list(pool.idle)


def test_a_turn_counts_what_all_threads_did():
    """Each thread calls at least once, and says how many units a call was."""
    took = turn(3, 0, lambda thread: thread + 1)

    assert (6, 3) == (took.units, len(took.calls))
    assert took.rate == took.units / took.seconds


def test_a_failure_ends_the_turn():
    """A call that fails is no fast call."""
    with pytest.raises(ZeroDivisionError):
        turn(2, 0, lambda thread: 1 // thread)


def test_ids_are_spread_alike():
    """Java's hash decides on the coordinator, so each first id has the same."""
    assert 99_162_322 == _java_hash("hello")
    assert {0} == {_java_hash(ID.format(instance=instance(), index=0)) % LOG_PARTITIONS for _ in range(9)}
    assert [0, 1, 2, 0] == [_java_hash(ID.format(instance=instance(), index=n)) % LOG_PARTITIONS for n in range(4)]
