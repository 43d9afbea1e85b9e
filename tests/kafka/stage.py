"""A stage on which public calls meet brokers in trouble: each case in a thread or a task of its own, many at a time."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from inspect import isasyncgenfunction
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from confluent_kafka import Consumer, TopicPartition

from tests import pools
from tests.pools import unique
from wd_di import ProducerPool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.faults.proxy import FaultProxy
    from wd_di import PoolSettings

Trouble = Literal["dead", "frozen", "slow"]
ROUND_TRIP_MS = 2_000
"""Of a slow broker: beyond the deadlines here."""
AT_ONCE = 12
"""Cases that are at work at the same time: a machine has few cores, and each case some pools with their threads."""
CALLED_OFF_AFTER_S = 0.15
"""When a call is called off: by then it waits."""
TOLERANCE_MS = 250
PATIENCE_S = 40


def trouble(proxy: FaultProxy, kind: Trouble) -> None:
    """Let all brokers behind the proxy be like this until it is reset."""
    if kind == "dead":
        proxy.refuse()
        proxy.cut()
    elif kind == "frozen":
        proxy.freeze()
    else:
        proxy.lag(ROUND_TRIP_MS)


# -- what a case is made of ----------------------------------------------------------------------------


class Step(NamedTuple):
    """One call of a case.

    Attributes:
        call: The call; in a task's case what it returns is awaited.
        within_ms: The deadline that it has.
        ends: Of which class, or classes, is what it raises or returns: so it is seen that it has met the trouble.
        outwaited: Whether it has something to bring to its end when it is called off, within its deadline.
    """

    call: Callable[[], Any]
    within_ms: float
    ends: type | tuple[type, ...] = type(None)
    outwaited: bool = False


Steps = Iterator[Step | None]
AsyncSteps = AsyncIterator[Step | None]


@dataclass(frozen=True)
class Case:
    """Calls of a pool or two.

    Attributes:
        name: The case's.
        of: Which public calls it measures, as ``"Class.method"``.
        play: Gets all ready while the brokers are well and yields ``None``; then it yields each step. A generator for
            threads, an asynchronous one for tasks.
    """

    name: str
    of: tuple[str, ...]
    play: Callable[[Stage], Steps] | Callable[[Stage], AsyncSteps]

    @property
    def of_tasks(self) -> bool:
        """Whether it is played on a loop."""
        return isasyncgenfunction(self.play)


class Came(NamedTuple):
    """What came of a step; ``after_ms`` is counted from when it was called off."""

    step: Step
    took_ms: float
    outcome: object
    after_ms: float | None = None

    @property
    def flaw(self) -> str:
        """What is wrong with it."""
        within = self.step.within_ms
        if self.took_ms > within + max(0.1 * within, TOLERANCE_MS):
            return f"{self.took_ms:.0f} ms with a deadline of {within:.0f} ms: {self.outcome!r}"
        if self.after_ms is not None and not self.step.outwaited and self.after_ms > TOLERANCE_MS:
            return f"{self.after_ms:.0f} ms after it was called off: {self.outcome!r}"
        if self.after_ms is not None:
            called_off = isinstance(self.outcome, KeyboardInterrupt | asyncio.CancelledError)
            return "" if called_off else f"it was called off, and gave {self.outcome!r}"
        return "" if isinstance(self.outcome, self.step.ends) else f"it gave {self.outcome!r}"


class Stage:
    """What the cases work with.

    Args:
        servers: Where the brokers are.
        topic: A topic that is there.
        ms: Every deadline of its pools.
    """

    def __init__(self, servers: str, topic: str, ms: int) -> None:
        self.servers = servers
        self.topic = topic
        self.ms = ms
        self._kept: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close what is left; the brokers are well again."""
        left = [each for each in self._kept if isinstance(each, ProducerPool)]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda pool: pool.close(timeout_ms=0, force=True), left))
        for each in self._kept:
            if isinstance(each, Consumer):
                each.close()
        self._kept.clear()

    def settings(self, *, plain: bool = False, **options: Any) -> PoolSettings:
        """Return settings whose every deadline is the stage's."""
        names = ["timeout_ms", "produce_timeout_ms", "open_timeout_ms", "close_timeout_ms"]
        if plain:
            options["transactional_id"] = None
        else:
            names += ["commit_timeout_ms", "abort_timeout_ms", "resolve_timeout_ms"]
            # Cases wait for their turn with a transaction open.
            options["kafka"] = {"transaction.timeout.ms": 60_000, **options.get("kafka", {})}
        return pools.settings(self.servers, **{"size": 1, **dict.fromkeys(names, self.ms), **options})

    def pool(self, **options: Any) -> ProducerPool:
        """Return an unopened pool of one producer."""
        pool: ProducerPool = self.keep(ProducerPool(self.settings(**options), name=unique("stage")))
        return pool

    def opened(self, *, plain: bool = False, **options: Any) -> ProducerPool:
        """Return an open one; a plain one has had an answer from the topic's leader."""
        pool = self.pool(plain=plain, **options)
        pool.open(timeout_ms=PATIENCE_S * 1000)
        if plain:
            with pool.producer() as producer:
                producer.produce_sync(self.topic, "before", timeout_ms=PATIENCE_S * 1000)
        return pool

    def taken(self, **options: Any) -> ProducerPool:
        """Return an open pool whose producers are all held by somebody else."""
        pool = self.opened(**options)
        for _ in range(pool.stats().size):
            in_a_thread(lambda: self.enter(pool.producer()))
        return pool

    def enter(self, scope: Any) -> Any:
        """Enter and keep a scope; what it gave."""
        return self.keep(scope, scope.__enter__())

    async def aenter(self, scope: Any) -> Any:
        """Enter and keep one in a task."""
        return self.keep(scope, await scope.__aenter__())

    def begun(self, **options: Any) -> tuple[Any, Any]:
        """Return a transaction's scope and handle; it has a record that the broker has stored."""
        scope = self.opened(**options).transaction()
        tx = self.enter(scope)
        tx.produce_sync(self.topic, "before", timeout_ms=PATIENCE_S * 1000)
        return scope, tx

    async def abegun(self, **options: Any) -> tuple[Any, Any]:
        """Return those of a task."""
        scope = (await asyncio.to_thread(self.opened, **options)).transaction()
        tx = await self.aenter(scope)
        await tx.produce_sync(self.topic, "before", timeout_ms=PATIENCE_S * 1000)
        return scope, tx

    def offsets(self) -> tuple[list[TopicPartition], bytes]:
        """Return what a transaction can take along of a consumer group."""
        member = self.keep(Consumer({"bootstrap.servers": self.servers, "group.id": unique("group"), "log_level": 0}))
        return [TopicPartition(self.topic, 0, 1)], member.consumer_group_metadata()

    def keep(self, *what: Any) -> Any:
        """Keep something to the end; the last of it."""
        self._kept.extend(what)
        return what[-1]


def in_a_thread(fn: Callable[[], object]) -> None:
    """Let another thread do it."""
    thread = threading.Thread(target=fn)
    thread.start()
    thread.join()


# -- how cases are played ------------------------------------------------------------------------------


class Show:
    """Plays cases: gets them ready, lets the trouble come, and measures their steps.

    Args:
        stage: What they work with.
        strike: Lets the trouble come.
        cancelled: Whether each step of a task is cancelled.

    Attributes:
        came: What came of the steps, by the case's name.
    """

    def __init__(self, stage: Stage, strike: Callable[[], object], *, cancelled: bool = False) -> None:
        self.came: dict[str, list[Came]] = {}
        self._stage = stage
        self._strike = strike
        self._cancelled = cancelled
        self._ready = threading.Semaphore(0)
        self._struck = threading.Event()
        self._turns = threading.Semaphore(AT_ONCE)
        self._failed: list[BaseException] = []

    def play(self, cases: Iterable[Case]) -> None:
        """Play them all, many at a time.

        Raises:
            BaseException: A case couldn't be played.
        """
        threads = [threading.Thread(target=self._play, args=(case,), name=case.name, daemon=True) for case in cases]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert self._ready.acquire(timeout=PATIENCE_S)
        self._strike()
        self._struck.set()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), f"{thread.name} hangs"
        for error in self._failed:
            raise error

    def _play(self, case: Case) -> None:
        came = self.came[case.name] = []
        try:
            if case.of_tasks:
                asyncio.run(self._play_in_a_task(case, came))
            else:
                self._play_in_a_thread(case, came)
        except BaseException as error:  # noqa: BLE001  (raised by play)
            error.add_note(f"in {case.name}")
            self._failed.append(error)
            self._ready.release()

    def _play_in_a_thread(self, case: Case, came: list[Came]) -> None:
        steps: Any = case.play(self._stage)
        with self._turns:
            next(steps)
        self._ready.release()
        self._struck.wait(PATIENCE_S)
        with self._turns:
            for step in steps:
                started, outcome = time.monotonic(), result(step.call)
                came.append(Came(step, milliseconds(started), outcome))

    async def _play_in_a_task(self, case: Case, came: list[Came]) -> None:
        steps: Any = case.play(self._stage)
        await asyncio.to_thread(self._turns.acquire)
        try:
            await anext(steps)
        finally:
            self._turns.release()
        self._ready.release()
        await asyncio.to_thread(self._struck.wait, PATIENCE_S)
        await asyncio.to_thread(self._turns.acquire)
        try:
            async for step in steps:
                came.append(await self._measured(step))  # noqa: PERF401  (each is kept, whatever comes then)
        finally:
            self._turns.release()

    async def _measured(self, step: Step) -> Came:
        called_off: list[float] = []
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def cancel() -> None:
            called_off.append(time.monotonic())
            task.cancel()

        timer = loop.call_later(CALLED_OFF_AFTER_S if self._cancelled else PATIENCE_S, cancel)
        started = time.monotonic()
        try:
            outcome = await step.call()
        except BaseException as error:  # noqa: BLE001  (it is the result)
            outcome = error
        ended = time.monotonic()
        timer.cancel()
        if called_off:
            task.uncancel()
            if not isinstance(outcome, asyncio.CancelledError):
                with suppress(asyncio.CancelledError):  # it came in the last moment
                    await asyncio.sleep(0)
        after = (ended - called_off[0]) * 1000 if called_off else None
        return Came(step, (ended - started) * 1000, outcome, after)


def interrupted(stage: Stage, strike: Callable[[], object], cases: Iterable[Case]) -> dict[str, list[Came]]:
    """Play cases of threads one after the other in this one, the main one, and let Ctrl-C come into each step."""
    playing: list[tuple[str, Any]] = [(case.name, case.play(stage)) for case in cases]
    for _, steps in playing:
        next(steps)
    strike()
    return {name: [_with_ctrl_c(step) for step in steps] for name, steps in playing}


def _with_ctrl_c(step: Step) -> Came:
    sent: list[float] = []
    over = threading.Event()
    main = threading.main_thread().ident or 0

    def send() -> None:
        if not over.wait(CALLED_OFF_AFTER_S):
            sent.append(time.monotonic())
            signal.pthread_kill(main, signal.SIGINT)

    sender = threading.Thread(target=send)
    started = ended = time.monotonic()
    outcome: object = None
    try:
        sender.start()
        outcome = result(step.call)
        ended = time.monotonic()
        over.set()
        sender.join()
    except KeyboardInterrupt:  # it came behind the call
        sender.join()
        sent.clear()
    after = (ended - sent[0]) * 1000 if sent else None
    return Came(step, (ended - started) * 1000, outcome, after)


def result(call: Callable[[], object]) -> object:
    """Return what a call returns or raises."""
    try:
        return call()
    except BaseException as error:  # noqa: BLE001  (it is the result)
        return error


def milliseconds(since: float) -> float:
    """Return how long ago it was."""
    return (time.monotonic() - since) * 1000
