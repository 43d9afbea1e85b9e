"""What becomes of a child process's records when it just ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.kafka.children import CASES, COUNT
from tests.kafka.readers import values
from tests.programs import PATIENCE_S, ROOT

if TYPE_CHECKING:
    from wd_di.testing import LocalKafka

EXIT_MS = 5_000
"""What all forgotten pools of a process may take together at its exit."""
START_MS = 3_000
"""What two interpreters themselves may take to end."""
DEARER_MS = 200
"""What a pool may add to a child's end."""

SENT = sorted(str(number) for number in range(COUNT))
SENDING = [case for case in CASES if case not in ("dead_broker", "leave_open", "parent_goes_on")]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def start(case: str, servers: str, topic: str) -> subprocess.Popen[str]:
    """Start one of the programs."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.kafka.children", servers, topic, case],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    """Let it end, in good health; what it has complained about."""
    try:
        complaints = process.communicate(timeout=PATIENCE_S)[1]
    finally:
        process.kill()
    assert 0 == process.returncode, complaints
    return complaints


@pytest.mark.parametrize("case", SENDING)
def test_what_a_child_has_produced_is_delivered(servers: str, topic: str, case: str) -> None:
    """A child that only enqueues and ends, however it was started and whoever made its pool, loses nothing."""
    end(start(case, servers, topic))

    assert SENT == values(servers, topic)


def test_a_childs_end_leaves_its_parent_alone(servers: str, topic: str) -> None:
    """A parent's records stay its own, and its producers live on, when a child with the same pool has ended."""
    complaints = end(start("parent_goes_on", servers, topic))

    assert not complaints
    assert sorted([*SENT, "parent", "parent"]) == values(servers, topic)


def test_a_childs_open_transaction_is_aborted(servers: str, topic: str) -> None:
    """A child that ends inside a transaction aborts it, so that no reader waits for its time-out."""
    end(start("leave_open", servers, topic))

    # transaction.timeout.ms is 15,000.
    assert ["committed"] == values(servers, topic, timeout_ms=5_000)


def test_a_dead_broker_does_not_hang_a_childs_end(own_kafka: LocalKafka, own_topic: str) -> None:
    """With a backlog for a dead broker a child ends within the exit's own deadline."""
    [broker] = own_kafka.brokers
    process = start("dead_broker", own_kafka.bootstrap_servers, own_topic)
    assert process.stdout is not None
    assert "ready" == process.stdout.readline().strip()
    broker.kill()
    started = time.monotonic()
    end(process)

    assert time.monotonic() - started < (EXIT_MS + START_MS) / 1000


def test_a_childs_end_costs_little_more_than_without_a_pool(servers: str, topic: str) -> None:
    """With pools open, and a transaction that its parent goes on with, a child is gone about as soon as without."""
    command = [sys.executable, "-m", "tests.kafka.forked", servers, topic]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    without, besides = json.loads(ended.stdout)

    assert {} == {kind: (ms, without[kind]) for kind, ms in besides.items() if ms - without[kind] >= DEARER_MS}
    assert ["after", "before"] == values(servers, topic)
