"""The guide to workers: what it says of Celery is so in a real worker, with children of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer

from tests.project.celery_workers import CLOSED, ENOUGH, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def worker(tmp_path, mock_kafka) -> Iterator[Worker]:
    """A worker that ends with its test."""
    worker = Worker(tmp_path, mock_kafka.bootstrap_servers)
    worker.start()
    yield worker
    worker.kill()


def test_tasks_publish_from_children(worker, mock_kafka):
    """Each task's records are committed, and at its end each child has drained and closed its pool."""
    worker.call("for number in range(4): place.delay(f'celery-{number}', 'tea')")

    keys = _keys(mock_kafka.bootstrap_servers, 4)
    log = worker.stop()

    assert {f"celery-{number}".encode() for number in range(4)} == keys
    assert 4 == log.count("succeeded in")
    assert "ScopeError" not in log
    assert 2 == log.count(CLOSED)


def _keys(servers: str, count: int) -> set[bytes]:
    """Return the keys of so many orders, of this test's."""
    settings = {"bootstrap.servers": servers, "group.id": "workers", "auto.offset.reset": "earliest"}
    found: set[bytes] = set()
    with Consumer({**settings, "topic.metadata.refresh.interval.ms": 100}) as consumer:
        consumer.subscribe(["orders"])
        while len(found) < count:
            record = consumer.poll(ENOUGH)
            assert record is not None, f"only {sorted(found)} came"
            if record.error() is None and (key := record.key()) and key.startswith(b"celery-"):
                found.add(key)
    return found
