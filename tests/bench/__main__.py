"""Measures the figures that README and the documentation quote: ``make bench``.

It runs on brokers of its own, or on the cluster that ``KAFKA_BOOTSTRAP_SERVERS`` names. Trust the ratios within one
comparison, not the absolute numbers: clients and brokers share the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tests.bench import charts, pages, showing
from tests.bench.comparing import compare
from tests.bench.groups import GROUPS
from tests.bench.report import Report
from tests.bench.workloads import Effort, Figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH = 118
CHARTS = Path("docs/pictures/bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line: tables for people, or one JSON object."""
    options = _parser().parse_args(arguments)
    show = Console(stderr=options.json, width=WIDTH)
    if options.from_ is None:
        report = _measured(options.selected, Effort(options.rounds, options.seconds), show)
    else:
        report = Report.read(options.from_)
        for result in report.results():
            show.print(showing.table(result), highlight=False)
    show.print(showing.summary(report), highlight=False)
    if options.before is not None:
        show.print(showing.before_and_after(Report.read(options.before), report), highlight=False)
    if options.save is not None:
        options.save.write_text(json.dumps(report.plain(), indent=1) + "\n", "utf-8")
    if options.charts is not None:
        for path, svg in charts.draw(report, options.charts).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(svg, "utf-8")
    for page in options.page:
        page.write_text(pages.filled(page.read_text("utf-8"), report), "utf-8")
    if options.json:
        sys.stdout.write(json.dumps(report.plain(), indent=2) + "\n")
    return 1 if report.failed else 0


def _measured(selected: Sequence[str], effort: Effort, show: Console) -> Report:
    report = Report.here()
    numbers = {int(each) for each in selected if each.isdigit()}
    for name, group in GROUPS.items():
        wanted = () if not selected or name in selected else numbers
        if not selected or name in selected or numbers:
            with _told(show, report, name):
                for each in group.workloads(effort, wanted):
                    with _told(show, report, each.name if isinstance(each, Figure) else each.title):
                        result = each if isinstance(each, Figure) else compare(each, effort.rounds)
                        report.add(result)
                        show.print(showing.table(result), highlight=False)
    return report


@contextmanager
def _told(show: Console, report: Report, what: str) -> Iterator[None]:
    """Go on with the rest if one workload fails: the others took long enough."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told)
        report.failed[what] = f"{type(error).__name__}: {error}"
        show.print(f"✗ {what} failed: {report.failed[what]}", highlight=False, markup=False)


def _selected(text: str) -> str:
    if text not in GROUPS and not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is neither a row's number nor one of {', '.join(GROUPS)}")
    return text


def _parser() -> argparse.ArgumentParser:
    usual = Effort()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "selected", nargs="*", type=_selected, help="default: all", metavar="NUMBER|" + "|".join(GROUPS)
    )
    parser.add_argument("--rounds", type=int, default=usual.rounds, help="turns of each way (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="length of a turn (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one object on standard output; the tables go to the other")
    parser.add_argument("--from", dest="from_", type=Path, metavar="JSON", help="show what was measured before")
    parser.add_argument(
        "--save", type=Path, metavar="JSON", help="write that object to a file, for --from and --before"
    )
    parser.add_argument("--before", type=Path, metavar="JSON", help="show what has changed since then")
    parser.add_argument(
        "--charts", type=Path, nargs="?", const=CHARTS, metavar="DIR", help=f"draw charts there (default: {CHARTS})"
    )
    parser.add_argument("--page", type=Path, action="append", default=[], help="write the figures into this page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
