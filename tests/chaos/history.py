"""What a run leaves on record: journals of intents and outcomes, and what a reader found in the end."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

Outcome = Literal["committed", "aborted", "unknown"]
End = Literal["finished", "stopped", "killed", "died", "hung"]
"""How a process ended.

It ``finished`` when all was calm, was ``stopped`` in good order before, or ``killed`` by us; it ``died`` by itself, or
``hung`` though it was told to end.
"""


class Journal:
    """A file to which a process appends what it is about to do, and what came of it.

    Each line is with the system before the call returns, so a process that is killed has told all that it did. There is
    no lock that a fork could leave locked: the system appends whole lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, what: str, **fields: object) -> None:
        """Append a line."""
        line = json.dumps({"at": round(time.time(), 3), "what": what, **fields}, separators=(",", ":"), default=str)
        os.write(self._file, line.encode() + b"\n")


@dataclass(slots=True)
class Transaction:
    """One transaction: what was intended, and what its process knows of it.

    Attributes:
        name: Its process, the worker and a number, which grows.
        records: Topic and key of each record that was to be produced, in order.
        sources: Partition and offset of what was consumed in it.
        said: What the call returned or raised; ``None`` if it was cut short, by a cancellation or a kill.
        told: What the pool's own event told; each time if it did twice.
        error: What was raised.
    """

    name: str
    process: str
    began: float
    records: tuple[tuple[str, str], ...]
    sources: tuple[tuple[int, int], ...] = ()
    ended: float | None = None
    said: Outcome | None = None
    told: tuple[Outcome, ...] = ()
    error: str = ""

    @property
    def outcome(self) -> Outcome | None:
        """What is known of it, whoever said so."""
        return self.said or (self.told[0] if self.told else None)


@dataclass(frozen=True, slots=True)
class Seen:
    """A record that a ``read_committed`` reader found: the one with this number of this transaction.

    Attributes:
        source: Partition and offset of what it was made of, if it says so.
    """

    topic: str
    partition: int
    offset: int
    key: str
    transaction: str
    number: int
    source: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What a process has of what it must give back."""

    threads: int
    descriptors: int
    handles: int

    def within(self, other: Load) -> bool:
        """Whether it is no more than another, in anything."""
        more = (self.threads > other.threads, self.descriptors > other.descriptors, self.handles > other.handles)
        return not any(more)


@dataclass(slots=True)
class Process:
    """One life of a writer, or of a child of it.

    Attributes:
        code: What it exited with, if it is known.
        began: When it said its first word.
        last: When it said its last one.
        finished: When it said that it had ended in good order.
        before: What it had before it opened its pool.
        open: What it had when its pool was idle and open, in the end.
        after: What it had when its pool was closed.
        slots: The pool's counts in the end: size, idle and all others.
        expected_handles: How many handles an open and idle process may have.
        abandoned: How many producers the close has left in a call that librdkafka doesn't come back from, and said so.
    """

    name: str
    pid: int = 0
    end: End = "killed"
    code: int | None = None
    began: float = 0.0
    last: float = 0.0
    finished: float = 0.0
    before: Load | None = None
    open: Load | None = None
    after: Load | None = None
    slots: Mapping[str, int] = field(default_factory=dict)
    expected_handles: int = 0
    abandoned: int = 0


@dataclass(frozen=True, slots=True)
class Hang:
    """A call that took longer than its deadline allows."""

    process: str
    call: str
    took_ms: float
    deadline_ms: float
    at: float
    where: str = ""


@dataclass(slots=True)
class History:
    """All that is known of a run.

    Attributes:
        surprises: What was raised that nobody expects, by process.
        calm: Since when nothing was done to anybody.
        inputs: Partition and offset of all that could be consumed.
        positions: The group's committed offset of each partition.
    """

    transactions: dict[str, Transaction] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    processes: dict[str, Process] = field(default_factory=dict)
    hangs: list[Hang] = field(default_factory=list)
    surprises: list[tuple[str, str]] = field(default_factory=list)
    calm: float = 0.0
    inputs: set[tuple[int, int]] = field(default_factory=set)
    positions: dict[int, int] = field(default_factory=dict)


def value_of(transaction: str, number: int, source: tuple[int, int] | None = None) -> str:
    """Return what stands in a record, for `parsed` to read."""
    return f"{transaction}/{number}" + (f"/{source[0]}:{source[1]}" if source else "")


def parsed(topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None) -> Seen:
    """Return what a record tells of its transaction."""
    transaction, _, rest = (value or b"").decode(errors="replace").partition("/")
    number, _, source = rest.partition("/")
    place = tuple(map(int, source.split(":"))) if source else None
    told = cast("tuple[int, int] | None", place)
    return Seen(topic, partition, offset, (key or b"").decode(), transaction, int(number or -1), told)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Give what a journal has; the last line of a killed process may be torn."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def read_journals(paths: Iterable[Path]) -> History:
    """Return what the journals tell, each of the process after which it is named."""
    history = History()
    for path in sorted(paths):
        process = history.processes.setdefault(path.stem, Process(path.stem))
        for line in lines(path):
            _take(history, process, line)
    return history


def _take(history: History, process: Process, line: dict[str, Any]) -> None:
    what, at = line["what"], line["at"]
    process.began, process.last = process.began or at, at
    match what:
        case "intent":
            records = tuple((topic, key) for topic, key in line["records"])
            sources = tuple((partition, offset) for partition, offset in line.get("sources", ()))
            history.transactions[line["tx"]] = Transaction(line["tx"], process.name, at, records, sources)
        case "end":
            transaction = history.transactions[line["tx"]]
            transaction.ended, transaction.error = at, line.get("error", "")
            transaction.said, transaction.told = line["said"], tuple(line["told"])
        case "hang":
            took, deadline = line["took_ms"], line["deadline_ms"]
            history.hangs.append(Hang(process.name, line["call"], took, deadline, at, line.get("where", "")))
        case "surprise":
            history.surprises.append((process.name, line["error"]))
        case "start":
            process.pid = line["pid"]
        case "before" | "after":
            setattr(process, what, Load(**line["load"]))
            process.abandoned = line.get("abandoned", 0)
        case "idle":
            process.open, process.slots = Load(**line["load"]), line["slots"]
            process.expected_handles = line["handles"]
        case "finished":
            process.end, process.finished = "finished", at
        case _:
            pass  # told for people
