"""What a run shows in the end: tables for people, Markdown for a page, and a folder for whoever looks into it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tests.chaos.history import lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tests.chaos.history import Transaction
    from tests.chaos.rules import Violation
    from tests.chaos.running import Result

NEAR_S = 3.0
"""A fault that ended this long before a transaction began may still have to do with it."""
MANY = 50
_OWN = ("Whim", "CancelledError", "TimeoutError")
_REFUSED = ("PoolTimeoutError", "PoolExhaustedError", "PoolUnhealthyError", "PoolClosedError", "PoolOpenError")

Rows = list[tuple[str, str]]


def rows(result: Result) -> list[tuple[str, Rows]]:
    """Return the summary: what is counted, under a title each."""
    transactions = list(result.history.transactions.values())
    kinds = Counter(map(kind_of, transactions))
    known = sum(1 for each in transactions if each.outcome is not None)
    doubts = unknown(result)
    met = Counter(fault["kind"] for fault in result.faults if fault["hits"])
    run: Rows = [
        ("seed", str(result.options.seed)),
        ("minutes of faults", f"{result.options.seconds / 60:.1f}"),
        ("transactions", f"{len(transactions):,}"),
        ("of them per second", f"{len(transactions) / max(result.lasted, 1):.0f}"),
        ("records seen", f"{len(result.history.seen):,}"),
        ("lives of processes", f"{len(result.history.processes):,}"),
        ("faults that were met", f"{sum(met.values()):,} of {len(met)} kinds"),
        ("outcomes unknown to living writers", f"{len(doubts)} ({100 * len(doubts) / max(known, 1):.3f} %)"),
        (
            "producers abandoned in a send_offsets",
            str(sum(each.abandoned for each in result.history.processes.values())),
        ),
        ("hangs", str(len(result.history.hangs))),
        ("violations", str(len(result.violations))),
    ]
    outcomes = [(name, f"{count:,}") for name, count in kinds.most_common()]
    faults = [(name, f"{count:,}") for name, count in sorted(met.items())]
    doubtful = [(each.name, f"{each.error}; near: {', '.join(near(result, each)) or 'nothing'}") for each in doubts]
    broken = [(each.rule, each.text) for each in result.violations[:MANY]]
    sections = [("run", run), ("transactions", outcomes), ("faults", faults)]
    return sections + [(title, found) for title, found in (("in doubt", doubtful), ("violations", broken)) if found]


def kind_of(each: Transaction) -> str:
    """Return what a transaction is counted as."""
    raised = each.error.partition(":")[0]
    if each.outcome is None:
        return "killed before the outcome was known"
    if each.outcome == "unknown":
        return "in doubt"
    if each.outcome == "committed":
        return f"committed, though {raised}" if raised else "committed"
    if raised in _REFUSED:
        return f"not begun: {raised}"
    if not raised or raised in _OWN:
        return f"aborted on purpose{f': {raised}' if raised else ''}"
    return f"aborted: {raised}"


def unknown(result: Result) -> list[Transaction]:
    """Return the transactions whose outcome a living writer couldn't tell."""
    return [each for each in result.history.transactions.values() if each.outcome == "unknown"]


def near(result: Result, each: Transaction) -> Iterator[str]:
    """Give the faults that were going on while a transaction was."""
    for fault in result.faults:
        if fault["began"] <= (each.ended or each.began) and fault["at"] >= each.began - NEAR_S:
            yield f"{fault['kind']} {fault['target']}".strip()


def tables(result: Result) -> Iterator[Table]:
    """Give the summary for a terminal."""
    for title, found in rows(result):
        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column(overflow="fold")
        table.add_column(overflow="fold", justify="left" if title in ("in doubt", "violations") else "right")
        for row in found:
            table.add_row(*row)
        yield table


def markdown(result: Result) -> str:
    """Return the summary for a page."""
    parts = []
    for title, found in rows(result):
        body = "\n".join(f"| {name} | {value.replace('|', '/')} |" for name, value in found)
        parts.append(f"| {title} | |\n| --- | --- |\n{body}\n")
    return "\n".join(parts)


def write_up(result: Result, folder: Path) -> None:
    """Leave what the next developer works from: how to run it again, and the story of each transaction at issue."""
    options = result.options
    again = f"make chaos MINUTES={options.seconds / 60:g} SEED={options.seed} ARGS='--haste {options.haste:g}'"
    text = [f"# A run that went wrong\n\nAgain, as far as a system repeats itself: `{again}`\n\n{markdown(result)}"]
    text += [_story(result, folder, each) for each in result.violations[:MANY]]
    text.append(
        "\n## What else is here\n\n- `run.jsonl`: what was done, when, and to whom\n"
        "- `journals/`: what each process was about to do, and what came of it\n"
        "- `logs/`: what each process and the brokers have written\n"
        "- `segments/`: the brokers' logs of what is in question, for `kafka.tools.DumpLogSegments`\n"
    )
    (folder / "README.md").write_text("\n".join(text))


def _story(result: Result, folder: Path, violation: Violation) -> str:
    text = [f"\n## {violation.rule}\n\n{violation.text}\n"]
    for name in violation.transactions:
        each = result.history.transactions.get(name)
        seen = [asdict(record) for record in result.history.seen if record.transaction == name]
        text.append(f"### {name}\n\n```json")
        text += [json.dumps(line) for line in _lines_of(folder, each)]
        text += [json.dumps({"seen": record}) for record in seen]
        text += [json.dumps({"near": list(near(result, each))})] if each is not None else []
        text.append("```\n")
    return "\n".join(text)


def _lines_of(folder: Path, each: Transaction | None) -> Iterable[dict[str, Any]]:
    if each is None:
        return []
    return [line for line in lines(folder / "journals" / f"{each.process}.jsonl") if line.get("tx") == each.name]
