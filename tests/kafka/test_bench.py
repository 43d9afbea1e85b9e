"""The benchmarks run."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest

from tests.bench.__main__ import main
from tests.bench.groups import GROUPS

if TYPE_CHECKING:
    from wd_di.testing import Cluster

pytestmark = pytest.mark.timeout(240)
COMPARISONS = {"checkout": 7, "injection": 2, "plain": 5, "records": 5, "transactions": 4, "starting": 2}
"""How many of each group. Other Pythons are left out: each would have to be prepared first."""


@pytest.fixture(scope="module", params=COMPARISONS)
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

    assert {} == measured["failed"]
    assert COMPARISONS[group] == len(measured["comparisons"])
    assert (group == "starting") == bool(measured["figures"])
    assert [] == [row["way"] for row in rows if not row["figures"]["rate"]["least"] > 0]
    assert [] == [each["name"] for each in measured["figures"] if not each["least"] <= each["value"] <= each["most"]]


def test_no_group_is_forgotten() -> None:
    """A new group is measured here, too."""
    assert {*COMPARISONS, "pythons"} == {*GROUPS}
