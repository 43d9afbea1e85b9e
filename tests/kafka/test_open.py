"""What opening a pool costs the brokers."""

from __future__ import annotations

import json

from tests.pools import Recorder, plain, until
from wd_di import StatisticsEmitted


def test_an_opened_pool_asks_for_nothing(servers: str) -> None:
    """A plain pool that nobody uses yet leaves the brokers in peace."""
    recorder = Recorder()
    with plain(servers, size=1, observer=recorder, kafka={"statistics.interval.ms": 500}):
        seen = until(lambda: recorder.of(StatisticsEmitted)[:8] if len(recorder.of(StatisticsEmitted)) >= 8 else None)

    assert requests(seen[2].json) == requests(seen[-1].json)


def requests(statistics: str) -> int:
    """How often the client has asked for metadata."""
    return sum(broker["req"].get("Metadata", 0) for broker in json.loads(statistics)["brokers"].values())
