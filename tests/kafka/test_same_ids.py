# ruff: noqa: PT012  (what a transaction's block does is the case)
"""Two processes of one host that want the same transactional id of a real broker."""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.kafka.readers import values
from tests.pages import ROOT
from tests.pools import Recorder, bounded, pool, unique
from tests.slots.owners import Owner, opened, owner
from wd_di import FencedError, PoolOpenError, ProducerContested

if TYPE_CHECKING:
    from pathlib import Path

KIND = "sockets" if sys.platform == "linux" else "files"
GIVEN = set(re.findall(r'transactional_id="([^"]+)"', (ROOT / "README.md").read_text()))
TEMPLATES = sorted({"-".join(re.findall(r"{\w+}", template)) for template in GIVEN})
"""What whoever has read the first page begins with."""
OPEN_MS = 5_000
"""How long a takeover may take; nobody waits for the process that has the id."""


@pytest.fixture
def settings() -> dict[str, object]:
    """Those of a service that was given one instance for all of its processes."""
    return {"size": 1, "transactional_id": f"{unique('shop')}-{{instance}}-{{index}}", "instance": "0"}


def test_both_are_told_of_each_other(servers: str, topic: str, tmp_path: Path, settings: dict[str, object]) -> None:
    """Whoever comes second is warned of the first, and whoever is fenced hears by whom."""
    with (
        owner(servers, KIND, tmp_path, **settings) as other,
        pool(servers, **settings) as orders,
        pytest.raises(FencedError) as caught,
        orders.transaction() as tx,
    ):
        tx.produce_sync(topic, "never")
        assert "open" == other.do("open")
        [warning] = other.warnings

    assert re.search(rf"process {os.getpid()} of this host, up since \d\d:\d\d, has the id", warning)
    assert re.search(rf"slot 0: process {other.pid} of this host, up since \d\d:\d\d, has the id", str(caught.value))
    assert [] == values(servers, topic)


def test_a_process_that_hangs_is_replaced(
    servers: str, topic: str, tmp_path: Path, settings: dict[str, object]
) -> None:
    """A stopped owner keeps nobody from its ids, and readers don't wait for it; its successor is told of it."""
    recorder = Recorder()
    with opened(servers, KIND, tmp_path, **settings) as hung:
        assert "begun" == hung.do(f"begin {topic}")
        hung.process.send_signal(signal.SIGSTOP)
        orders = pool(servers, observer=recorder, **settings)
        with bounded(OPEN_MS):
            orders.open(timeout_ms=OPEN_MS)
        with orders, orders.transaction() as tx:
            tx.produce_sync(topic, "after")

        assert [f"process {hung.pid} "] == [event.rival.partition("of")[0] for event in recorder.of(ProducerContested)]
        assert ["after"] == values(servers, topic, timeout_ms=OPEN_MS)
        hung.process.send_signal(signal.SIGCONT)
        assert hung.do("end").startswith("FencedError: ")


def test_an_owner_that_is_left_alone(servers: str, topic: str, tmp_path: Path, settings: dict[str, object]) -> None:
    """Who refuses to take an id from somebody fails before it asks for it: the owner's transaction is committed."""
    with opened(servers, KIND, tmp_path, **settings) as other:
        assert "begun" == other.do(f"begin {topic}")
        with pytest.raises(PoolOpenError, match=f"process {other.pid} of this host"):
            pool(servers, ids_held_elsewhere="refuse", **settings).open()

        assert "committed" == other.do("end")
    assert ["1"] == values(servers, topic)


@pytest.mark.parametrize("forked", [False, True], ids=["spawned", "forked"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_two_workers_by_the_first_page(
    servers: str, topic: str, tmp_path: Path, template: str, *, forked: bool
) -> None:
    """Processes that run side by side with a template of the README fence nobody, and are warned of nobody."""
    settings = {"size": 2, "transactional_id": template.replace("{index}", f"{unique('w')}-{{index}}")}
    with owner(servers, KIND, tmp_path, **settings) as one, owner(servers, KIND, tmp_path, **settings) as two:
        workers: tuple[Owner, ...] = (one, two)
        if forked:
            for worker in workers:
                worker.do("fork")
        for worker in workers:
            worker.say(f"transact {topic} 10")

        assert ["committed", "committed"] == [worker.hear() for worker in workers]
        assert [[], []] == [worker.warnings for worker in workers]
    assert 20 == len(values(servers, topic))
