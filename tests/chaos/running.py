"""One run of the checker: brokers, proxies and writers, what is done to them, and what a reader finds in the end."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery
from confluent_kafka import Producer

from tests import celery_broker
from tests.chaos.fleet import Fleet, Writer
from tests.chaos.harm import Harm
from tests.chaos.history import History, Journal, Process, lines, parsed, read_journals
from tests.chaos.rules import Violation, violations
from tests.chaos.schedule import Cast, lanes
from tests.chaos.watch import settled
from tests.chaos.writer import Config
from tests.faults.proxy import FaultProxy
from tests.kafka.readers import committed, stream
from wd_di.testing import LocalKafka

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.chaos.writer import Kind

WRITERS: dict[str, Kind] = {
    "threads-a": "threads",
    "threads-b": "threads",
    "tasks": "tasks",
    "processor-a": "processor",
    "processor-b": "processor",
    "celery": "celery",
}
TOPICS = ("chaos-a", "chaos-b")
INPUT, OUTPUT, GROUP = "chaos-in", "chaos-out", "chaos-group"
PARTITIONS, INPUT_PARTITIONS = 2, 4
FEED_S = 0.05
TASKS_AHEAD = 3
OPEN_S = 90.0
RECOVER_S = 60.0
LANE_S = 180.0
LONGER = 5
"""A slow machine may take so many times longer until enough kinds of faults were met."""
READ_MS = 180_000
PUBLISH = "tests.chaos.tasks.publish"


@dataclass(frozen=True, slots=True)
class Options:
    """How long, and with which seed.

    Attributes:
        seconds: For how long faults are made.
        calm: How long nothing is done before the end, at least.
        haste: How many times shorter the pauses between faults are.
        kinds: So many kinds of faults have to be met, if it takes longer.
        pause: Seconds of rest between a worker's transactions, at most.
    """

    seconds: float
    seed: int
    calm: float = 5.0
    haste: float = 1.0
    kinds: int = 0
    pause: float = 0.02


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run.

    Attributes:
        faults: The records of what was done, as the run's journal has them.
        lasted: Seconds from the first to the last transaction.
    """

    options: Options
    history: History
    faults: list[dict[str, Any]]
    violations: list[Violation]
    lasted: float


def run(options: Options, folder: Path) -> Result:
    """Run, and leave everything on record in the folder."""
    for name in ("journals", "logs", "journals/celery", "journals/celery-control"):
        (folder / name).mkdir()
    journal = Journal(folder / "run.jsonl")
    journal.write("options", seed=options.seed, seconds=options.seconds, haste=options.haste)
    with FaultProxy() as proxy, LocalKafka(3, advertise=proxy.advertise) as kafka:
        try:
            history = _run(options, folder, journal, kafka, proxy)
            found = violations(history)
            if any(each.transactions for each in found):
                _keep_segments(kafka, folder / "segments")
        finally:
            (folder / "logs" / "brokers.log").write_text(kafka.log_tail(5_000))
    faults = [line for line in lines(journal.path) if line["what"] == "fault"]
    ends = [each.ended or each.began for each in history.transactions.values()]
    lasted = max(ends) - min(each.began for each in history.transactions.values()) if ends else 0.0
    return Result(options, history, faults, found, lasted)


def _run(options: Options, folder: Path, journal: Journal, kafka: LocalKafka, proxy: FaultProxy) -> History:
    for topic in TOPICS:
        kafka.create_topic(topic, PARTITIONS)
    kafka.create_topic(OUTPUT, PARTITIONS)
    kafka.create_topic(INPUT, INPUT_PARTITIONS)
    servers = kafka.bootstrap_servers
    fleet = Fleet([Writer(config, journal, folder / "logs") for config in _configs(options, servers, folder)])
    harm = Harm(kafka, proxy, fleet, journal)
    with ExitStack() as stack:
        stack.callback(fleet.kill)
        stack.enter_context(_meanwhile(partial(_feed, servers)))
        stack.enter_context(_meanwhile(partial(_publish, folder / "journals")))
        for writer in fleet:
            writer.start()
        if not settled(lambda: all(writer.is_open() for writer in fleet), OPEN_S):
            raise TimeoutError(f"the writers didn't open within {OPEN_S} s: see {folder}/logs")
        _harm(options, harm)
        harm.heal()
        for writer in fleet:
            writer.revive()
        calm = time.time()
        journal.write("calm")
        settled(lambda: time.time() > calm + options.calm and all(_recovered(each, calm) for each in fleet), RECOVER_S)
        journal.write("finish")
        _together([partial(writer.stop, finish=True) for writer in fleet])
    history = read_journals((folder / "journals").glob("*.jsonl"))
    history.calm = calm
    _tell_ends(history, journal)
    _look(history, servers)
    return history


def _configs(options: Options, servers: str, folder: Path) -> Iterator[Config]:
    for number, (name, kind) in enumerate(WRITERS.items()):
        yield Config(
            kind=kind,
            name=name,
            instance=name,
            seed=options.seed + number,
            version=1,
            servers=servers,
            topics=TOPICS,
            input=INPUT,
            output=OUTPUT,
            group=GROUP,
            folder=str(folder / "journals"),
            size=1 if kind in ("celery", "processor") else 3,
            pause=options.pause,
        )


def _harm(options: Options, harm: Harm) -> None:
    celery = [name for name, kind in WRITERS.items() if kind == "celery"]
    others = [name for name in WRITERS if name not in celery]
    forking = [name for name, kind in WRITERS.items() if kind == "threads"]
    cast = Cast((1, 2, 3), tuple(others), tuple(forking), tuple(celery), tuple(others))
    works = [partial(harm.run, lane) for lane in lanes(options.seed, cast, haste=options.haste).values()]
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    threading.Event().wait(options.seconds)
    settled(lambda: len(harm.met) >= options.kinds or bool(harm.errors), LONGER * options.seconds)
    harm.end()
    for thread in threads:
        thread.join(LANE_S)
        if thread.is_alive():
            raise TimeoutError(f"a fault wasn't over after {LANE_S} s")
    for error in harm.errors:
        raise error


def _recovered(writer: Writer, calm: float) -> bool:
    """Whether each process of the writer has committed something since then."""
    return all(
        any(line["what"] == "end" and line["said"] == "committed" and line["at"] > calm + 1 for line in lines(path))
        for path in writer.living()
    )


# -- what goes on beside -----------------------------------------------------------------------------


@contextmanager
def _meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LANE_S)


def _feed(servers: str, over: threading.Event) -> None:
    """Write what the processors read."""
    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "log_level": 0})
    number = 0
    while not over.wait(FEED_S):
        producer.produce(INPUT, str(number), partition=number % INPUT_PARTITIONS)
        producer.poll(0)
        number += 1
    producer.flush(30)


def _publish(folder: Path, over: threading.Event) -> None:
    """Give Celery's worker something to do, but not much ahead."""
    place = str(folder / "celery")
    app = Celery("chaos", broker=celery_broker.URL)
    app.conf.broker_transport_options = {
        "data_folder_in": place,
        "data_folder_out": place,
        "control_folder": f"{place}-control",
    }
    while not over.wait(FEED_S):
        if len(list((folder / "celery").iterdir())) < TASKS_AHEAD:
            app.send_task(PUBLISH)


def _together(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# -- what is known in the end ------------------------------------------------------------------------


def _tell_ends(history: History, journal: Journal) -> None:
    """Say of each process how it ended: whoever finished before all was calm was stopped; others tell of some."""
    for process in history.processes.values():
        if process.end == "finished" and process.finished < history.calm:
            process.end = "stopped"
    for line in lines(journal.path):
        if line["what"] != "ended":
            continue
        process = history.processes.setdefault(line["process"], Process(line["process"]))
        process.code = line["code"]
        if line["by"] == "hung":
            process.end = "hung"
        elif line["by"] == "itself" or (line["by"] == "told" and line["code"] != 0):
            process.end = "died"


def _look(history: History, servers: str) -> None:
    """Read what a consumer sees."""
    for topic in (*TOPICS, OUTPUT):
        for record in stream(servers, topic, timeout_ms=READ_MS):
            history.seen.append(parsed(topic, record.partition, record.offset, record.key, record.value))
    history.inputs = {(record.partition, record.offset) for record in stream(servers, INPUT, timeout_ms=READ_MS)}
    for partition in range(INPUT_PARTITIONS):
        history.positions[partition] = max(0, committed(servers, GROUP, INPUT, partition, timeout_ms=READ_MS))


def _keep_segments(kafka: LocalKafka, to: Path) -> None:
    """Keep the brokers' logs of what is in question, for ``kafka.tools.DumpLogSegments``."""
    for broker in kafka.brokers:
        home = broker.log.parent / f"data-{broker.id}"
        for pattern in ("chaos-*", "__transaction_state-*", "__consumer_offsets-*"):
            for partition in home.glob(pattern):
                for segment in partition.glob("*.log"):
                    place = to / str(broker.id) / partition.name
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy(segment, place)
