"""What a group's positions prove of a commit without an answer."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import TopicPartition

from tests.connections import connected
from wd_di._concurrency.deadline import Deadline
from wd_di._kafka.memory import MemoryBroker
from wd_di._kafka.port import Fault, FaultKind
from wd_di._transactions.positions import GROUPS_MAX, Move, note_before, note_commit, told

A, B = ("in", 0), ("in", 1)


def moved(*offsets: tuple[tuple[str, int], int], before: dict[Any, int]) -> Move:
    """What a transaction does that sends these offsets one after the other."""
    move = Move(b"CGMD", before=before)
    for place, offset in offsets:
        move.add([TopicPartition(*place, offset)])
    return move


@pytest.mark.parametrize(
    ("offsets", "before", "stands", "expected"),
    [
        ([(A, 5)], {A: 2}, {A: 5}, True),
        ([(A, 5)], {A: 2}, {A: 2}, False),
        ([(A, 5)], {A: -1001}, {A: -1001}, False),
        ([(A, 5)], {}, {A: 5}, True),
        ([(A, 5)], {}, {A: 2}, None),
        ([(A, 5)], {A: 2}, {A: 3}, None),
        ([(A, 5)], {A: 2}, {A: 1}, None),
        ([(A, 5)], {A: 2}, {A: 9}, None),
        ([(A, 5)], {A: 2}, {A: -1001}, None),
        ([(A, 9), (A, 5)], {A: 2}, {A: 5}, True),
        ([(A, 9), (A, 5)], {A: 2}, {A: 2}, False),
        ([(A, 1)], {A: 2}, {A: 1}, True),
        ([(A, 5), (B, 5)], {A: 2, B: 2}, {A: 5, B: 5}, True),
        ([(A, 5), (B, 5)], {A: 2, B: 2}, {A: 2, B: 2}, False),
        ([(A, 5), (B, 5)], {A: 2, B: 5}, {A: 2, B: 5}, False),
        ([(A, 5), (B, 5)], {A: 2, B: 2}, {A: 2, B: 9}, False),
        ([(A, 5), (B, 5)], {A: 2, B: 2}, {A: 5, B: 2}, None),
    ],
)
def test_what_positions_prove(
    offsets: list[Any], before: dict[Any, int], stands: dict[Any, int], *, expected: bool | None
) -> None:
    """At all offsets is a yes, where it was before is a no, and anything else was done by somebody else."""
    assert expected is told(moved(*offsets, before=before), stands)[0]


class Reader:
    """A reader of a group that stands at 2, and what it was asked."""

    def __init__(self, *, silent: bool = False) -> None:
        self.asked: list[set[Any]] = []
        self.silent = silent

    def stands(self, places: set[Any], *_: Any, stable: bool) -> dict[Any, int]:
        assert not stable
        self.asked.append(set(places))
        if self.silent:
            raise Fault(FaultKind.RETRIABLE, "no answer")
        return dict.fromkeys(places, 2)

    def close(self) -> None: ...


def sent(connection: Any, *offsets: tuple[tuple[str, int], int], member: bytes = b"CGMD") -> Move:
    """A transaction that sends these offsets, and is committed."""
    move, given = Move(member), [TopicPartition(*place, offset) for place, offset in offsets]
    note_before(connection, move, given, Deadline(3))
    move.add(given)
    note_commit(connection, [move])
    return move


def test_a_group_is_asked_for_once() -> None:
    """What is known of a member stays known by its commits; another member, or another partition, is asked for."""
    connection, reader = connected(lambda answers: MemoryBroker().connect("t", answers)).connection, Reader()
    connection.read = lambda: reader

    assert {A: 2} == sent(connection, (A, 5)).before
    assert {A: 5} == sent(connection, (A, 7)).before
    assert {A: 7, B: 2} == sent(connection, (A, 9), (B, 4)).before
    assert {A: 2} == sent(connection, (A, 9), member=b"CGMD of another").before
    assert [{A}, {B}, {A}] == reader.asked


def test_a_group_that_cannot_be_asked() -> None:
    """Its offsets are sent all the same, and only a commit makes it known."""
    connection, reader = connected(lambda answers: MemoryBroker().connect("t", answers)).connection, Reader(silent=True)
    connection.read = lambda: reader

    assert {} == sent(connection, (A, 5)).before
    assert {A: 5} == sent(connection, (A, 7)).before


def test_members_are_forgotten_in_the_end() -> None:
    """A rebalance makes another one, and a service may see many."""
    connection = connected(lambda answers: MemoryBroker().connect("t", answers)).connection
    connection.read = Reader
    for number in range(2 * GROUPS_MAX):
        sent(connection, (A, 5), member=f"CGMD{number}".encode())

    assert len(connection.services.stood) <= GROUPS_MAX + 1
