"""What workers do with a pool: transactions of all kinds by threads and tasks, each announced before and told after."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.chaos.history import value_of
from tests.chaos.plans import Plan, draw_plan
from wd_di import (
    AbortTransaction,
    AsyncTransaction,
    ProducerPool,
    Retry,
    Transaction,
    TransactionError,
    TransactionFinished,
    TransactionScope,
    WdDiError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from tests.chaos.history import Journal, Outcome
    from tests.chaos.watch import Watch
    from wd_di import PoolSettings

ANSWER_MS = 4_000


class Whim(Exception):  # noqa: N818  (it is no error)
    """A transaction's own reason to fail."""


RETRY = Retry(attempts=3, backoff_ms=50, max_backoff_ms=500, on=(Whim,))


class Desk:
    """What all workers of a process share: the pool, where they write, and who looks after them."""

    def __init__(self, name: str, pool: ProducerPool, settings: PoolSettings, journal: Journal, watch: Watch) -> None:
        self.name, self.pool, self.settings, self.journal, self.watch = name, pool, settings, journal, watch
        self._told: dict[str, list[Outcome]] = {}
        pool.observer.subscribe(TransactionFinished, self._finished)

    def _finished(self, event: TransactionFinished) -> None:
        self._told.setdefault(event.transaction_id, []).append(event.outcome)

    def told(self, transaction_id: str | None) -> list[Outcome]:
        """Return what the pool has told of a transaction, and forget it."""
        return self._told.pop(transaction_id, []) if transaction_id else []

    @property
    def end_ms(self) -> int:
        """How long the end of a block may take, with a doubt that is resolved."""
        return self.settings.commit_timeout_ms + self.settings.resolve_timeout_ms


class Attempt:
    """One transaction of a worker, from its announcement to its outcome."""

    def __init__(
        self, desk: Desk, name: str, records: Sequence[tuple[str, str]], sources: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.name, self.records, self.sources = name, records, sources
        self.id: str | None = None
        self._desk = desk
        desk.journal.write("intent", tx=name, records=records, **({"sources": sources} if sources else {}))

    def value(self, number: int) -> str:
        """Return what stands in one of its records."""
        return value_of(self.name, number, self.sources[number] if self.sources else None)

    def close(self, said: Outcome | None, error: BaseException | None = None) -> None:
        """Tell what became of it."""
        told = self._desk.told(self.id)
        if said is None and self.id is None:
            said = "aborted"  # it was cut before there was a transaction, and nothing was produced
        text = f"{type(error).__name__}: {error}" if error else ""
        self._desk.journal.write("end", tx=self.name, said=said, told=told, error=text, id=self.id)

    @contextmanager
    def told(self, fate: str = "return") -> Iterator[None]:
        """Tell what the block's end says of it; what was expected ends here."""
        try:
            yield
        except BaseException as error:
            said, known = account(error)
            self.close(said, error)
            if not known:
                self._desk.journal.write("surprise", error=f"{self.name}: {error!r}")
            if not isinstance(error, Exception):
                raise
        else:
            self.close("aborted" if fate in ("abort", "abort only") else "committed")


def account(error: BaseException) -> tuple[Outcome | None, bool]:
    """Return what an exception says of its transaction, and whether it is one that may come."""
    if isinstance(error, TransactionError):
        return error.outcome, True
    if isinstance(error, WdDiError | Whim):
        return "aborted", True
    if isinstance(error, TimeoutError | asyncio.CancelledError):  # of the task: the event knows
        return None, True
    return None, False


class Watched:
    """A transaction's block, whose beginning and end are looked after."""

    def __init__(self, desk: Desk, scope: TransactionScope, timeout_ms: int) -> None:
        self._desk, self._scope, self._timeout_ms = desk, scope, timeout_ms

    def __enter__(self) -> Transaction:
        with self._desk.watch.call("checkout", self._timeout_ms):
            return self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        with self._desk.watch.call(*self._end(error)):
            return self._scope.__exit__(kind, error, trace)

    async def __aenter__(self) -> AsyncTransaction:
        with self._desk.watch.call("async checkout", self._timeout_ms):
            return await self._scope.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        name, deadline_ms = self._end(error)
        with self._desk.watch.call(f"async {name}", deadline_ms):
            return await self._scope.__aexit__(kind, error, trace)

    def _end(self, error: BaseException | None) -> tuple[str, int]:
        return ("commit", self._desk.end_ms) if error is None else ("abort", self._desk.settings.abort_timeout_ms)


class Worker:
    """One after the other, transactions under keys that nobody else has."""

    def __init__(self, desk: Desk, number: int, seed: object, topics: Sequence[str], pause: float) -> None:
        self.desk = desk
        self._name = f"{desk.name}.{number}"
        self._draw = random.Random(f"{seed}-{self._name}")  # noqa: S311  (no secret)
        self._topics = topics
        self._pause = pause
        self._number = 0

    def plan(self, *, cuts: bool) -> Plan:
        """Return what comes next."""
        return draw_plan(self._draw, self._topics, cuts=cuts, pause=self._pause)

    def attempt(self, plan: Plan) -> Attempt:
        """Announce it."""
        self._number += 1
        records = [(topic, f"{self._name}.{key}") for topic, key in plan.records]
        return Attempt(self.desk, f"{self._name}.{self._number}", records)

    # -- on a thread -------------------------------------------------------------------------------

    def step(self) -> None:
        """Do the next one, on this thread."""
        plan = self.plan(cuts=False)
        time.sleep(plan.pause)
        if plan.way == "implicit":
            self._implicit(plan)
        elif plan.way == "run":
            self._run(plan)
        else:
            attempt = self.attempt(plan)
            scope = Watched(self.desk, self.desk.pool.transaction(timeout_ms=plan.timeout_ms), plan.timeout_ms)
            with attempt.told(plan.fate), scope as tx:
                self._body(tx, attempt, plan)

    def _implicit(self, plan: Plan) -> None:
        attempt = self.attempt(plan)
        [(topic, key)] = attempt.records
        deadline_ms = plan.timeout_ms + self.desk.end_ms + ANSWER_MS
        checkout = self.desk.pool.producer(timeout_ms=plan.timeout_ms)
        with attempt.told(), self.desk.watch.call("producer", deadline_ms), checkout as producer:
            producer.produce_sync(topic, attempt.value(0), key=key, timeout_ms=ANSWER_MS)

    def _run(self, plan: Plan) -> None:
        attempts: list[Attempt] = []

        def body(tx: Transaction) -> None:
            attempts.append(self.attempt(plan))
            self._body(tx, attempts[-1], plan)

        with self._told_in_turn(attempts, plan), self.desk.watch.call("run", self._run_ms):
            self.desk.pool.run(body, retry=RETRY)

    def _body(self, tx: Transaction, attempt: Attempt, plan: Plan) -> None:
        attempt.id = tx.id
        *most, last = attempt.records
        for number, (topic, key) in enumerate(most):
            tx.produce_async(topic, attempt.value(number), key=key)
        if plan.waits:
            with self.desk.watch.call("produce_sync", ANSWER_MS):
                tx.produce_sync(last[0], attempt.value(len(most)), key=last[1], timeout_ms=ANSWER_MS)
        else:
            tx.produce_async(last[0], attempt.value(len(most)), key=last[1])
        time.sleep(plan.lingers)
        self._fate(tx, plan)

    # -- in a task ---------------------------------------------------------------------------------

    async def astep(self) -> None:
        """Do the next one, in this task."""
        plan = self.plan(cuts=True)
        await asyncio.sleep(plan.pause)
        if plan.cut is None:
            await self._attempt(plan)
            return
        task = asyncio.create_task(self._attempt(plan))
        await asyncio.wait([task], timeout=plan.cut_after)
        if plan.cut == "cancel":
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def _attempt(self, plan: Plan) -> None:
        if plan.way == "implicit":
            await self._aimplicit(plan)
        elif plan.way == "run":
            await self._arun(plan)
        else:
            attempt = self.attempt(plan)
            scope = Watched(self.desk, self.desk.pool.transaction(timeout_ms=plan.timeout_ms), plan.timeout_ms)
            with attempt.told(plan.fate):
                async with asyncio.timeout(plan.cut_after if plan.cut == "time-out" else None), scope as tx:
                    await self._abody(tx, attempt, plan)

    async def _aimplicit(self, plan: Plan) -> None:
        attempt = self.attempt(plan)
        [(topic, key)] = attempt.records
        deadline_ms = plan.timeout_ms + self.desk.end_ms + ANSWER_MS
        with attempt.told(), self.desk.watch.call("async producer", deadline_ms):
            async with self.desk.pool.producer(timeout_ms=plan.timeout_ms) as producer:
                await producer.produce_sync(topic, attempt.value(0), key=key, timeout_ms=ANSWER_MS)

    async def _arun(self, plan: Plan) -> None:
        attempts: list[Attempt] = []

        async def body(tx: AsyncTransaction) -> None:
            attempts.append(self.attempt(plan))
            await self._abody(tx, attempts[-1], plan)

        with self._told_in_turn(attempts, plan), self.desk.watch.call("async run", self._run_ms):
            async with asyncio.timeout(plan.cut_after if plan.cut == "time-out" else None):
                await self.desk.pool.run(body, retry=RETRY)

    async def _abody(self, tx: AsyncTransaction, attempt: Attempt, plan: Plan) -> None:
        attempt.id = tx.id
        *most, last = attempt.records
        for number, (topic, key) in enumerate(most):
            tx.produce_async(topic, attempt.value(number), key=key)
        if plan.waits:
            with self.desk.watch.call("async produce_sync", ANSWER_MS):
                await tx.produce_sync(last[0], attempt.value(len(most)), key=last[1], timeout_ms=ANSWER_MS)
        else:
            tx.produce_async(last[0], attempt.value(len(most)), key=last[1])
        await asyncio.sleep(plan.lingers)
        self._fate(tx, plan)

    # -- both --------------------------------------------------------------------------------------

    def _fate(self, tx: Any, plan: Plan) -> None:
        if plan.fate == "raise":
            raise Whim
        if plan.fate == "abort":
            raise AbortTransaction
        if plan.fate == "abort only":
            tx.abort_only()

    @contextmanager
    def _told_in_turn(self, attempts: list[Attempt], plan: Plan) -> Iterator[None]:
        """Tell of each attempt of a run: what came out of it is the last one's, and the event knows the others'."""
        try:
            yield
        except BaseException as error:
            for each in attempts[:-1]:
                each.close(None)
            said, known = account(error)
            if attempts:
                attempts[-1].close(said, error)
            if not known:
                self.desk.journal.write("surprise", error=f"{self._name}: {error!r}")
            if not isinstance(error, Exception):
                raise
        else:
            for each in attempts[:-1]:
                each.close(None)
            attempts[-1].close("aborted" if plan.fate in ("abort", "abort only") else "committed")

    @property
    def _run_ms(self) -> float:
        once = self.desk.settings.timeout_ms + ANSWER_MS + self.desk.end_ms + self.desk.settings.abort_timeout_ms
        return RETRY.attempts * (once + RETRY.max_backoff_ms)
