"""Measures the figures that README and the documentation quote: ``make bench``.

It runs on brokers of its own, or on the cluster that ``KAFKA_BOOTSTRAP_SERVERS`` names. Trust the ratios within one
comparison, not the absolute numbers: clients and brokers share the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import confluent_kafka
from rich.console import Console
from rich.table import Table

import wd_di
from tests.bench.comparing import Comparison, Effort
from tests.bench.groups import GROUPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.starting import Figure


WIDTH = 118


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line: tables for people, or one JSON object."""
    options = _parser().parse_args(arguments)
    show = Console(stderr=options.json, width=WIDTH)
    effort = Effort(rounds=options.rounds, seconds=options.seconds)
    report: dict[str, Any] = {"machine": _machine(), "comparisons": [], "figures": []}
    for group in options.groups or GROUPS:
        for result in GROUPS[group](effort):
            report["comparisons" if isinstance(result, Comparison) else "figures"].append(asdict(result))
            show.print(_table(result) if isinstance(result, Comparison) else _line(result), highlight=False)
    if options.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    usual = Effort()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="default: all", metavar="|".join(GROUPS))
    parser.add_argument("--rounds", type=int, default=usual.rounds, help="turns of each way (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="length of a turn (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one object on standard output; the tables go to the other")
    return parser


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "wd_di": wd_di.__version__,
        "confluent-kafka": confluent_kafka.version(),
        "librdkafka": confluent_kafka.libversion()[0],
    }


def _table(comparison: Comparison) -> Table:
    table = Table(title=comparison.title, title_justify="left")
    table.add_column("way", no_wrap=True)
    for column in (f"{comparison.unit}/s", "ratio", "of rounds", "median call", "99 %", "longest"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in comparison.rows:
        calls = [f"{took:,.2f} ms" for took in (row.call_ms, row.slow_call_ms, row.longest_call_ms)]
        span = f"{row.least_ratio:.2f} to {row.most_ratio:.2f}"
        table.add_row(row.way, f"{row.rate:,.0f}", f"{row.ratio:.2f}", span, *calls)
    return table


def _line(figure: Figure) -> str:
    value, least, most = (f"{each:,.2f}" for each in (figure.value, figure.least, figure.most))
    return f"{figure.name}: {value} {figure.unit}" + (f" ({least} to {most})" if least != most else "")


if __name__ == "__main__":
    sys.exit(main())
