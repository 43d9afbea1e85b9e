"""The guide to Flask under gunicorn: the workers of one service, forked before or after it was loaded."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.examples.servers import PATIENCE, started
from tests.kafka.readers import read
from tests.pages import PLACEHOLDER, ROOT, write_files
from tests.pools import unique, until
from wd_di.testing import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.examples.servers import Server
    from wd_di.testing import Cluster

CLIENTS = 8
REQUESTS = 150
WORKERS = 2

TOLD = """

close = worker_exit


def worker_exit(server, worker):
    close(server, worker)
    print("closed, clean:", container.orders.report.clean)
"""
OPENED = """

open_pools(container)
"""

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]


class Clients:
    """Clients that place orders until the server is gone."""

    def __init__(self, url: str) -> None:
        self.replies: dict[str, int | None] = {}
        self._url = url
        self._run = unique("order")
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Return when none of them gets another reply."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def found(self, servers: str) -> Counter[str]:
        """Return how often readers see each of their orders."""
        keys = ((record.key or b"").decode() for record in read(servers, "orders"))
        return Counter(key for key in keys if key.startswith(self._run))

    def _work(self, client: int) -> None:
        number = 0
        while True:
            name = f"{self._run}-{client}-{number}"
            try:
                # A connection for each, which any of the workers may take.
                self.replies[name] = httpx.post(f"{self._url}/orders/{name}/tea", timeout=PATIENCE).status_code
            except httpx.TransportError:
                self.replies[name] = None
                return
            number += 1


@contextmanager
def gunicorn(folder: Path, servers: str, *arguments: str, configuration: str = "") -> Iterator[Server]:
    """Serve the page's application, whose gunicorn.conf.py says a little more."""
    write_files(ROOT / "docs" / "howto" / "flask.md", folder)
    containers = folder / "shop" / "containers.py"
    containers.write_text(containers.read_text().replace(PLACEHOLDER, servers))
    with (folder / "gunicorn.conf.py").open("a") as file:
        file.write(TOLD + configuration)
    workers = ["--workers", str(WORKERS), "--threads", str(CLIENTS // WORKERS), "--bind", "127.0.0.1:0"]
    log = ["--access-logfile", "-", "--access-logformat", "served by %(p)s"]
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [*workers, *log, *arguments, "shop.app:app"]
    with started("gunicorn", *command, folder=folder, environment=environment) as server:
        yield server


LOADED: dict[str, tuple[list[str], str]] = {
    "by each worker": ([], ""),
    "before the fork": (["--preload"], ""),
    "and opened before the fork": (["--preload"], OPENED),
}


@pytest.mark.parametrize(("arguments", "configuration"), LOADED.values(), ids=LOADED)
def test_workers_beside_each_other(
    local_kafka: Cluster, tmp_path: Path, arguments: list[str], configuration: str
) -> None:
    """Nobody fences anybody, every reply is a 201 whose order is there once, and at the end all pools are drained."""
    servers = local_kafka.bootstrap_servers
    with suppress(ClusterError):  # it is there already
        local_kafka.create_topic("orders")
    with gunicorn(tmp_path, servers, *arguments, configuration=configuration) as server:
        clients = Clients(server.url)
        until(lambda: len(clients.replies) >= REQUESTS)
        server.stop()
        clients.join()
    found, said = clients.found(servers), "\n".join(server.lines)

    assert {201, None} == set(clients.replies.values())
    assert [] == [name for name, status in clients.replies.items() if status and found[name] != 1]
    assert {1} == set(found.values())
    assert WORKERS == len(set(re.findall(r"served by <(\d+)>", said)))
    assert WORKERS == said.count("closed, clean: True")
    assert [] == [line for line in server.lines if "has the id" in line or "Error" in line]
