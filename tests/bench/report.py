"""What one run found, and how it is kept as JSON."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import confluent_kafka

import wd_di
from tests.bench.comparing import Comparison, Row, Spread, Verdict
from tests.bench.workloads import Figure, Target

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(slots=True)
class Report:
    """The results of a run, where it ran, and which workloads failed, with their errors."""

    machine: dict[str, Any]
    comparisons: list[Comparison] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls) -> Report:
        """Return an empty report of this machine."""
        return cls(
            {
                "cores": os.cpu_count(),
                "system": platform.platform(),
                "python": platform.python_version(),
                "wd_di": wd_di.__version__,
                "confluent-kafka": confluent_kafka.version(),
                "librdkafka": confluent_kafka.libversion()[0],
            }
        )

    @classmethod
    def read(cls, path: Path) -> Report:
        """Return the report that was written there."""
        plain = json.loads(path.read_text("utf-8"))
        comparisons = [_comparison(each) for each in plain["comparisons"]]
        return cls(plain["machine"], comparisons, [Figure(**each) for each in plain["figures"]], plain["failed"])

    def add(self, result: Comparison | Figure) -> None:
        """Take in what was found."""
        if isinstance(result, Comparison):
            self.comparisons.append(result)
        else:
            self.figures.append(result)

    def results(self) -> Iterator[Comparison | Figure]:
        """Give everything that was found."""
        yield from self.comparisons
        yield from self.figures

    def in_order(self) -> list[Comparison]:
        """Return the comparisons by the number of their row."""
        return sorted(self.comparisons, key=lambda each: each.number)

    def plain(self) -> dict[str, Any]:
        """Return what becomes JSON."""
        return asdict(self)


def _comparison(plain: dict[str, Any]) -> Comparison:
    rows = [
        Row(row["way"], Spread(**row["ratio"]), {name: Spread(**each) for name, each in row["figures"].items()})
        for row in plain["rows"]
    ]
    verdicts = [Verdict(Target(**each["target"]), Spread(**each["found"])) for each in plain["verdicts"]]
    return Comparison(**{**plain, "rows": rows, "verdicts": verdicts})
