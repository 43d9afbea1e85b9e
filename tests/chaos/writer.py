"""One writer: a process of threads, of tasks or with a consumer, that works until it is told to end.

``python -m tests.chaos.writer CONFIG``, with its configuration as JSON. On its standard input it is told to ``reload``,
to ``fork`` and to ``finish``; SIGTERM stops it in good order, too, and SIGUSR1 shows where its threads are.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import itertools
import json
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import confluent_kafka

from tests.chaos.history import Journal
from tests.chaos.processing import member, process
from tests.chaos.watch import Watch, load, settled, stacks, told, where
from tests.chaos.work import Desk, Worker
from wd_di import KafkaSettings, PoolSettings, ProducerPool, WdDiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.chaos.history import Load

Kind = Literal["threads", "tasks", "processor", "celery"]

RELOAD_MS = 15_000
CLOSE_MS = 10_000
SETTLE_S = 30.0
GIVEN_BACK_S = 5.0
JOIN_S = 60.0
CHILD_S = 60.0
CHILDS_STEPS = 5


@dataclass(frozen=True, slots=True)
class Config:
    """What a writer is told at its start.

    Attributes:
        name: Its own, with the number of its life.
        instance: What its ids are made of: the same in each of its lives.
        version: Which of the settings it has; 2 is what is rolled out.
        pause: Seconds of rest between transactions, at most.
    """

    kind: Kind
    name: str
    instance: str
    seed: int
    version: int
    servers: str
    topics: tuple[str, ...]
    input: str
    output: str
    group: str
    folder: str
    size: int = 3
    workers: int = 4
    pause: float = 0.02

    def json(self) -> str:
        """Return what `of` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Config:
        """Read it."""
        given = json.loads(text)
        return cls(**{**given, "topics": tuple(given["topics"])})

    def journal(self, name: str) -> Journal:
        """Return the journal of a process of this writer."""
        return Journal(Path(self.folder) / f"{name}.jsonl")

    def settings(self, transactional_id: str = "chaos-{instance}-{index}") -> PoolSettings:
        """Return the settings of this version."""
        kafka: dict[str, object] = {"bootstrap.servers": self.servers, "client.id": f"chaos-{self.name}"}
        if self.version > 1:
            kafka |= {"linger.ms": 2, "compression.type": "lz4"}
        return PoolSettings(
            size=self.size,
            timeout_ms=4_000,
            transactional_id=transactional_id,
            instance=self.instance,
            kafka=KafkaSettings.of(kafka),
        )


class Life:
    """One process of a writer, from its start to its end."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.journal = config.journal(config.name)
        self.watch = Watch(self.journal)
        self.over = threading.Event()
        self.desk: Desk | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finishing = False
        self._forks = self._begun = self._abandoned = 0
        self._numbers = itertools.count()

    def live(self) -> None:
        """Work until it is told to end, and tell what is left then."""
        signal.signal(signal.SIGTERM, lambda *_: self.over.set())
        # Whoever reads it may send that signal from now on.
        self.journal.write("start", pid=os.getpid(), version=self.config.version, kind=self.config.kind)
        threading.Thread(target=self._listen, name="listens", daemon=True).start()
        if self.config.kind == "tasks":
            asyncio.run(self._in_tasks())
        else:
            self._work(steps=1)  # what it had before is only known of a process that has done everything once
            before = self._tell("before")
            self._work()
            if not settled(lambda: load().within(before), GIVEN_BACK_S):
                self._leftover()
        self._tell("after", abandoned=self._abandoned)
        self.journal.write("finished")

    def _tell(self, when: str, **more: object) -> Load:
        has = load()
        self.journal.write(when, load=told(has), **more)
        return has

    def _leftover(self) -> None:
        """Tell what is left: where all threads are, and who knows of clients that still live."""
        clients = [each for each in gc.get_objects() if isinstance(each, confluent_kafka.cimpl.Producer)]
        known = [
            [_short(referrer) for referrer in gc.get_referrers(each) if referrer is not clients] for each in clients
        ]
        self.journal.write("leftover", stacks=stacks(), clients=known)

    # -- what it is told -----------------------------------------------------------------------------

    def _listen(self) -> None:
        for line in sys.stdin:
            match line.strip():
                case "reload" if self.desk is not None:
                    self._reload(self.desk)
                case "fork" if self.desk is not None:
                    self._fork(self.desk)
                case "finish":
                    self._finishing = True
                    self.over.set()
                case order:
                    self.journal.write("ignored", order=order)
        self.over.set()  # whoever has started us is gone

    def _reload(self, desk: Desk) -> None:
        try:
            with self.watch.call("reload", RELOAD_MS):
                if self._loop is None:
                    desk.pool.reload(timeout_ms=RELOAD_MS)
                else:
                    reload = desk.pool.areload(timeout_ms=RELOAD_MS)
                    asyncio.run_coroutine_threadsafe(reload, self._loop).result()
        except WdDiError as error:
            self.journal.write("reload", error=repr(error))

    def _fork(self, desk: Desk) -> None:
        """Let a child go on with the pool that it has inherited, and wait for its end."""
        self._forks += 1
        name = f"{self.config.name}f{self._forks}"
        child = os.fork()
        if child == 0:
            status = 1
            try:
                self._childs_life(desk.pool, name)
                status = 0
            finally:
                os._exit(status)
        code = _reaped(child, CHILD_S)
        if code is None:
            self.journal.write("hang", call=f"forked child {name}", took_ms=1000 * CHILD_S, deadline_ms=1000 * CHILD_S)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self.journal.write("child", process=name, code=code)

    def _childs_life(self, pool: ProducerPool, name: str) -> None:
        journal = self.config.journal(name)
        journal.write("start", pid=os.getpid(), kind="forked")
        desk = Desk(name, pool, self.config.settings(), journal, Watch(journal))
        worker = Worker(desk, 0, self.config.seed, self.config.topics, self.config.pause)
        for _ in range(CHILDS_STEPS):
            worker.step()
        with desk.watch.call("close", CLOSE_MS):
            pool.close(timeout_ms=CLOSE_MS)
        journal.write("finished")

    # -- on threads ----------------------------------------------------------------------------------

    def _work(self, steps: int | None = None) -> None:
        for attempt in self._attempts("open"):
            with attempt as pool:
                pool.open()
        desk = self.desk
        if desk is None:  # it was over before
            return
        threads = [threading.Thread(target=work) for work in self._works(desk, steps)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not self.over.is_set():
            self.over.wait(0.1)
        for thread in threads:
            thread.join(JOIN_S)
            if thread.is_alive():
                place = where(thread.ident or 0)
                self.journal.write("hang", call="work", took_ms=1000 * JOIN_S, deadline_ms=0, where=place)
        if steps is None:
            self._idle(desk, settled=settled(lambda: _is_idle(desk.pool), self._patience))
        self.desk = None
        with self.watch.call("close", CLOSE_MS):
            self._abandoned = len(desk.pool.close(timeout_ms=CLOSE_MS).abandoned)

    def _works(self, desk: Desk, steps: int | None) -> list[Callable[[], None]]:
        rounds = itertools.count()

        def over() -> bool:
            return self.over.is_set() or (steps is not None and next(rounds) >= steps)

        def repeat(worker: Worker) -> None:
            done = 0
            while not self.over.is_set() and done != steps:
                worker.step()
                done += 1

        config = self.config
        if config.kind == "processor":
            consumer = member(config.servers, config.group, config.input, f"chaos-{config.name}")
            return [partial(process, desk, consumer, config.output, self._numbers, over)]
        return [partial(repeat, worker) for worker in self._workers(desk)]

    def _workers(self, desk: Desk) -> list[Worker]:
        config = self.config
        first = itertools.count(self._begun)  # a worker's name isn't given twice
        self._begun += config.workers
        return [
            Worker(desk, number, config.seed, config.topics, config.pause)
            for number in itertools.islice(first, config.workers)
        ]

    def _attempts(self, call: str) -> Iterator[AbstractContextManager[ProducerPool]]:
        """Yield pools, each to be opened by this call in a block, until one is or it is over."""
        while self.desk is None and not self.over.is_set():
            yield self._attempt(call)

    @contextmanager
    def _attempt(self, call: str) -> Iterator[ProducerPool]:
        settings = self.config.settings()
        pool = ProducerPool(settings, name="chaos")
        try:
            with self.watch.call(call, settings.open_timeout_ms):
                yield pool
        except WdDiError as error:
            self.journal.write("not open", error=repr(error))
        else:
            self.journal.write("open", name=self.config.name)
            self.desk = Desk(self.config.name, pool, settings, self.journal, self.watch)

    @property
    def _patience(self) -> float:
        return SETTLE_S if self._finishing else 0.0

    def _idle(self, desk: Desk, *, settled: bool) -> None:
        stats = desk.pool.stats()
        names = ("size", "idle", "in_use", "waiting", "creating", "retiring")
        slots = {name: getattr(stats, name) for name in names}
        totals = asdict(stats.totals)
        self._tell("idle", slots=slots, handles=self.config.size, settled=settled, totals=totals)

    # -- in tasks ------------------------------------------------------------------------------------

    async def _in_tasks(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._awork(steps=1)
        before = self._tell("before")
        await self._awork()
        if not await _settled(lambda: load().within(before), GIVEN_BACK_S):
            self._leftover()

    async def _awork(self, steps: int | None = None) -> None:
        for attempt in self._attempts("async open"):
            with attempt as pool:
                await pool.aopen()
        desk = self.desk
        if desk is None:  # as above
            return
        tasks = [asyncio.create_task(self._repeat(worker, steps)) for worker in self._workers(desk)]
        while not all(task.done() for task in tasks) and not self.over.is_set():
            await asyncio.wait(tasks, timeout=0.1)
        _, pending = await asyncio.wait(tasks, timeout=JOIN_S)
        for task in pending:
            self.journal.write("hang", call="work", took_ms=1000 * JOIN_S, deadline_ms=0, where=str(task.get_stack()))
        if steps is None:
            self._idle(desk, settled=await _settled(lambda: _is_idle(desk.pool), self._patience))
        self.desk = None
        with self.watch.call("async close", CLOSE_MS):
            self._abandoned = len((await desk.pool.aclose(timeout_ms=CLOSE_MS)).abandoned)

    async def _repeat(self, worker: Worker, steps: int | None) -> None:
        done = 0
        while not self.over.is_set() and done != steps:
            await worker.astep()
            done += 1


def _short(thing: object) -> str:
    return f"{type(thing).__name__}: {thing!r}"[:300]


def _reaped(child: int, within_s: float) -> int | None:
    """Wait for a child's end; its exit code, or ``None`` if it hasn't ended in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    return None


def _is_idle(pool: ProducerPool) -> bool:
    stats = pool.stats()
    return stats.idle == stats.size and load().handles <= stats.size


async def _settled(happened: Callable[[], bool], within_s: float) -> bool:
    """As `settled`, while the loop goes on."""
    end = time.monotonic() + within_s
    while not happened():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.05)
    return True


if __name__ == "__main__":
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)  # Python 3.12 warns of just this
    Life(Config.of(sys.argv[1])).live()
