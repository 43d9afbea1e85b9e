"""The guide to workers: what it says of Celery is so in a real worker, with children of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer

from tests.pages import PLACEHOLDER, ROOT, files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = ROOT / "docs" / "howto" / "workers.md"
ENOUGH = 40

TOLD = """
from shop.containers import Container
from shop.worker import app
from wd_di import Observer

observer = Observer()
observer.subscribe("connection_pool.shutdown", lambda event: print(f"closed, clean: {event.report.clean}"))
Container.orders.add_kwargs(observer=observer)
"""

pytestmark = pytest.mark.timeout(120)


class Worker:
    """A Celery worker over the page's files, whose own broker is a folder."""

    def __init__(self, folder: Path, servers: str) -> None:
        for name, source in files(PAGE).items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(source.replace(PLACEHOLDER, servers))
        (folder / "shop" / "told.py").write_text(TOLD)
        (folder / "data_out").mkdir()
        (folder / "data_in").symlink_to("data_out")  # what is sent is what arrives
        self._folder = folder
        self._environment = {
            **os.environ,
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "CELERY_BROKER_URL": "filesystem://",
        }

    def start(self) -> None:
        """Start it, with two children."""
        quiet = ["--without-gossip", "--without-mingle", "--loglevel", "info"]
        command = [sys.executable, "-m", "celery", "--app", "shop.told", "worker", "--concurrency", "2", *quiet]
        with (self._folder / "log").open("w") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, env=self._environment, stdout=log, stderr=log)

    def call(self, source: str) -> None:
        """Run a line in a program that only knows the tasks."""
        command = [sys.executable, "-c", f"from shop.tasks import place\n{source}"]
        subprocess.run(command, cwd=self._folder, env=self._environment, timeout=ENOUGH, check=True)

    def stop(self) -> str:
        """Stop it as a supervisor does; what it has logged."""
        self._process.send_signal(signal.SIGTERM)
        assert 0 == self._process.wait(ENOUGH)
        return (self._folder / "log").read_text()

    def kill(self) -> None:
        """End whatever is left of it."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(ENOUGH)


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
    assert 2 == log.count("closed, clean: True")


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
