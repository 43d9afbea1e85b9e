"""What must hold of a run, whatever was done to it: each rule looks at its history and names what breaks it.

No rule does anything but look, so each is tested by a history that lies.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.chaos.history import History, Process, Seen, Transaction


OF_A_HANDLE = {"threads": 8, "descriptors": 16, "handles": 1}
"""What one handle on three brokers has, with the thread that is in a call of it."""
_FENCED = ("FencedError", "PoolUnhealthyError")
_LIFE = re.compile(r"[^.]+\.\d+")  # not of a child, which has ids of its own


@dataclass(frozen=True, slots=True)
class Violation:
    """What broke a rule, and the transactions whose story tells more."""

    rule: str
    text: str
    transactions: tuple[str, ...] = ()


Found = tuple[str, tuple[str, ...]]


def violations(history: History) -> list[Violation]:
    """Return what breaks any of the rules."""
    return [Violation(name, *found) for name, rule in RULES.items() for found in rule(history)]


# -- transactions ----------------------------------------------------------------------------------


def committed_is_there(history: History) -> Iterator[Found]:
    """Each record of a transaction that is said to be committed is visible."""
    seen = _seen_numbers(history.seen)
    for each in history.transactions.values():
        if each.outcome == "committed" and (missing := set(range(len(each.records))) - seen[each.name]):
            yield f"{each.name} is committed, but its records {sorted(missing)} aren't there", (each.name,)


def nothing_is_there_twice(history: History) -> Iterator[Found]:
    """No record is visible twice, whatever became of its transaction."""
    counts = Counter((each.transaction, each.number) for each in history.seen)
    for (name, number), count in counts.items():
        if count > 1:
            yield f"record {number} of {name} is there {count} times", (name,)


def aborted_is_hidden(history: History) -> Iterator[Found]:
    """No record of a transaction that is said to be aborted is visible."""
    seen = _seen_numbers(history.seen)
    for each in history.transactions.values():
        if each.outcome == "aborted" and seen[each.name]:
            yield f"{each.name} is aborted, but its records {sorted(seen[each.name])} are there", (each.name,)


def unknown_is_whole(history: History) -> Iterator[Found]:
    """Of a transaction whose outcome nobody reported, or reported as unknown, all is visible or nothing."""
    seen = _seen_numbers(history.seen)
    for each in history.transactions.values():
        there = seen[each.name]
        if each.outcome in (None, "unknown") and there and len(there) < len(each.records):
            yield f"of {each.name}, whose outcome is unknown, only the records {sorted(there)} are there", (each.name,)


def all_was_intended(history: History) -> Iterator[Found]:
    """Each visible record was announced, with its topic and key, before it was produced."""
    for each in history.seen:
        transaction = history.transactions.get(each.transaction)
        if transaction is None or not _announced(each, transaction):
            place = f"{each.topic}[{each.partition}]@{each.offset}"
            yield f"nobody meant to produce {each.transaction}/{each.number} at {place}", (each.transaction,)


def keys_are_in_order(history: History) -> Iterator[Found]:
    """The records of a key stand in one partition, in the order in which they were produced."""
    by_key: dict[tuple[str, str], list[Seen]] = defaultdict(list)
    for each in history.seen:
        by_key[each.topic, each.key].append(each)
    for (topic, key), records in by_key.items():
        if len({each.partition for each in records}) > 1:
            yield f"key {key} of {topic} is in several partitions", tuple({each.transaction for each in records[:10]})
        ordered = sorted(records, key=lambda each: (each.partition, each.offset))
        for sooner, later in pairwise(ordered):
            if sooner.partition == later.partition and _turn(later) < _turn(sooner):
                names = (sooner.transaction, later.transaction)
                yield f"key {key} of {topic}: {names[1]} stands behind {names[0]}", names


def accounts_agree(history: History) -> Iterator[Found]:
    """A call and the pool's event say the same of a transaction, and the event says it once."""
    for each in history.transactions.values():
        told = set(each.told) | ({each.said} if each.said else set())
        if len(told) > 1 or len(each.told) > 1:
            yield f"{each.name}: the call said {each.said}, the event {', '.join(each.told)}", (each.name,)


def all_are_answered(history: History) -> Iterator[Found]:
    """A process that lived to its end knows the outcome of each of its transactions."""
    for each in history.transactions.values():
        if each.outcome is None and history.processes[each.process].end in ("finished", "replaced"):
            yield f"{each.name} has no outcome, though {each.process} lived on", (each.name,)


# -- offsets ---------------------------------------------------------------------------------------


def offsets_follow_records(history: History) -> Iterator[Found]:
    """What was made of an input is visible once if the group has passed that input, and else not at all."""
    made: dict[tuple[int, int], list[str]] = defaultdict(list)
    for each in history.seen:
        if each.source is not None:
            made[each.source].append(each.transaction)
    for (partition, offset), names in made.items():
        if len(names) > 1:
            yield f"input {partition}:{offset} was processed {len(names)} times", tuple(names)
        if offset >= history.positions.get(partition, 0):
            passed = history.positions.get(partition, 0)
            yield f"input {partition}:{offset} was processed, but the group stands at {passed}", tuple(names)
    for partition, offset in sorted(history.inputs - made.keys()):
        if offset < history.positions.get(partition, 0):
            yield f"input {partition}:{offset} was passed by the group, but not processed", ()


# -- processes -------------------------------------------------------------------------------------


def calls_keep_their_deadlines(history: History) -> Iterator[Found]:
    """No call takes longer than its deadline and some margin."""
    for each in history.hangs:
        yield f"{each.process}: {each.call} took {each.took_ms:.0f} ms, allowed are {each.deadline_ms:.0f}", ()


def no_slot_is_lost(history: History) -> Iterator[Found]:
    """In the end each slot has an idle producer, and nobody waits."""
    for each in _finished(history):
        others = {name: count for name, count in each.slots.items() if name not in ("size", "idle") and count}
        if each.slots and (each.slots["idle"] != each.slots["size"] or others):
            yield (
                f"{each.name}: {each.slots['idle']} of {each.slots['size']} slots are idle, {others or 'no'} others",
                (),
            )


def nothing_is_leaked(history: History) -> Iterator[Found]:
    """A closed pool has given all threads, descriptors and handles back, and an idle one has a handle for each slot.

    But for what the close has said it left to librdkafka.
    """
    for each in history.processes.values():
        calm = each.end == "finished"  # else one may just be on its way out
        expected = each.expected_handles + each.abandoned
        if calm and each.open is not None and each.open.handles > expected:
            yield f"{each.name}: {each.open.handles} handles, expected are {expected}", ()
        if each.before is None or each.after is None:
            continue
        for name, of_each in OF_A_HANDLE.items():
            before, after = getattr(each.before, name), getattr(each.after, name)
            if after > before + of_each * each.abandoned:
                left = f", and {each.abandoned} abandoned" if each.abandoned else ""
                yield f"{each.name}: {after} {name} after the end, {before} before{left}", ()


def nobody_dies(history: History) -> Iterator[Found]:
    """No process ends by itself, and each that is told to end does."""
    for each in history.processes.values():
        if each.end in ("died", "hung"):
            yield f"{each.name} {each.end}{'' if each.code is None else f', exit code {each.code}'}", ()


def nobody_is_surprised(history: History) -> Iterator[Found]:
    """Nothing is raised but what the library says that it raises."""
    for process, error in history.surprises:
        yield f"{process}: {error}", ()


def nobody_is_fenced_alone(history: History) -> Iterator[Found]:
    """Only whose ids another process had, too, is fenced, and unhealthy for it: the old one beside its successor."""
    for each in history.transactions.values():
        if each.error.startswith(_FENCED) and not _rivals(history, history.processes[each.process]):
            yield f"{each.name} met {each.error}, but nobody else had the ids of {each.process}", (each.name,)


def all_recover(history: History) -> Iterator[Found]:
    """Once nothing is done to anybody, each process commits again, by itself."""
    since = {
        each.process
        for each in history.transactions.values()
        if each.outcome == "committed" and each.began >= history.calm
    }
    for each in _finished(history):
        if each.slots and each.name not in since:
            yield f"{each.name} committed nothing when all was calm", ()


RULES: dict[str, Callable[[History], Iterable[Found]]] = {
    rule.__name__: rule
    for rule in (
        committed_is_there,
        nothing_is_there_twice,
        aborted_is_hidden,
        unknown_is_whole,
        all_was_intended,
        keys_are_in_order,
        accounts_agree,
        all_are_answered,
        offsets_follow_records,
        calls_keep_their_deadlines,
        no_slot_is_lost,
        nothing_is_leaked,
        nobody_dies,
        nobody_is_surprised,
        nobody_is_fenced_alone,
        all_recover,
    )
}


def _seen_numbers(seen: Iterable[Seen]) -> defaultdict[str, set[int]]:
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    for each in seen:
        numbers[each.transaction].add(each.number)
    return numbers


def _announced(seen: Seen, transaction: Transaction) -> bool:
    if not 0 <= seen.number < len(transaction.records):
        return False
    known = not transaction.sources or seen.source == transaction.sources[seen.number]
    return known and (seen.topic, seen.key) == transaction.records[seen.number]


def _turn(seen: Seen) -> tuple[int, int]:
    """When the worker produced it: the number of its transaction, and its own therein."""
    _, _, number = seen.transaction.rpartition(".")
    return (int(number) if number.isdecimal() else -1, seen.number)


def _rivals(history: History, process: Process) -> list[Process]:
    """Return the other lives of the same writer that were there at the same time."""
    writer = process.name.partition(".")[0]
    return [
        other
        for other in history.processes.values()
        if other is not process
        and other.name.partition(".")[0] == writer
        and _LIFE.fullmatch(other.name)
        and _LIFE.fullmatch(process.name)
        and other.began < process.last
        and process.began < other.last
    ]


def _finished(history: History) -> list[Process]:
    return [each for each in history.processes.values() if each.end == "finished"]
