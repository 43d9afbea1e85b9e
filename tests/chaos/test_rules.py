"""The checker's rules catch lies: each of them by its own, and none of them without one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.history import (
    Hang,
    History,
    Journal,
    Load,
    Outcome,
    Process,
    Seen,
    Transaction,
    parsed,
    read_journals,
    value_of,
)
from tests.chaos.rules import RULES, violations

Lie = Callable[[History], object]

CALM = 100.0
LOAD = Load(threads=5, descriptors=10, handles=0)
SLOTS = {"size": 2, "idle": 2, "in_use": 0, "waiting": 0, "creating": 0, "retiring": 0}


def honest() -> History:
    """A history in which everything is as it should be: one transaction of each kind, and what was seen of them."""
    history = History(calm=CALM, inputs={(0, 0), (0, 1), (0, 2)}, positions={0: 2})
    outcomes: list[Outcome] = ["committed", "aborted", "unknown", "unknown", "committed"]
    for number, outcome in enumerate(outcomes):
        add(history, f"w.0.{number}", outcome)
    # killed in the middle of two transactions, of which one had come to its end
    add(history, "k.0.0", None, process="k")
    add(history, "k.0.1", None, process="k")
    add(history, "p.0.0", "committed", process="p", sources=((0, 0), (0, 1)))
    for name in ("w.0.0", "w.0.2", "w.0.4", "k.0.0", "p.0.0"):
        show(history, name)
    for name in ("w", "p"):
        history.processes[name] = Process(name, end="finished", before=LOAD, after=LOAD, slots=SLOTS)
        history.processes[name].open, history.processes[name].expected_handles = Load(20, 30, 2), 2
    history.processes["k"] = Process("k", end="killed", before=LOAD)
    # replaced by another version, which took its ids before it had ended
    add(history, "r.0.0.0", "aborted", process="r.0")
    history.transactions["r.0.0.0"].error = "FencedError: by r.1"
    history.processes["r.0"] = Process("r.0", end="stopped", began=CALM, last=CALM + 5)
    history.processes["r.1"] = Process("r.1", end="killed", began=CALM + 4, last=CALM + 9)
    return history


def add(
    history: History,
    name: str,
    outcome: Outcome | None,
    *,
    process: str = "w",
    sources: tuple[tuple[int, int], ...] = (),
) -> None:
    """Add a transaction of two records."""
    each = Transaction(name, process, CALM + 1, (("a", f"{process}.0"), ("b", f"{process}.0")), sources)
    each.said, each.told = outcome, (outcome,) if outcome else ()
    history.transactions[name] = each


def show(history: History, name: str) -> None:
    """Let a transaction's records be seen."""
    transaction = history.transactions[name]
    for number, (topic, key) in enumerate(transaction.records):
        source = transaction.sources[number] if transaction.sources else None
        history.seen.append(Seen(topic, 0, len(history.seen), key, name, number, source))


def tell(history: History, name: str, outcome: Outcome | None) -> None:
    """Let call and event say something else of a transaction."""
    each = history.transactions[name]
    each.said, each.told = outcome, (outcome,) if outcome else ()


def hide(history: History, name: str, *numbers: int) -> None:
    """Let records of a transaction not be seen."""
    history.seen = [each for each in history.seen if each.transaction != name or each.number not in numbers]


def seen(history: History, name: str) -> Seen:
    """Return the last record of a transaction."""
    return [each for each in history.seen if each.transaction == name][-1]


def change(history: History, name: str, number: int, **fields: Any) -> None:
    """Let a record be seen otherwise."""
    history.seen = [
        replace(each, **fields) if (each.transaction, each.number) == (name, number) else each for each in history.seen
    ]


def slots(history: History, **counts: int) -> None:
    """Let a pool end with other slots."""
    history.processes["w"].slots = {**SLOTS, **counts}


def late(history: History) -> None:
    """Let a process commit nothing but before the calm."""
    for each in history.transactions.values():
        if each.process == "w":
            each.began = CALM - 1


def turn_round(history: History) -> None:
    """Let each of two records be made of what the other one was made of."""
    change(history, "p.0.0", 0, source=(0, 1))
    change(history, "p.0.0", 1, source=(0, 0))


def process_again(history: History) -> None:
    """Let what was consumed be processed a second time."""
    add(history, "p.0.1", "committed", process="p", sources=((0, 1), (0, 0)))
    show(history, "p.0.1")


LIES: dict[str, list[Lie]] = {
    "committed_is_there": [
        lambda history: hide(history, "w.0.0", 0, 1),
        lambda history: hide(history, "w.0.4", 1),
        lambda history: tell(history, "w.0.3", "committed"),
        lambda history: tell(history, "w.0.1", "committed"),
    ],
    "nothing_is_there_twice": [
        lambda history: history.seen.append(replace(seen(history, "w.0.4"), offset=99)),
        lambda history: history.seen.append(replace(seen(history, "k.0.0"), offset=99)),
    ],
    "aborted_is_hidden": [
        lambda history: tell(history, "w.0.0", "aborted"),
        lambda history: tell(history, "w.0.2", "aborted"),
    ],
    "unknown_is_whole": [
        lambda history: hide(history, "w.0.2", 0),
        lambda history: hide(history, "k.0.0", 1),
    ],
    "all_was_intended": [
        lambda history: history.seen.append(Seen("a", 0, 99, "stranger", "nobody.0.0", 0)),
        lambda history: history.seen.append(Seen("a", 0, 99, "w.0", "w.0.4", 2)),
        lambda history: change(history, "w.0.4", 1, key="other"),
        lambda history: change(history, "w.0.4", 1, topic="c"),
        turn_round,
    ],
    "keys_are_in_order": [
        lambda history: change(history, "w.0.4", 0, offset=-1),
        lambda history: change(history, "w.0.4", 0, partition=1),
    ],
    "accounts_agree": [
        lambda history: setattr(history.transactions["w.0.0"], "told", ("aborted",)),
        lambda history: setattr(history.transactions["w.0.3"], "told", ("aborted",)),
        lambda history: setattr(history.transactions["w.0.0"], "told", ("committed", "committed")),
    ],
    "all_are_answered": [
        lambda history: tell(history, "w.0.3", None),
        lambda history: setattr(history.processes["k"], "end", "finished"),
    ],
    "offsets_follow_records": [
        lambda history: history.positions.update({0: 1}),
        lambda history: history.positions.update({0: 3}),
        lambda history: history.positions.clear(),
        process_again,
    ],
    "calls_keep_their_deadlines": [lambda history: history.hangs.append(Hang("w", "commit", 9_000, 3_000, CALM))],
    "no_slot_is_lost": [
        lambda history: slots(history, idle=1),
        lambda history: slots(history, waiting=1),
        lambda history: slots(history, idle=1, retiring=1),
    ],
    "nothing_is_leaked": [
        lambda history: setattr(history.processes["w"], "after", replace(LOAD, threads=6)),
        lambda history: setattr(history.processes["w"], "after", replace(LOAD, descriptors=11)),
        lambda history: setattr(history.processes["p"], "after", replace(LOAD, handles=1)),
        lambda history: setattr(history.processes["p"], "open", Load(20, 30, 3)),
        lambda history: abandons(history, handles=2),
        lambda history: abandons(history, handles=1, threads=9),
    ],
    "nobody_dies": [
        lambda history: setattr(history.processes["k"], "end", "died"),
        lambda history: setattr(history.processes["k"], "end", "hung"),
    ],
    "nobody_is_surprised": [lambda history: history.surprises.append(("w", "AssertionError()"))],
    "nobody_is_fenced_alone": [
        lambda history: setattr(history.transactions["w.0.1"], "error", "FencedError: by whom?"),
        lambda history: setattr(history.transactions["w.0.1"], "error", "PoolUnhealthyError: by whom?"),
        lambda history: setattr(history.processes["r.1"], "began", CALM + 6),
    ],
    "all_recover": [late],
}


def abandons(history: History, *, handles: int, threads: int = 8) -> None:
    """Let a close say that it left one producer in a call, and so many handles and threads more than before be left."""
    process = history.processes["w"]
    process.abandoned = 1
    process.after = replace(LOAD, handles=LOAD.handles + handles, threads=LOAD.threads + threads)


def test_the_truth_is_no_violation() -> None:
    """A history in which everything is as it should be breaks no rule."""
    assert [] == violations(honest())


def test_what_a_close_says_it_left_is_no_leak() -> None:
    """A call of librdkafka may never come back: the handle that is in it, and its threads, are no violation."""
    history = honest()
    abandons(history, handles=1)

    assert [] == violations(history)


def test_every_rule_has_its_lie() -> None:
    """No rule is there that no lie has tried."""
    assert list(RULES) == list(LIES)


@pytest.mark.parametrize(
    ("rule", "lie"), [pytest.param(rule, lie, id=f"{rule}-{i}") for rule in LIES for i, lie in enumerate(LIES[rule])]
)
def test_a_lie_is_caught_by_its_rule(rule: str, lie: Lie) -> None:
    """Each lie is caught, by the rule that is there for it and by no other."""
    history = honest()
    lie(history)

    assert {rule} == {each.rule for each in violations(history)}


# -- journals --------------------------------------------------------------------------------------


def test_a_journal_tells_what_was_written(tmp_path: Path) -> None:
    """What a process writes is read back: intents, outcomes, hangs and what it had at its end."""
    journal = Journal(tmp_path / "w.jsonl")
    journal.write("start", pid=7)
    journal.write("before", load={"threads": 5, "descriptors": 10, "handles": 0})
    journal.write("intent", tx="w.0.1", records=[["a", "w.0"]], sources=[[0, 4]])
    journal.write("end", tx="w.0.1", said="aborted", told=["aborted"], error="why")
    journal.write("intent", tx="w.0.2", records=[["a", "w.0"]])
    journal.write("hang", call="commit", took_ms=9_000, deadline_ms=3_000, where="here")
    journal.write("surprise", error="TypeError()")
    journal.write("idle", load={"threads": 20, "descriptors": 30, "handles": 2}, slots=SLOTS, handles=2)
    journal.write("after", load={"threads": 5, "descriptors": 10, "handles": 0})
    journal.write("finished")
    history = read_journals([journal.path])

    first, second = history.transactions.values()
    assert (("a", "w.0"),) == first.records == second.records
    assert (("aborted", ("aborted",), "why", ((0, 4),)), None) == (
        (first.said, first.told, first.error, first.sources),
        second.outcome,
    )
    process = history.processes["w"]
    assert (7, "finished", LOAD, LOAD, SLOTS, 2) == (
        process.pid,
        process.end,
        process.before,
        process.after,
        process.slots,
        process.expected_handles,
    )
    assert [("w", "commit")] == [(each.process, each.call) for each in history.hangs]
    assert [("w", "TypeError()")] == history.surprises


def test_a_killed_process_has_told_all_but_its_last_line(tmp_path: Path) -> None:
    """A line that was cut off is no line, and a process that hasn't said that it finished was killed."""
    journal = Journal(tmp_path / "w.jsonl")
    journal.write("intent", tx="w.0.1", records=[])
    with journal.path.open("ab") as file:
        file.write(b'{"at": 1, "what": "e')
    history = read_journals([journal.path])

    assert ["w.0.1"] == list(history.transactions)
    assert "killed" == history.processes["w"].end


@pytest.mark.parametrize("source", [None, (3, 17)])
def test_a_record_tells_its_transaction(source: tuple[int, int] | None) -> None:
    """A record's value says which one of which transaction it is, and what it was made of."""
    value = value_of("w.0.1", 4, source).encode()

    assert Seen("a", 2, 9, "k", "w.0.1", 4, source) == parsed("a", 2, 9, b"k", value)


def test_a_strangers_record_is_one() -> None:
    """What isn't ours has no transaction that anybody knows."""
    history = honest()
    history.seen.append(parsed("a", 0, 99, None, b"hello"))

    assert {"all_was_intended"} == {each.rule for each in violations(history)}
