"""Pools whose in-memory clients fail, block or raise on cue: every path of a transaction without a broker."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from confluent_kafka import TopicPartition

from tests import internals
from wd_di._kafka.memory import MemoryBroker, MemoryClient, Record
from wd_di._kafka.port import Fault, FaultKind
from wd_di.errors import DeliveryError
from wd_di.events import Event, Observer
from wd_di.pool import ProducerPool
from wd_di.settings import PoolSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from wd_di import Configure

PATIENCE = 10.0
"""Seconds after which a test that waits for another thread has failed."""

OFFSETS = [TopicPartition("in", 0, 5)]
"""Offsets that can be sent."""


@dataclass
class Script:
    """What the clients of one test do on cue, and which calls they got.

    Attributes:
        silent: Whether no record is acknowledged.
        there: Whether questions to brokers are answered.
    """

    calls: list[str] = field(default_factory=list)
    clients: list[ScriptedClient] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    silent: bool = False
    there: threading.Event = field(default_factory=threading.Event)
    _cues: dict[str, deque[Callable[[], object]]] = field(default_factory=dict)
    _always: dict[str, Callable[[], object]] = field(default_factory=dict)

    @classmethod
    def install(cls, monkeypatch: pytest.MonkeyPatch) -> Script:
        """Let every pool of this test make scripted clients."""
        script = cls()
        monkeypatch.setattr(MemoryBroker, "connect", lambda *given: ScriptedClient(script, *given))
        return script

    def on(self, call: str, *cues: BaseException | Callable[[], object] | None) -> None:
        """Give the next calls of this name one cue each: an exception to raise, something to call, or nothing."""
        self._cues.setdefault(call, deque()).extend(_action(cue) for cue in cues)

    def always(self, call: str, cue: BaseException | Callable[[], object]) -> None:
        """Give every further call of this name the same cue."""
        self._always[call] = _action(cue)

    def play(self, call: str) -> None:
        """Note the call, and do what its cue says."""
        self.calls.append(call)
        cues = self._cues.get(call)
        action = cues.popleft() if cues else self._always.get(call)
        if action is not None:
            action()


class ScriptedClient(MemoryClient):
    """An in-memory client that asks the script before each call. A silent one never acknowledges anything."""

    def __init__(self, script: Script, *given: Any) -> None:
        super().__init__(*given)
        self.script = script
        script.clients.append(self)

    def init(self, seconds: float) -> None:
        self.script.play("init")
        super().init(seconds)

    def begin(self) -> None:
        self.script.play("begin")
        super().begin()

    def produce(self, *given: Any) -> None:
        self.script.play("produce")
        super().produce(*given)

    def poll(self, seconds: float) -> None:
        if seconds:
            self.script.play("poll")
        if seconds and not self.script.silent:
            self._due.nap(seconds)
        if self.script.silent:
            threading.Event().wait(seconds)  # as librdkafka, which blocks while nothing comes
        else:
            super().flush(seconds)

    def collect(self) -> None:
        if not self.script.silent:
            super().collect()

    def flush(self, seconds: float) -> None:
        if seconds:
            self.script.play("flush")
        if self.script.silent:
            threading.Event().wait(seconds)
        else:
            super().flush(seconds)

    def reach(self, deadline: Any) -> bool:
        self.script.play("reach")
        while not deadline.passed:
            if self.script.there.wait(deadline.slice(0.01)):
                return True
        return False

    def renew(self, topic: str, partition: int, deadline: Any) -> bool:  # noqa: ARG002  (as the real one)
        self.script.play("renew")
        return self.script.there.wait(deadline.left)

    def send_offsets(self, offsets: Any, group_metadata: Any, seconds: float) -> None:
        self.script.play("send_offsets")
        super().send_offsets(offsets, group_metadata, seconds)

    def commit(self, seconds: float) -> None:
        self.script.play("commit")
        super().commit(seconds)

    def abort(self, seconds: float) -> None:
        self.script.play("abort")
        super().abort(seconds)

    def _end(self, seconds: float, *, commit: bool) -> None:  # noqa: ARG002  (its flush is no call of the pool)
        super()._end(0, commit=commit)

    def _acknowledge(self, on_delivery: Any, record: Record) -> None:
        if record.name in self.script.failing:
            on_delivery(DeliveryError(f"{record.name} is broken"), None)
        else:
            super()._acknowledge(on_delivery, record)

    def break_down(self, kind: FaultKind = FaultKind.FATAL) -> Fault:
        """Be lost, as after a fatal error that came out of a poll."""
        self.fault = Fault(kind, f"scripted {kind.value}")
        return self.fault


def fault(kind: FaultKind) -> Fault:
    """A failure of this kind."""
    return Fault(kind, f"scripted {kind.value}", right="a right" if kind is FaultKind.DENIED else None)


def make_pool(
    *, name: str = "orders", observer: Observer | None = None, configure: Configure | None = None, **given: Any
) -> ProducerPool:
    """An unopened pool of one transactional in-memory producer, but for what is given."""
    defaults: dict[str, Any] = {"transactional_id": "t-{instance}-{index}", "instance": "test"}
    defaults |= {"deliver": False, "size": 1, "timeout_ms": 2_000, "close_timeout_ms": 300}
    if given.get("transactional_id", "t"):
        defaults["resolve_timeout_ms"] = 0  # what is scripted is what comes out
    settings = PoolSettings.model_validate({**defaults, **given})
    return ProducerPool(settings, name=name, observer=observer, configure=configure)


def plain_pool(**given: Any) -> ProducerPool:
    """An unopened pool of one in-memory producer without transactions, but for what is given."""
    return make_pool(**{"transactional_id": None, "instance": None, **given})


def records(pool: ProducerPool) -> list[Any]:
    """The records that a read_committed reader would see."""
    return internals.broker(pool).committed


def committed(pool: ProducerPool) -> list[Any]:
    """The values that a read_committed reader would see."""
    return [record.value for record in records(pool)]


def aborted(pool: ProducerPool) -> list[Any]:
    """The values that only a read_uncommitted reader would see."""
    return [record.value for record in internals.broker(pool).aborted]


def watch(pool: ProducerPool, *kinds: type[Event]) -> list[Any]:
    """A list that fills with the pool's events of these kinds."""
    seen: list[Any] = []
    for kind in kinds:
        pool.observer.subscribe(kind, seen.append)
    return seen


def outcome(fn: Callable[[], object]) -> Any:
    """What ``fn`` returned, or raised."""
    try:
        return fn()
    except BaseException as error:  # noqa: BLE001  (it is the result)
        return error


class FutureThread(threading.Thread):
    """Another thread that calls ``fn``, and what came of it."""

    def __init__(self, fn: Callable[[], object]) -> None:
        super().__init__(name="other", daemon=True)
        self._fn = fn
        self._outcome: list[Any] = []

    def run(self) -> None:
        self._outcome.append(outcome(self._fn))

    def outcome(self) -> Any:
        """What the thread returned or raised, when it has ended."""
        self.join(PATIENCE)
        return self._outcome[0]


def in_thread(fn: Callable[[], object]) -> Any:
    """What ``fn`` returned, or raised, in another thread."""
    thread = FutureThread(fn)
    thread.start()
    return thread.outcome()


def _action(cue: BaseException | Callable[[], object] | None) -> Callable[[], object]:
    def act() -> None:
        if isinstance(cue, BaseException):
            raise cue
        if cue is not None:
            cue()

    return act
