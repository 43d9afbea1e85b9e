"""What the brokers say of the topics that one client writes to: why a record may wait in vain for its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from wd_di._concurrency.uninterrupted import uninterrupted
from wd_di._kafka.interrupts import hold

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from wd_di._concurrency.deadline import Deadline

PROPAGATION_MS = 4_000
"""How long an unknown topic may take to appear before its records fail, unless the settings say otherwise.

librdkafka's 30,000 are longer than our deadlines, so that a misspelt topic would be "no answer". A broker that creates
a topic by itself says "unknown" until it is there: for 0.1 s as a rule, 1.2 s on three busy brokers, and 3 s while
another one takes over from a controller that was killed.
"""
PATIENT_MS = 30_000
"""The same where no broker has been reached yet: librdkafka's own."""
ASK_AFTER = 1.0
ASK_AGAIN = 0.5
ASK_SLICE = 0.6
ASK_SLICE_MAX = 2.4
"""Seconds that a broker has for its answer; more after each silence, since a slow link's late answer is never heard."""
MISSING_FRESH = 2.0
"""Seconds for which a topic that wasn't there may be taken as missing: it may have been made since."""
STILL_MISSING = 1.5
"""Seconds for which the brokers must have said so: one that creates topics took 1.2 at most, on three busy ones."""
FRESH = 10.0
"""Seconds after which an answer explains nothing any more."""
STEPS = 10
"""A waiting borrower looks up this often within its deadline, and has the brokers asked at every second look."""
STEP_MIN = 0.02


@dataclass(frozen=True, slots=True)
class Answer:
    """What a broker said of one topic.

    Attributes:
        partitions: How many there are; ``None`` if the topic can't be used.
        missing: Whether there is no such topic.
        hint: What that explains, for the end of a message.
        at: When it was said, in monotonic time.
        since: When it was said for the first time, if nothing else was said in between.
    """

    partitions: int | None
    missing: bool
    hint: str
    at: float
    since: float

    @property
    def fresh(self) -> bool:
        """Whether it may still be true."""
        return time.monotonic() - self.at < FRESH


OnDelivery = Callable[[Any, Any], None]
"""Gets the error and the acknowledgement of a record, from inside of a call: it may only note them."""


class Partition(Protocol):
    """What a broker says of one partition."""

    leader: int
    isrs: list[int]
    replicas: list[int]


class Sent(Protocol):
    """A record that was sent."""

    topic: str

    def done(self) -> bool: ...


S = TypeVar("S", bound=Sent)


class First:
    """Takes the answer of a topic's first record on its way to whoever waits for it."""

    __slots__ = ("_on_delivery", "answered", "stored")

    def __init__(self, on_delivery: OnDelivery) -> None:
        self.answered: bool = False
        self.stored: bool = False
        self._on_delivery = on_delivery

    @uninterrupted
    def __call__(self, error: object, acknowledgement: object) -> None:
        """Called by librdkafka."""
        try:
            self.stored = error is None
            self.answered = True
            self._on_delivery(error, acknowledgement)
        except BaseException as raised:  # noqa: BLE001  (as in Delivery.arrive)
            hold(raised)


class Topics:
    """The topics of one client, of which the pool's poller asks the brokers when records for them stay unanswered.

    Nothing is asked for a record that is answered within its first second; for calls with a short deadline it is a
    fifth of that.

    Args:
        patient: The settings give a topic more time than we would: no call ends early because of an unknown one.

    Attributes:
        asking: Those that a broker is asked for.
        answered: Those for which a record was stored.
        slice: Seconds that the next broker has for its answer.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.asking: set[str] = set()
        self.slice: float = ASK_SLICE
        self._patient = patient
        self.answered: set[str] = set()
        self._first: dict[str, First] = {}
        self._due: dict[str, float] = {}
        self._answers: dict[str, Answer] = {}

    def first(self, topic: str, on_delivery: OnDelivery) -> First | None:
        """Return what a record's answer shall go through, if it may become the first one of its topic."""
        return None if topic in self.answered or topic in self._first else First(on_delivery)

    def watch(self, topic: str, first: First) -> None:
        """Watch the topic's first record, which was enqueued, until its answer has come."""
        if self._first.setdefault(topic, first) is first:
            self._due[topic] = time.monotonic() + ASK_AFTER

    def doubt(self, topic: str) -> None:
        """Watch the topic's next record: one has failed as if it were gone."""
        self.answered.discard(topic)
        self._first.pop(topic, None)
        self._due.pop(topic, None)

    @property
    def watched(self) -> bool:
        """Whether the poller must look here soon."""
        return bool(self._due)

    def due(self) -> list[str]:
        """Return the topics that the brokers should be asked for now."""
        now = time.monotonic()
        topics = [topic for topic, at in tuple(self._due.items()) if at <= now and topic not in self.asking]
        return [topic for topic in topics if not self._is_answered(topic)]

    def _is_answered(self, topic: str) -> bool:
        first = self._first.get(topic)
        if first is None or not first.answered:
            return False
        self.doubt(topic)
        if first.stored:
            self.answered.add(topic)
        return True

    def asked(self, topic: str, *, answered: bool) -> None:
        """Go on asking for as long as the topic's first record has no answer."""
        self.slice = ASK_SLICE if answered else min(2 * self.slice, ASK_SLICE_MAX)
        if topic in self._first:
            self._due[topic] = time.monotonic() + ASK_AGAIN
        else:
            self._due.pop(topic, None)

    def learn_missing(self, topic: str) -> None:
        """A broker said that there is no such topic."""
        hint = f"the brokers know no topic {topic!r}: does the topic exist?"
        earlier, now = self.answer_for(topic), time.monotonic()
        since = earlier.since if earlier is not None and earlier.missing else now
        self._answers[topic] = Answer(None, missing=True, hint=hint, at=now, since=since)

    def learn(self, topic: str, partitions: Mapping[int, Partition], error: str | None) -> None:
        """Keep a broker's description of the topic."""
        count, now = len(partitions) if error is None and partitions else None, time.monotonic()
        self._answers[topic] = Answer(count, missing=False, hint=_hint(topic, partitions, error), at=now, since=now)

    def answer_for(self, topic: str) -> Answer | None:
        """Return what was last said, if that may still be true."""
        answer = self._answers.get(topic)
        return answer if answer is not None and answer.fresh else None

    def missing(self, topic: str) -> bool:
        """Whether the brokers know no such topic."""
        answer = self.answer_for(topic)
        return answer is not None and answer.missing and time.monotonic() - answer.at < MISSING_FRESH

    def new(self, topic: str) -> bool:
        """Whether nothing was sent to it yet, nor said of it."""
        return not (topic in self.answered or topic in self._first or topic in self._answers)

    def ask_soon(self, topic: str) -> None:
        """Let the poller ask the brokers for the topic, whether or not a record waits."""
        self._due[topic] = time.monotonic()

    def hint(self, topic: str) -> str:
        """Return what may be wrong with the topic, for the end of a message."""
        answer = self.answer_for(topic)
        return f"; {answer.hint}" if answer is not None else ""

    def place(self, topic: str) -> str:
        """Return which partitions there are, for the end of a message about one that isn't known."""
        answer = self.answer_for(topic)
        if answer is None:
            return ""
        if not answer.partitions:
            return self.hint(topic)
        last = answer.partitions - 1
        return f"; {topic!r} has {last + 1} partitions, 0 to {last}" if last else f"; {topic!r} has only partition 0"

    # -- for who waits for a record ------------------------------------------------------------------

    def patience(self, topic: str, deadline: Deadline) -> float:
        """Seconds to wait for a record's answer before looking up again; meanwhile the poller may ask the brokers."""
        now, step = time.monotonic(), max(deadline.seconds / STEPS, STEP_MIN)
        rest = deadline.started + min(ASK_AFTER, 2 * step) - now
        if rest > 0:
            return deadline.slice(rest)
        for each in {topic, *self._first}:
            answer = self._answers.get(each)
            if answer is None or now - answer.at >= min(ASK_AGAIN, step):
                self._due[each] = now
        return deadline.slice(min(step, deadline.to_half or step))

    def in_vain(self, topic: str, deadline: Deadline) -> bool:
        """Whether to give up at half of the deadline: the brokers have said that there is no such topic.

        Or earlier, if they have said so for as long as a topic may take to appear; or later, if they have only begun
        to, since a broker that creates topics says so at first. What they said before the call doesn't count, for it
        may have been made since; nor does anything if the settings ask for patience.
        """
        answer = self._answers.get(topic) if self.missing(topic) else None
        if answer is None or answer.at < deadline.started or self._patient:
            return False
        so_far = answer.at - max(answer.since, deadline.started)
        wanted = min(STILL_MISSING, deadline.seconds / 10) if deadline.half_passed else PROPAGATION_MS / 1000
        return so_far >= wanted

    def all_in_vain(self, records: Iterable[S], deadline: Deadline) -> list[S]:
        """Return those that wait in vain, of the records of one call or commit."""
        if not self._answers:
            return []
        lost = {topic for topic in tuple(self._answers) if self.in_vain(topic, deadline)}
        return [each for each in records if each.topic in lost and not each.done()] if lost else []


def _hint(topic: str, partitions: Mapping[int, Partition], error: str | None) -> str:
    if error is not None or not partitions:
        return f"of {topic!r} the brokers say: {error or 'no partitions yet'}"
    leaderless = next((number for number, each in partitions.items() if each.leader < 0), None)
    if leaderless is not None:
        return f"partition {leaderless} of {topic!r} has no leader"
    number = min(partitions, key=lambda number: len(partitions[number].isrs))
    in_sync, replicas = len(partitions[number].isrs), len(partitions[number].replicas)
    known = f"the brokers know {topic!r}, and {in_sync} of {replicas} replicas of its partition {number} are in sync"
    return f"{known}: does min.insync.replicas ask for more?" if in_sync < replicas else known
