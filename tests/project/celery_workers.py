"""A Celery worker over the files of the guide to workers, whose own broker is a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING

from tests import celery_broker
from tests.pages import PLACEHOLDER, ROOT, write_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NOTHING: Mapping[str, str] = MappingProxyType({})
PAGE = ROOT / "docs" / "howto" / "workers.md"
ENOUGH = 40

CLOSED = "closed, clean: True"
"""What a child has logged that has closed its pool in good order."""

TOLD = """
from tests import celery_broker  # its URL is known then
from shop.containers import Container
from shop.worker import app
from wd_di import Observer

observer = Observer()
observer.subscribe("connection_pool.shutdown", lambda event: print(f"closed, clean: {event.report.clean}"))
Container.orders.add_kwargs(observer=observer)
"""


class Worker:
    """A Celery worker with two children.

    Args:
        folder: An empty one, for its files.
        servers: Where its Kafka is.
        instead: What the files are to say, by what they say on the page.
        told: More for the module that it is started with.
    """

    def __init__(self, folder: Path, servers: str, *, instead: Mapping[str, str] = NOTHING, told: str = "") -> None:
        write_files(PAGE, folder)
        for path in (folder / "shop").iterdir():
            source = path.read_text()
            for shown, real in {PLACEHOLDER: servers, **instead}.items():
                source = source.replace(shown, real)
            path.write_text(source)
        (folder / "shop" / "told.py").write_text(TOLD + told)
        (folder / "data_out").mkdir()
        (folder / "data_in").symlink_to("data_out")  # what is sent is what arrives
        self._folder = folder
        self._environment = {
            **os.environ,
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "CELERY_BROKER_URL": celery_broker.URL,
        }

    def start(self) -> None:
        """Start it."""
        quiet = ["--without-gossip", "--without-mingle", "--loglevel", "info"]
        command = [sys.executable, "-m", "celery", "--app", "shop.told", "worker", "--concurrency", "2", *quiet]
        with (self._folder / "log").open("w") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, env=self._environment, stdout=log, stderr=log)

    def call(self, source: str) -> None:
        """Run a line in a program that only knows the tasks."""
        command = [sys.executable, "-c", f"from tests import celery_broker\nfrom shop.tasks import place\n{source}"]
        subprocess.run(command, cwd=self._folder, env=self._environment, timeout=ENOUGH, check=True)

    def log(self) -> str:
        """Return what it has logged so far."""
        return (self._folder / "log").read_text()

    def stop(self) -> str:
        """Stop it as a supervisor does; what it has logged."""
        self._process.send_signal(signal.SIGTERM)
        assert 0 == self._process.wait(ENOUGH)
        return self.log()

    def kill(self) -> None:
        """End whatever is left of it."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(ENOUGH)
