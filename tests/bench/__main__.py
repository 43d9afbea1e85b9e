"""Measures the figures that README and the documentation quote: ``make bench``.

It runs on brokers of its own, or on the cluster that ``KAFKA_BOOTSTRAP_SERVERS`` names. Trust the ratios within one
comparison, not the absolute numbers: clients and brokers share the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tests.bench import showing
from tests.bench.comparing import compare
from tests.bench.groups import GROUPS
from tests.bench.report import Report
from tests.bench.workloads import Effort, Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 118


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
    if options.json:
        sys.stdout.write(json.dumps(report.plain(), indent=2) + "\n")
    return 0


def _measured(selected: Sequence[str], effort: Effort, show: Console) -> Report:
    report = Report.here()
    numbers = {int(each) for each in selected if each.isdigit()}
    for name, group in GROUPS.items():
        if not selected or name in selected or numbers:
            for each in group.workloads(effort, () if not selected or name in selected else numbers):
                result = each if isinstance(each, Figure) else compare(each, effort.rounds)
                report.add(result)
                show.print(showing.table(result), highlight=False)
    return report


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
    parser.add_argument("--before", type=Path, metavar="JSON", help="show what has changed since then")
    return parser


if __name__ == "__main__":
    sys.exit(main())
