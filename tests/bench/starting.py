"""What it costs until the first record: importing, brokers for tests, initialising producers and keeping them."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException

from tests.bench.clients import pool, raw, transactional
from tests.bench.workloads import Figure
from wd_di.testing import Cluster, LocalKafka, MockKafka

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from confluent_kafka import Producer

    from tests.bench.workloads import Place

MANY = 20
KEPT = 10
GIVEN_UP_MS = 1_500


def beginnings(place: Place) -> Iterator[Figure]:
    """Measure what is paid before the first record."""
    rounds = place.effort.rounds
    yield from without_broker(rounds)
    if "KAFKA_BOOTSTRAP_SERVERS" not in os.environ:
        yield from brokers(min(rounds, 3))
    yield from producers(place.kafka, rounds)


def without_broker(rounds: int) -> Iterator[Figure]:
    """Measure what needs no broker."""
    for statement in ("import wd_di", "from wd_di import PoolResource, inject"):
        yield _figure(statement, "ms", [_imported(statement) for _ in range(rounds)])
    yield _figure("MockKafka()", "ms", [_took(lambda: MockKafka().close()) for _ in range(rounds)])
    dead = raw("127.0.0.1:1", transactional_id="bench-dead", transaction_timeout_ms=GIVEN_UP_MS)
    blocked = _took(lambda: _refused(dead))
    yield _figure("init_transactions() without a broker, in transaction.timeout.ms", "times", [blocked / GIVEN_UP_MS])


def brokers(rounds: int) -> Iterator[Figure]:
    """Measure a broker of one's own."""
    started, memory = [], []
    for _ in range(rounds):
        kafka = LocalKafka()
        started.append(_took(kafka.start))
        with kafka:
            memory.append(_peak_mb(kafka.brokers[0].pid))
    yield _figure("LocalKafka()", "ms", started)
    if all(memory):
        yield _figure("LocalKafka(), memory", "MB", memory)


def producers(kafka: Cluster, rounds: int) -> Iterator[Figure]:
    """Measure transactional producers: how long they take, and what an idle one holds."""
    servers = kafka.bootstrap_servers
    yield _figure("the first init_transactions() on a new broker", "ms", [_ready(servers, 1)])
    if Path("/proc/self/task").is_dir():
        yield from _kept(servers)
    yield _figure("a later init_transactions()", "ms", [_ready(servers, 1) for _ in range(rounds)])
    yield _figure(f"{MANY} of them in turn", "ms", [_ready(servers, MANY) for _ in range(rounds)])
    yield _figure(f"wd_di: size={MANY}, opened", "ms", [_opened(servers) for _ in range(rounds)])


def _ready(servers: str, count: int) -> float:
    with ExitStack() as stack:
        return _took(lambda: [stack.enter_context(producer) for producer in transactional(servers, count)])


def _opened(servers: str) -> float:
    with ExitStack() as stack:
        return _took(lambda: stack.enter_context(pool(servers, MANY, transactions=True)))


def _kept(servers: str) -> Iterator[Figure]:
    """Measure with a producer there already: what only the first one costs isn't an idle one's."""
    with ExitStack() as stack:
        for producer in transactional(servers, 1):
            stack.enter_context(producer)
        before = _settled()
        for producer in transactional(servers, KEPT):
            stack.enter_context(producer)
        costs = [(after - earlier) / KEPT for after, earlier in zip(_settled(), before, strict=True)]
    for name, unit, cost in zip(("threads", "files", "memory"), ("", "", "kB"), costs, strict=True):
        yield _figure(f"an idle transactional producer, {name}", unit, [cost])


def _settled() -> tuple[int, int, float]:
    """Return this process's threads, files and memory, once the threads of what was closed before are gone."""
    threads = -1
    while threads != (threads := _entries("/proc/self/task")):
        time.sleep(0.5)
    return threads, _entries("/proc/self/fd"), _memory_kb("self", "VmRSS")


def _entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def _figure(name: str, unit: str, values: list[float]) -> Figure:
    return Figure(name, unit, statistics.median(values), min(values), max(values))


def _took(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return (time.perf_counter() - began) * 1000


def _imported(statement: str) -> float:
    """Measure in an interpreter of its own, whose own start doesn't count."""
    code = f"import time; began = time.perf_counter(); {statement}; print((time.perf_counter() - began) * 1000)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True).stdout)


def _refused(dead: Producer) -> None:
    """Initialise in vain. The producer isn't closed: that would warn, since it is still at it."""
    try:
        dead.init_transactions()
    except KafkaException:
        return
    raise RuntimeError("there is a broker on port 1")


def _peak_mb(pid: int) -> float:
    return _memory_kb(str(pid), "VmHWM") / 1024


def _memory_kb(process: str, field: str) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # not on macOS
        return 0.0
    return next(float(line.split()[1]) for line in status.splitlines() if line.startswith(field))
