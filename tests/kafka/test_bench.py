"""The benchmarks run, and the pages show what they measure."""

from __future__ import annotations

import json
import re
from contextlib import redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest

from tests.bench.__main__ import main
from tests.bench.groups import GROUPS
from tests.pages import ROOT

if TYPE_CHECKING:
    from wd_di.testing import Cluster

WHEN = (ROOT / "docs" / "when.md").read_text()
COMPARISONS = {"plain": 4, "transactions": 1, "starting": 0}


@pytest.fixture(scope="module", params=GROUPS)
def group(request: pytest.FixtureRequest) -> str:
    """Each of the groups."""
    return str(request.param)


@pytest.fixture(scope="module")
def measured(group: str, local_kafka: Cluster) -> dict[str, Any]:
    """What one short round of a group gives."""
    with pytest.MonkeyPatch.context() as environment, redirect_stdout(StringIO()) as out:
        environment.setenv("KAFKA_BOOTSTRAP_SERVERS", local_kafka.bootstrap_servers)
        assert 0 == main([group, "--rounds", "1", "--seconds", "0.02", "--json"])
    report: dict[str, Any] = json.loads(out.getvalue())
    return report


def test_every_way_is_measured(group: str, measured: dict[str, Any]) -> None:
    """Each way commits or delivers something in its turn, and everything that is there at the start costs something."""
    rows = [row for comparison in measured["comparisons"] for row in comparison["rows"]]

    assert COMPARISONS[group] == len(measured["comparisons"])
    assert (group == "starting") == bool(measured["figures"])
    assert [] == [row["way"] for row in rows if not row["figures"]["rate"]["least"] > 0]
    assert [] == [each["name"] for each in measured["figures"] if not each["least"] <= each["value"] <= each["most"]]


def test_the_page_shows_what_is_measured(group: str, measured: dict[str, Any]) -> None:
    """Whoever runs the benchmarks finds the rows of the page in their output, and none is left out."""
    names = {row["way"] for comparison in measured["comparisons"] for row in comparison["rows"]}
    names |= {each["name"] for each in measured["figures"]}
    shown = {name.replace("`", "") for name in re.findall(r"^\| (.+?) \|", WHEN, re.MULTILINE)}

    assert set() == names - shown
