"""How the outcome of a commit without an answer is looked for, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.scripted import FaultKind, fault
from wd_di._concurrency.deadline import Deadline
from wd_di._transactions import resolution
from wd_di._transactions.positions import Move
from wd_di._transactions.resolution import Doubt
from wd_di.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._concurrency.errands import Errand
    from wd_di._kafka.port import Fault
    from wd_di.errors import Resolution

PLACE = ("in", 0)
NOT_YET, DENIED = fault(FaultKind.RETRIABLE), fault(FaultKind.OTHER)


@dataclass
class Broker:
    """The connection that a commit was asked of, its successor, and a reader; what was asked of them.

    Attributes:
        inits: What the next requests for the id meet: a fault, or nothing.
        visible: Whether a reader finds a topic's record, or why it can't tell.
        stands: Where the group stands, or why it can't be told.
        trouble: What the successor has last heard of the brokers.
        reader: Why there is none.
        closing: Whether the pool closes.
    """

    log: list[str] = field(default_factory=list)
    patience: list[float] = field(default_factory=list)
    inits: list[Fault | None] = field(default_factory=list)
    visible: dict[str, bool | Fault] = field(default_factory=dict)
    stands: dict[tuple[str, int], int] | Fault = field(default_factory=dict)
    trouble: Fault | None = None
    reader: Exception | None = None
    closing: Callable[[], bool] = lambda: True

    @property
    def connection(self) -> Any:
        """As a doubt sees it; its worker does at once what it is told."""
        client = SimpleNamespace(transactional_id="t-0", close=lambda: self.log.append("close"))
        return SimpleNamespace(
            client=client,
            services=SimpleNamespace(closing=self.closing),
            entrust=lambda errand: errand.run_on(SimpleNamespace(submit=lambda job: job())),
            successor=self._successor,
            read=self._read,
        )

    def _successor(self) -> Any:
        self.log.append("successor")
        return SimpleNamespace(
            init=self._init,
            poll=lambda _: None,
            fault=None,
            last_error=self.trouble,
            close=lambda: self.log.append("close successor"),
        )

    def _init(self, _: float) -> None:
        self.log.append("init")
        if self.inits and (met := self.inits.pop(0)) is not None:
            raise met

    def _read(self) -> Any:
        self.log.append("read")
        if self.reader is not None:
            raise self.reader
        return SimpleNamespace(sees=self._sees, stands=self._stands, close=lambda: self.log.append("close reader"))

    def _sees(self, topic: str, partition: int, offset: int, deadline: Deadline) -> bool:
        self.log.append(f"sees {topic}[{partition}]@{offset}")
        self.patience.append(deadline.seconds)
        found = self.visible[topic]
        if isinstance(found, Exception):
            raise found
        return found

    def _stands(self, _: object, __: object, deadline: Deadline, *, stable: bool) -> dict[tuple[str, int], int]:
        self.log.append("stands" if stable else "stands for now")
        self.patience.append(deadline.seconds)
        if isinstance(self.stands, Exception):
            raise self.stands
        return self.stands


def look(
    broker: Broker,
    stored: dict[str, tuple[int | None, int | None]] | None = None,
    moves: tuple[int, ...] = (),
    *,
    fenced: bool = False,
    seconds: float = 60.0,
) -> Resolution:
    """What is found out of a transaction with these records, and with a group's offset for each of ``moves``."""
    stored = stored or {}
    ledger: Any = SimpleNamespace(records=len(stored), stored=stored)
    groups = [Move(f"group {number}".encode()) for number, _ in enumerate(moves)]
    for group, offset in zip(groups, moves, strict=True):
        group.before, group.to = {PLACE: 3}, {PLACE: offset}
    errand: Errand[Resolution] = Doubt(broker.connection, ledger, groups, fenced=fenced).look(Deadline(seconds))
    return errand.get()


def test_the_steps() -> None:
    """The id is taken before anything is read, by nobody else than a successor; nothing is left open."""
    broker = Broker(visible={"orders": True})
    found = look(broker, {"orders": (0, 7)})

    assert ("committed", "record") == (found.outcome, found.way)
    assert [
        "close", "successor", "init", "read", "sees orders[0]@7", "close reader", "close successor",
    ] == broker.log  # fmt: skip


def test_the_steps_of_who_was_fenced() -> None:
    """The other owner of the id has ended what was open, and keeps it."""
    broker = Broker(visible={"orders": False})
    found = look(broker, {"orders": (0, 0)}, fenced=True)

    assert ("aborted", "record") == (found.outcome, found.way)
    assert ["read", "sees orders[0]@0", "close reader"] == broker.log


def test_the_id_is_asked_for_until_it_is_there() -> None:
    """A coordinator that isn't ready is asked again."""
    broker = Broker(visible={"orders": True}, inits=[NOT_YET, NOT_YET])

    assert "committed" == look(broker, {"orders": (0, 7)}).outcome
    assert 3 == broker.log.count("init")


def test_a_request_for_the_id_is_waited_for() -> None:
    """Past the deadline nothing is known; but what has asked for the id isn't left, for it might have it later."""
    closing = (number > 1 for number in count())
    broker = Broker(inits=[NOT_YET] * 5, closing=lambda: next(closing))
    found = look(broker, {"orders": (0, 7)}, seconds=0)

    assert ("unknown", None) == (found.outcome, found.way)
    assert "transactional.id 't-0': scripted retriable" == found.told
    assert ["close", "successor", "init", "init", "init", "init", "close successor"] == broker.log


def test_nobody_asks_for_what_cannot_be_read() -> None:
    """A record whose place isn't known says nothing."""
    broker = Broker(visible={"d": True})
    nowhere: dict[str, tuple[int | None, int | None]] = {"a": (None, 1), "b": (0, None), "c": (0, -1)}

    assert "committed" == look(broker, {**nowhere, "d": (0, 0)}).outcome
    assert ["sees d[0]@0"] == [line for line in broker.log if line.startswith("sees")]

    found = look(Broker(), nowhere)
    assert ("unknown", "nothing of it could be looked for") == (found.outcome, found.told)


def test_all_that_can_tell_share_the_time() -> None:
    """Each gets an equal part of what the ones before it have left."""
    broker = Broker(visible={"a": DENIED, "b": DENIED}, stands={PLACE: 4})
    found = look(broker, {"a": (0, 1), "b": (0, 1)}, (9, 9), seconds=240)

    assert "unknown" == found.outcome
    assert "scripted other; the group stands at 4 of in[0], which tells nothing" == found.told
    assert pytest.approx([60, 80, 120, 120], abs=2) == broker.patience


def test_a_group_that_cannot_be_asked_leaves_its_time_to_the_next() -> None:
    """And says why it couldn't."""
    broker = Broker(stands=DENIED)
    found = look(broker, moves=(9, 9, 9), seconds=240)

    assert ("unknown", "scripted other") == (found.outcome, found.told)
    assert pytest.approx([80, 120, 240], abs=2) == broker.patience


def test_a_group_tells_what_is_settled() -> None:
    """An open transaction's offsets are waited for; who stands where it did before has moved nowhere."""
    broker = Broker(stands={PLACE: 3})
    found = look(broker, moves=(9,))

    assert ("aborted", "offsets") == (found.outcome, found.way)
    assert "stands" in broker.log


def test_a_group_that_stands_elsewhere_tells_nothing() -> None:
    """Somebody else has brought it there."""
    found = look(Broker(stands={PLACE: 4}), moves=(9,))

    assert ("unknown", None) == (found.outcome, found.way)


def test_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the doubt to what was found, in milliseconds."""
    clock = iter([100.0, 100.25])
    monkeypatch.setattr(resolution, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    assert 250 == look(Broker(visible={"orders": True}), {"orders": (0, 7)}).duration_ms


def test_why_the_id_could_not_be_had() -> None:
    """What the brokers last told says more than that there was no answer."""
    found = look(Broker(inits=[DENIED], trouble=fault(FaultKind.DENIED)), {"orders": (0, 7)})

    assert ("unknown", "transactional.id 't-0': scripted denied") == (found.outcome, found.told)


@pytest.mark.parametrize(
    ("error", "told"),
    [(SettingsError("no CA"), "transactional.id 't-0': no CA"), (ValueError("no CA"), "ValueError: no CA")],
)
def test_a_reader_that_cannot_be_made(error: Exception, told: str) -> None:
    """Whatever it is, the commit's own outcome is what is told: nobody knows."""
    found = look(Broker(reader=error), {"orders": (0, 7)}, fenced=True)

    assert ("unknown", told) == (found.outcome, found.told)
