"""A storm on one pool: threads and the tasks of several loops fight for few slots, and are timed out and cancelled.

Ends with 0 if no slot ever had two holders, all are idle at the end, and exactly what was reported as committed is on
the broker, once: ``python -m tests.storm --seconds 60 [--real]``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import threading
import time
import uuid
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from tests import internals
from tests.kafka.readers import stream
from tests.pools import pool as on_brokers
from wd_di import PoolSettings, PoolTimeoutError, ProducerPool, TransactionAbortedError
from wd_di._kafka.memory import MemoryBroker, MemoryClient
from wd_di._kafka.port import Answers, Fault, FaultKind
from wd_di.events import TransactionFinished
from wd_di.testing import GivenKafka, LocalKafka

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PATIENCE = 30.0
"""Seconds after which whoever hasn't ended hangs."""
READ_TIMEOUT_MS = 300_000
TIMEOUTS_MS = (0, 1, 5, 50, 2_000)


@dataclass(frozen=True, slots=True)
class Options:
    """How hard it storms.

    Attributes:
        pace: Seconds that a transaction takes, about: the moments to cancel at are drawn around it.
    """

    seconds: float = 3.0
    seed: int = 7
    size: int = 3
    threads: int = 4
    loops: int = 2
    tasks: int = 8
    pace: float = 0.003


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened, and what should not have."""

    committed: int
    aborted: int
    refused: int
    cancelled: int
    missing: int
    repeated: int
    unwanted: int
    clashes: tuple[str, ...]
    surprises: tuple[str, ...]
    idle: bool

    @property
    def right(self) -> bool:
        """Whether nothing was lost, doubled or left behind."""
        wrong = self.missing or self.repeated or self.unwanted or self.clashes or self.surprises
        return self.idle and not wrong


class Whim(Exception):  # noqa: N818  (it is no error)
    """A transaction's own reason to fail."""


class MoodyClient(MemoryClient):
    """An in-memory client that takes its time, and sometimes can't begin."""

    def begin(self) -> None:
        if random.random() < 0.01:  # noqa: S311  (no secret)
            raise Fault(FaultKind.OTHER, "in a bad mood")
        super().begin()

    def _end(self, seconds: float, *, commit: bool) -> None:
        time.sleep(random.uniform(0, 0.004))  # noqa: S311  (no secret)
        super()._end(seconds, commit=commit)


class MoodyBroker(MemoryBroker):
    """Makes such clients."""

    def connect(self, transactional_id: str | None, answers: Answers) -> MemoryClient:
        return MoodyClient(self, transactional_id, answers)


class MoodyPool(ProducerPool):
    """A pool on such a broker, which forgets nothing."""

    def _memory(self) -> MemoryBroker:
        return MoodyBroker(keep=None, backoff=0.0)


class Storm:
    """One run: who is where, what was promised, and what went wrong."""

    def __init__(self, pool: ProducerPool, topic: str, options: Options) -> None:
        self.values: dict[str, list[str]] = {}
        self.outcomes: dict[str, str] = {}
        self.returned: list[str] = []
        self.refused = self.cancelled = 0
        self.clashes: list[str] = []
        self.surprises: list[str] = []
        self._pool, self._topic, self._options = pool, topic, options
        self._end = time.monotonic() + options.seconds
        self._inside: dict[int, str] = {}
        self._lock = threading.Lock()
        pool.observer.subscribe(TransactionFinished, self._finished)

    def rage(self) -> None:
        """Let it storm, and wait until everybody has ended."""
        options = self._options
        works = [self._thread] * options.threads + [self._loop] * options.loops
        threads = [
            threading.Thread(target=self._guarded, args=(work, random.Random(f"{options.seed}-{number}")), daemon=True)  # noqa: S311
            for number, work in enumerate(works)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(options.seconds + PATIENCE)
            if thread.is_alive():
                self.surprises.append(f"{thread.name} hangs: {self._pool!r}")

    def promised(self) -> Counter[str]:
        """Return the values of all transactions that are said to be committed."""
        done = [number for number, outcome in self.outcomes.items() if outcome == "committed"]
        return Counter(value for number in done for value in self.values.get(number, ()))

    def settled(self) -> bool:
        """Whether every slot is idle soon, nobody is on record as a holder, and the counts add up."""
        end = time.monotonic() + PATIENCE
        while self._pool.stats().idle != self._options.size and time.monotonic() < end:
            threading.Event().wait(0.01)
        stats = self._pool.stats()
        rest = stats.in_use + stats.waiting + stats.creating + stats.retiring
        return (stats.idle, rest) == (self._options.size, 0) and internals.nothing_is_held(self._pool)

    # -- who fights --------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[random.Random], None], draw: random.Random) -> None:
        try:
            work(draw)
        except BaseException as error:  # noqa: BLE001  (whatever it is, it is a finding)
            self.surprises.append(repr(error))

    def _thread(self, draw: random.Random) -> None:
        while not self._over():
            with self._expected():
                with self._pool.transaction(timeout_ms=draw.choice(TIMEOUTS_MS)) as tx, self._alone(tx):
                    self._produce(tx, draw)
                    if draw.random() < 0.2:
                        tx.produce_sync(self._topic, self._value(tx))
                    self._fate(draw)
                self.returned.append(tx.id)

    def _loop(self, draw: random.Random) -> None:
        while not self._over():
            asyncio.run(self._main(draw, draw.uniform(0.1, 1.0)))

    async def _main(self, draw: random.Random, seconds: float) -> None:
        """Some tasks for a while; asyncio.run cancels what is left of them."""
        tasks = [asyncio.create_task(self._task(random.Random(draw.random()))) for _ in range(self._options.tasks)]  # noqa: S311
        await asyncio.wait(tasks, timeout=min(seconds, max(0.0, self._end - time.monotonic())))

    async def _task(self, draw: random.Random) -> None:
        while not self._over():
            attempt = asyncio.create_task(self._attempt(draw))
            for _ in range(draw.choice((0, 0, 1, 1, 2))):
                await asyncio.wait([attempt], timeout=draw.expovariate(1 / self._options.pace))
                attempt.cancel()
            await asyncio.wait([attempt], timeout=PATIENCE)
            if not attempt.done():
                self.surprises.append(f"a task hangs: {self._pool!r}")

    async def _attempt(self, draw: random.Random) -> None:
        with self._expected():
            async with asyncio.timeout(draw.choice((None, None, self._options.pace * draw.uniform(0, 5)))):
                async with self._pool.transaction(timeout_ms=draw.choice(TIMEOUTS_MS)) as tx:
                    with self._alone(tx):
                        self._produce(tx, draw)
                        if draw.random() < 0.2:
                            await tx.produce_sync(self._topic, self._value(tx))
                        await asyncio.sleep(self._options.pace * draw.random())
                        self._fate(draw)
                self.returned.append(tx.id)  # only now is it said to be committed

    # -- what they do ------------------------------------------------------------------------------

    def _produce(self, tx: Any, draw: random.Random) -> None:
        for _ in range(draw.randint(0, 5)):
            tx.produce_async(self._topic, self._value(tx))

    def _value(self, tx: Any) -> str:
        values = self.values.setdefault(tx.id, [])
        values.append(f"{tx.id}-{len(values)}")
        return values[-1]

    def _fate(self, draw: random.Random) -> None:
        if draw.random() < 0.2:
            raise Whim

    @contextmanager
    def _alone(self, tx: Any) -> Iterator[None]:
        with self._lock:
            other = self._inside.setdefault(tx.index, tx.id)
        if other != tx.id:
            self.clashes.append(f"slot {tx.index}: {other} and {tx.id}")
        try:
            yield
        finally:
            with self._lock:
                self._inside.pop(tx.index, None)

    @contextmanager
    def _expected(self) -> Iterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        except (PoolTimeoutError, TransactionAbortedError):
            self.refused += 1
        except TimeoutError:
            self.cancelled += 1
        except Whim:
            return
        except Exception as error:  # noqa: BLE001  (a finding)
            self.surprises.append(repr(error))

    def _finished(self, event: TransactionFinished) -> None:
        if event.transaction_id in self.outcomes:
            self.surprises.append(f"{event.transaction_id} ended twice")
        self.outcomes[event.transaction_id] = event.outcome

    def _over(self) -> bool:
        return time.monotonic() >= self._end


def on_memory(options: Options) -> Figures:
    """Storm on the in-memory broker."""
    settings = PoolSettings(
        size=options.size, deliver=False, transactional_id="storm-{instance}-{index}", instance="test", timeout_ms=2_000
    )
    with MoodyPool(settings, name="storm") as pool:
        storm = Storm(pool, "storm", options)
        storm.rage()
        return figures(storm, Counter(record.value for record in internals.broker(pool).committed))


def on_kafka(servers: str, topic: str, options: Options) -> Figures:
    """Storm on a real broker, and read everything back."""
    with on_brokers(servers, name="storm", size=options.size) as pool:
        storm = Storm(pool, topic, options)
        storm.rage()
        storm.settled()
        read = stream(servers, topic, timeout_ms=READ_TIMEOUT_MS)
        return figures(storm, Counter((record.value or b"").decode() for record in read))


def figures(storm: Storm, seen: Counter[str]) -> Figures:
    """Compare what was promised with what is there."""
    promised, outcomes = storm.promised(), Counter(storm.outcomes.values())
    broken = [number for number in storm.returned if storm.outcomes.get(number) != "committed"]
    return Figures(
        committed=outcomes["committed"],
        aborted=outcomes["aborted"],
        refused=storm.refused,
        cancelled=storm.cancelled,
        missing=(promised - seen).total(),
        repeated=sum(count > 1 for count in seen.values()),
        unwanted=len(seen.keys() - promised.keys()),
        clashes=tuple(storm.clashes),
        surprises=(*storm.surprises, *(f"{number} returned uncommitted" for number in broken)),
        idle=storm.settled(),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 if everything is right."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--real", action="store_true", help="on a real broker, not in memory")
    given = parser.parse_args(arguments)
    result = _real(given) if given.real else on_memory(Options(given.seconds, given.seed))
    for field in fields(result):
        print(f"{field.name:>10}: {getattr(result, field.name)}")  # noqa: T201
    return 0 if result.right else 1


def _real(given: argparse.Namespace) -> Figures:
    servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    with GivenKafka(servers) if servers else LocalKafka() as kafka:
        topic = kafka.create_topic(f"storm-{uuid.uuid4().hex[:8]}", 3)
        return on_kafka(kafka.bootstrap_servers, topic, Options(given.seconds, given.seed, pace=0.03))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
