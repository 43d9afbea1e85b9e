# ruff: noqa: ARG005  (a lie takes what the honest one takes)
"""What a fake could get wrong without anybody noticing: each of these lies must be caught by the contract."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from wd_di._kafka.memory import MemoryBroker, MemoryClient
from wd_di._records.delivery import Delivery
from wd_di._records.in_flight import InFlight
from wd_di._slots.slots import Effects, Fencings
from wd_di._slots.table import SlotTable
from wd_di._transactions.hooks import Hooks
from wd_di._transactions.transaction import OpenTransaction
from wd_di.events import TransactionAborted
from wd_di.testing import _fake
from wd_di.testing._fake import FakePool
from wd_di.testing._fake_broker import FakeBroker, FakeClient

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


@dataclass(frozen=True)
class Lie:
    """A part of the fake, and what it is replaced by; ``replacement`` gets the honest one."""

    name: str
    owner: Any
    attribute: str
    replacement: Callable[[Any], Any]

    def tell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace the part."""
        honest = getattr(self.owner, self.attribute, None)  # None: an attribute of its instances
        monkeypatch.setattr(self.owner, self.attribute, self.replacement(honest), raising=False)

    def __str__(self) -> str:
        return self.name


def _with_record(**changed: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A produce that changes some of the record's fields."""

    def replacement(honest: Any) -> Any:
        def produce(client: Any, topic: str, *given: Any) -> None:
            value, key, on_delivery, rest = given
            record = {"value": value, "key": key, **(rest or {})}
            told = {name: changed.get(name, _same)(value) for name, value in record.items()}
            honest(client, topic, told.pop("value"), told.pop("key"), on_delivery, told)

        return produce

    return replacement


def _same(value: Any) -> Any:
    return value


def _nothing(_: Any) -> Any:
    return lambda *_, **__: None


def _commits_always(honest: Any) -> Any:
    return lambda broker, transactional_id, *, commit: honest(broker, transactional_id, commit=True)


def _loses_the_last(honest: Any) -> Any:
    return lambda broker, kept, records: honest(broker, kept, records[:-1] if len(records) > 1 else records)


def _turns_round(honest: Any) -> Any:
    return lambda broker, kept, records: honest(broker, kept, records[::-1])


def _remembers_twice(honest: Any) -> Any:
    return lambda broker, kept, records: honest(broker, kept, records * 2)


def _shows_at_once(honest: Any) -> Any:
    def store(broker: Any, record: Any, writer: Any) -> bool:
        stored: bool = honest(broker, record, writer)
        if writer is not None and stored:
            broker._open[writer.transactional_id].remove(record)
            broker.committed.append(record)
        return stored

    return store


def _counts_from_one(honest: Any) -> Any:
    def store(broker: Any, record: Any, writer: Any) -> bool:
        broker._ends.setdefault((record.name, record.number), 1)
        return bool(honest(broker, record, writer))

    return store


def _writes_no_marker(honest: Any) -> Any:
    def decide(broker: Any, transactional_id: str, *, commit: bool) -> None:
        before = dict(broker._ends)
        honest(broker, transactional_id, commit=commit)
        broker._ends = before

    return decide


def _acknowledges_everything(_: Any) -> Any:
    return MemoryClient._acknowledge


def _is_content_with_failures(honest: Any) -> Any:
    def unflushed(unit: Any, *given: Any) -> Any:
        unit.ledger.failed = None
        return honest(unit, *given)

    return unflushed


def _forgets_cue(call: str) -> Callable[[Any], Any]:
    return lambda honest: lambda broker, name: None if name == call else honest(broker, name)


def _counts_offsets_at_once(honest: Any) -> Any:
    def send_offsets(client: Any, offsets: Any, group_metadata: Any, seconds: float) -> None:
        honest(client, offsets, group_metadata, seconds)
        client._broker.offsets.extend(offsets)

    return send_offsets


def _finds_out_nothing(_: Any) -> Callable[..., Any]:
    return lambda _self, **_given: None


def _swallows(honest: Any) -> Any:
    return lambda unit, error, commit_on: honest(unit, error, commit_on) or isinstance(error, Exception)


def _replaces_the_error(honest: Any) -> Any:
    def finish(unit: Any, error: Any, commit_on: Any) -> bool:
        swallowed: bool = honest(unit, error, commit_on)
        if error is not None and not swallowed:
            raise type(error)(*error.args)
        return swallowed

    return finish


def _forgets_hook(when: str) -> Callable[[Any], Any]:
    return lambda honest: lambda hooks, wanted, fn: None if wanted == when else honest(hooks, wanted, fn)


def _hooks_know_only_success(honest: Any) -> Any:
    return lambda hooks, outcome, report: honest(hooks, "committed", report)


def _hooks_run_backwards(honest: Any) -> Any:
    def run_after(hooks: Any, *given: Any) -> None:
        hooks._given.reverse()
        honest(hooks, *given)

    return run_after


def _hooks_are_silent(honest: Any) -> Any:
    return lambda hooks, outcome, _: honest(hooks, outcome, lambda *_: None)


def _hooks_run_too_early(honest: Any) -> Any:
    def close(unit: Any, problem: Any) -> None:
        honest(unit, problem)
        unit.run_hooks()
        unit.hooks._given.clear()

    return close


def _aborts_without_telling(honest: Any) -> Any:
    return lambda unit, event, **fields: None if event is TransactionAborted else honest(unit, event, **fields)


def _tells_after_the_end(honest: Any) -> Any:
    def take_in(in_flight: Any, verdict: Any) -> bool:
        observer, in_flight._observer = in_flight._observer, _Deaf()
        try:
            return bool(honest(in_flight, verdict))
        finally:
            in_flight._observer = observer

    return take_in


class _Deaf:
    def wants(self, _: object) -> bool:
        return False

    def emit(self, *_: object, **__: object) -> None:
        """Tell nobody."""


def _as_mapping(headers: Any) -> Any:
    return list(dict(headers or ()).items())


def _without_headers(honest: Any) -> Any:
    return lambda record: replace(honest(record), headers=None)


def _always_delivered(_: Any) -> Any:
    return property(lambda delivery: delivery._told_by_broker)


def _is_never_late(_: Any) -> Any:
    return lambda fake: fake.fence()


def _never_in(_: Any) -> Any:
    return property(lambda _: False, lambda *_: None)


def _reloads_nothing(_: Any) -> Any:
    def reload(table: SlotTable) -> Effects:
        table.generation += 1
        for slot in table._slots:
            slot.generation = table.generation
        return Effects()

    return reload


LIES = [
    Lie("an aborted record stays visible", MemoryBroker, "_decide", _commits_always),
    Lie("a record is visible before its commit", MemoryBroker, "store", _shows_at_once),
    Lie("a committed record is lost", MemoryBroker, "_remember", _loses_the_last),
    Lie("a committed record is there twice", MemoryBroker, "_remember", _remembers_twice),
    Lie("records come in the wrong order", MemoryBroker, "_remember", _turns_round),
    Lie("offsets start at 1", MemoryBroker, "store", _counts_from_one),
    Lie("a transaction leaves no marker", MemoryBroker, "_decide", _writes_no_marker),
    Lie("headers are lost", FakeClient, "produce", _with_record(headers=lambda _: None)),
    Lie("of two equal headers one is lost", FakeClient, "produce", _with_record(headers=_as_mapping)),
    Lie("keys are lost", FakeClient, "produce", _with_record(key=lambda _: None)),
    Lie("an empty value is a tombstone", FakeClient, "produce", _with_record(value=lambda value: value or None)),
    Lie("the timestamp is ignored", FakeClient, "produce", _with_record(timestamp=lambda _: 0)),
    Lie("the partition is ignored", FakeClient, "produce", _with_record(partition=lambda _: -1)),
    Lie("no record is too large", MemoryClient, "_refuse_if_large", _nothing),
    Lie("a failed delivery is acknowledged", FakeClient, "_acknowledge", _acknowledges_everything),
    Lie("a commit ignores failed deliveries", OpenTransaction, "_unflushed", _is_content_with_failures),
    Lie("aborted deliveries count as delivered", Delivery, "outcome", _always_delivered),
    Lie("nobody is fenced", MemoryBroker, "_welcome", lambda _: lambda *_: True),
    Lie("nobody finds out what became of a fenced commit", OpenTransaction, "_look", _finds_out_nothing),
    Lie("too late counts as fenced", FakePool, "time_out", _is_never_late),
    Lie("a refused record costs nothing", InFlight, "out_of_step", _never_in),
    Lie("fencing never makes the pool unhealthy", Fencings, "within", lambda _: lambda *_: 0),
    Lie("a rebalance is ignored", FakeBroker, "play", _forgets_cue("send_offsets")),
    Lie("offsets count before the commit", FakeClient, "send_offsets", _counts_offsets_at_once),
    Lie("offsets never count", FakeClient, "send_offsets", _nothing),
    Lie("the block's error is swallowed", OpenTransaction, "finish", _swallows),
    Lie("the block's error is replaced by a copy", OpenTransaction, "finish", _replaces_the_error),
    Lie("before_commit is skipped", Hooks, "add", _forgets_hook("before_commit")),
    Lie("after_commit is skipped", Hooks, "add", _forgets_hook("after_commit")),
    Lie("after_abort is skipped", Hooks, "add", _forgets_hook("after_abort")),
    Lie("after_completion is skipped", Hooks, "add", _forgets_hook("after_completion")),
    Lie("hooks are told of a commit that was an abort", Hooks, "run_after", _hooks_know_only_success),
    Lie("hooks run in reverse", Hooks, "run_after", _hooks_run_backwards),
    Lie("a hook's error is told nobody", Hooks, "run_after", _hooks_are_silent),
    Lie("hooks run before the slot is back", OpenTransaction, "_close", _hooks_run_too_early),
    Lie("an abort is no event", OpenTransaction, "_emit", _aborts_without_telling),
    Lie("an acknowledgement is no event", InFlight, "take_in", _tells_after_the_end),
    Lie("a reload replaces nobody", SlotTable, "reload", _reloads_nothing),
    Lie("headers can't be asked for", _fake, "_sent", _without_headers),
]
