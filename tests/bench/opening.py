"""What it takes to open many producers at once, and what they hold while nobody uses them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.clients import ID, TIMEOUT_S, instance, pool, raw
from tests.bench.workloads import Target, Turn, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from confluent_kafka import Producer

    from tests.bench.workloads import Place, Way
    from wd_di import ProducerPool

MANY = 20
BARE, OURS = f"{MANY} producers", f"wd_di: size={MANY}"
CLOSE = "close, ms"
THREADS, MEMORY, CORE = "threads", "memory, MB", "% of a core"
ROOT = Path(__file__).parent.parent.parent
SETTLED_S = 1.0


def opened(place: Place) -> Iterator[Workload]:
    """Give twenty transactional producers, made in parallel and closed again."""
    servers = place.kafka.bootstrap_servers
    ways: dict[str, Way] = {f"{BARE} in parallel": lambda: _by_hand(servers), OURS: lambda: _by_pool(servers)}
    asked = [
        Target(OURS, "time", 0.35, "at most", against=f"{BARE} in parallel"),
        Target(OURS, CLOSE, 10, "at most"),
    ]
    yield Workload(12, f"{MANY} transactional producers, opened and closed", "openings", ways, "time", asked)


def idle(place: Place) -> Iterator[Workload]:
    """Give what twenty idle, connected producers hold, each time in a new process."""
    if not Path("/proc/self/task").is_dir():
        return
    servers, seconds = place.kafka.bootstrap_servers, place.effort.seconds
    ways: dict[str, Way] = {
        f"{BARE}, idle": lambda: _elsewhere("bare", servers, seconds),
        f"{OURS}, idle": lambda: _elsewhere("pool", servers, seconds),
    }
    base, other = ways
    asked = [
        Target(other, figure, limit, "at most", against=base, above=True)
        for figure, limit in ((THREADS, 1), (MEMORY, 1), (CORE, 0.1))
    ]
    yield Workload(13, f"{MANY} idle producers, connected", "processes", ways, MEMORY, asked)


def _by_hand(servers: str) -> Turn:
    drawn = instance()
    ids = [ID.format(instance=drawn, index=index) for index in range(MANY)]

    def make(transactional_id: str) -> Producer:
        producer = raw(servers, transactional_id=transactional_id)
        producer.init_transactions(TIMEOUT_S)
        return producer

    with ThreadPoolExecutor(MANY) as executor:
        began, used = time.perf_counter(), time.process_time()
        made = list(executor.map(make, ids))
        there, spent = time.perf_counter(), time.process_time() - used
        list(executor.map(lambda each: each.close(), made))
        closed = time.perf_counter()
    return Turn(1, there - began, cpu=spent, also={CLOSE: 1000 * (closed - there)})


def _by_pool(servers: str) -> Turn:
    began, used = time.perf_counter(), time.process_time()
    ours = pool(servers, MANY, transactions=True)
    there, spent = time.perf_counter(), time.process_time() - used
    ours.close()
    closed = time.perf_counter()
    return Turn(1, there - began, cpu=spent, also={CLOSE: 1000 * (closed - there)})


# -- in a process of its own ---------------------------------------------------------------------------


def _elsewhere(kind: str, servers: str, seconds: float) -> Turn:
    command = [sys.executable, "-m", "tests.bench.opening", kind, servers, str(seconds)]
    began = time.perf_counter()
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, timeout=120).stdout
    return Turn(1, time.perf_counter() - began, also=json.loads(told))


def _held(kind: str, servers: str, seconds: float) -> dict[str, float]:
    """Return what it holds above the same process with all modules loaded, and one producer used and closed."""
    with raw(servers) as first, pool(servers, 1) as second, second.producer() as producer:
        first.list_topics(timeout=TIMEOUT_S)
        assert producer is not None
    time.sleep(SETTLED_S)
    threads, memory = _threads(), _memory_mb()
    with ExitStack() as stack:
        kept = [_connected(stack, kind, servers)]
        time.sleep(SETTLED_S)
        held: dict[str, float] = {THREADS: _threads() - threads, MEMORY: _memory_mb() - memory}
        began, used = time.perf_counter(), time.process_time()
        time.sleep(seconds)
        held[CORE] = 100 * (time.process_time() - used) / (time.perf_counter() - began)
        assert kept
    return held


def _connected(stack: ExitStack, kind: str, servers: str) -> Sequence[Producer] | ProducerPool:
    if kind == "pool":
        return stack.enter_context(pool(servers, MANY, transactions=True))
    drawn = instance()
    made = [
        stack.enter_context(raw(servers, transactional_id=ID.format(instance=drawn, index=index)))
        for index in range(MANY)
    ]
    for producer in made:
        producer.init_transactions(TIMEOUT_S)
    return made


def _threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def _memory_mb() -> float:
    status = Path("/proc/self/status").read_text("utf-8")
    return next(float(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def _main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.opening", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=["bare", "pool"])
    parser.add_argument("servers")
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    return _held(options.kind, options.servers, options.seconds)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main()))
