"""What ``socket.timeout.ms`` of a transactional pool saves and costs: ``python -m tests.bench.timeouts``.

Each value goes through the same faults: requests and replies that are lost, a broker far away or slow, one that hangs
for six seconds, three that are restarted in turn under load, and batches that take long on a slow link. Every pair has
a process and brokers of its own, behind the fault proxy of the tests; all of them take 50 minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from confluent_kafka import Consumer, TopicPartition

from tests.faults.proxy import FaultProxy
from tests.faults.rules import Action, Api
from tests.kafka.readers import read
from wd_di import CommitOutcomeUnknownError, KafkaSettings, PoolSettings, ProducerPool, WdDiError
from wd_di.testing import LocalKafka

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VALUES_MS = (1_000, 2_000, 3_000, 5_000, 6_000, 10_000, 0)
"""0 is librdkafka's own."""
OWN_MS = 14_900
"""What librdkafka makes of it by itself: a transaction's time-out less 100 ms. Without it a pool would set its own."""
NAME = "timeouts"
RECORDS, THREADS = 10, 4
LARGE, USUAL = 10 * 1024 * 1024, 950_000
CALM_S, HANGS_S, AFTER_S = 3.0, 6.0, 15.0
PATIENCE_MS = 30_000
READ_TIMEOUT_MS = 120_000
BROKERS = {
    "message.max.bytes": LARGE + 4096,
    "replica.fetch.max.bytes": LARGE + 4096,
    "broker.session.timeout.ms": 9_000,  # Kafka's own; that of the tests' brokers is shorter
}


class Run:
    """One value in one case.

    Attributes:
        outcomes: How many transactions ended how.
        commits: When each was committed.
    """

    def __init__(self, kafka: LocalKafka, proxy: FaultProxy, value_ms: int) -> None:
        self.kafka, self.proxy = kafka, proxy
        self.topic = kafka.create_topic(f"{NAME}-{uuid.uuid4().hex[:8]}", 3)
        self.outcomes: Counter[str] = Counter()
        self.commits: list[float] = []
        self._value_ms = value_ms
        self._connections = 0

    def pool(self, *, size: int = 1, **kafka: Any) -> ProducerPool:
        """Return an open pool that knows the topic; from now on connections are counted."""
        own = {"bootstrap.servers": self.kafka.bootstrap_servers, "log_level": 0, **kafka}
        own["socket.timeout.ms"] = self._value_ms or OWN_MS
        settings = PoolSettings(
            size=size,
            timeout_ms=PATIENCE_MS,
            transactional_id=NAME + "-{instance}-{index}",
            instance=uuid.uuid4().hex[:8],
            kafka=KafkaSettings.of(own),
        )
        pool = ProducerPool(settings, name=NAME)
        pool.open()
        for _ in range(size):
            pool.run(lambda tx: tx.produce_async(self.topic, "warm"))
        self._connections = sum(self.proxy.connections.values())
        return pool

    def call(self, fn: Callable[[], object]) -> str:
        """Call it, and return how long it took and what it says of its outcome."""
        began = time.monotonic()
        outcome = told(fn)
        return f"{time.monotonic() - began:.1f} s, {outcome}, {self.reconnections()}"

    def load(self, over: threading.Event) -> None:
        """Commit transactions on several threads until the event is set."""

        def work() -> None:
            while not over.is_set():
                outcome = told(partial(transaction, pool, self.topic))
                self.outcomes[outcome] += 1
                if outcome == "committed":
                    self.commits.append(time.monotonic())

        with self.pool(size=THREADS) as pool:
            threads = [threading.Thread(target=work) for _ in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def loaded(self, harm: Callable[[], object]) -> str:
        """Do the harm under load, and return what came of it."""
        over = threading.Event()
        thread = threading.Thread(target=self.load, args=(over,))
        thread.start()
        time.sleep(CALM_S)
        harm()
        time.sleep(AFTER_S)
        over.set()
        thread.join()
        tally = ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        gap = max(later - sooner for sooner, later in pairwise(sorted(self.commits)))
        return f"{tally}, longest gap {gap:.1f} s, {self.reconnections()}, {self.repeated()} repeated"

    def reconnections(self) -> str:
        """Return how many connections were made since the pool was open."""
        return f"{sum(self.proxy.connections.values()) - self._connections} connections"

    def repeated(self) -> int:
        """Return how many records a reader finds twice."""
        found = read(self.kafka.bootstrap_servers, self.topic, timeout_ms=READ_TIMEOUT_MS)
        seen = Counter(record.value for record in found if record.value != b"warm")
        return sum(count > 1 for count in seen.values())


def told(fn: Callable[[], object]) -> str:
    """Call it, and return what it says of its outcome."""
    try:
        fn()
    except CommitOutcomeUnknownError:
        return "unknown"
    except WdDiError as error:
        return type(error).__name__
    return "committed"


def transaction(pool: ProducerPool, topic: str, offsets: Sequence[TopicPartition] = (), group: Any = None) -> None:
    """Commit some records, and offsets if there are any."""
    name = uuid.uuid4().hex
    with pool.transaction() as tx:
        for number in range(RECORDS):
            tx.produce_async(topic, f"{name}:{number}", key=str(number))
        if offsets:
            tx.send_offsets(offsets, group)


# -- cases -----------------------------------------------------------------------------------------


def lost(api: Api, action: Action, run: Run) -> str:
    """Lose one request or reply of a transaction with offsets, or of a reload."""
    settings = {"bootstrap.servers": run.kafka.bootstrap_servers, "group.id": run.topic}
    with closing(Consumer(settings)) as consumer, run.pool() as pool:
        group, offsets = consumer.consumer_group_metadata(), [TopicPartition(run.topic, 0, 1)]
        with run.proxy.on(api, action, client=NAME):
            if api is Api.INIT_PRODUCER_ID:
                return run.call(pool.reload)
            return run.call(lambda: transaction(pool, run.topic, offsets, group))


def slow(api: Api, ms: int, run: Run) -> str:
    """Let the broker take that long for everything of a kind."""
    with run.pool() as pool, run.proxy.on(api, "delay reply", ms=ms, times=None, client=NAME):
        return run.call(lambda: transaction(pool, run.topic))


def large(size: int, count: int, bytes_per_s: int, run: Run) -> str:
    """Send batches of one record each on a slow link."""
    with run.pool(**{"message.max.bytes": LARGE + 1024}) as pool:
        run.proxy.throttle(bytes_per_s)

        def send() -> None:
            with pool.transaction() as tx:
                for _ in range(count):
                    tx.produce_async(run.topic, bytes(size), partition=0)

        took = run.call(send)
        run.proxy.throttle(None)
        return took


def far(run: Run) -> str:
    """Commit transactions on a broker to which a round trip takes 500 ms."""
    run.proxy.lag(500)
    try:
        return run.loaded(lambda: None)
    finally:
        run.proxy.lag(0)


def hangs(how: Literal["frozen", "stopped"], run: Run) -> str:
    """Let the way to all brokers, or one broker of three, hang."""

    def harm() -> None:
        [*_, last] = run.kafka.brokers
        run.proxy.freeze() if how == "frozen" else last.pause()
        time.sleep(HANGS_S)
        run.proxy.thaw() if how == "frozen" else last.resume()

    return run.loaded(harm)


def restarts(run: Run) -> str:
    """Restart all brokers in turn, as an upgrade does."""

    def harm() -> None:
        for broker in run.kafka.brokers:
            broker.restart()
            time.sleep(CALM_S)

    return run.loaded(harm)


CASES: dict[str, tuple[Literal[1, 3], Callable[[Run], str]]] = {
    "EndTxn request lost": (1, partial(lost, Api.END_TXN, "swallow request")),
    "EndTxn reply lost": (1, partial(lost, Api.END_TXN, "swallow reply")),
    "AddPartitionsToTxn reply lost": (1, partial(lost, Api.ADD_PARTITIONS_TO_TXN, "swallow reply")),
    "AddOffsetsToTxn reply lost": (1, partial(lost, Api.ADD_OFFSETS_TO_TXN, "swallow reply")),
    "TxnOffsetCommit reply lost": (1, partial(lost, Api.TXN_OFFSET_COMMIT, "swallow reply")),
    "Produce reply lost": (1, partial(lost, Api.PRODUCE, "swallow reply")),
    "InitProducerId reply lost": (1, partial(lost, Api.INIT_PRODUCER_ID, "swallow reply")),
    "EndTxn takes 2 s": (1, partial(slow, Api.END_TXN, 2_000)),
    "Produce takes 4 s": (1, partial(slow, Api.PRODUCE, 4_000)),
    "1 x 10 MB at 4 MB/s": (1, partial(large, LARGE - 1024, 1, 4_000_000)),
    "1 x 10 MB at 2 MB/s": (1, partial(large, LARGE - 1024, 1, 2_000_000)),
    "6 x 1 MB at 1 MB/s": (1, partial(large, USUAL, 6, 1_000_000)),
    "500 ms away": (1, far),
    "hangs 6 s": (1, partial(hangs, "frozen")),
    "one of three hangs 6 s": (3, partial(hangs, "stopped")),
    "three restarted": (3, restarts),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line: one line for each case and value, as soon as it is there."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.timeouts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "cases", nargs="*", choices=[*CASES, []], help=f"default: all of {', '.join(CASES)}", metavar="CASE"
    )
    parser.add_argument("--values", type=int, nargs="*", default=VALUES_MS, help="in ms; 0 is librdkafka's own")
    parser.add_argument("--here", action="store_true", help="in this process, not in one for each")
    given = parser.parse_args(arguments)
    for name in given.cases or CASES:
        for value in given.values:
            figures = _here(name, value) if given.here else _there(name, value)
            print(figures if given.here else f"{name:30} {value:6}: {figures}", flush=True)  # noqa: T201
    return 0


def _there(name: str, value: int) -> str:
    """In a process of its own: librdkafka ends it where it meets what it holds to be impossible."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.timeouts", name, "--values", str(value), "--here"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or f"died ({done.returncode}): {done.stderr.strip()[-200:]}"


def _here(name: str, value: int) -> str:
    brokers, case = CASES[name]
    with FaultProxy() as proxy, LocalKafka(brokers, advertise=proxy.advertise, config=BROKERS) as kafka:
        return case(Run(kafka, proxy, value))


if __name__ == "__main__":
    sys.exit(main())
