"""A web server as a process of its own: its address is what it says itself, and it is ended as an operator would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0


@dataclass
class Server:
    """What a server has said.

    Attributes:
        lines: All its output so far.
        kafka: Where its records go.
        url: Where it listens.
    """

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    kafka: str = ""
    url: str = ""
    _said: threading.Event = field(default_factory=threading.Event)

    def listen(self, output: IO[str]) -> None:
        """Read all that the process prints, so that its pipe never fills up."""
        for line in output:
            self.lines.append(line.rstrip())
            if found := re.search(r"Kafka on (\S+)", line):
                self.kafka = found[1]
            elif found := re.search(r"(?:running on|listening at:) (http://[\d.:]+)", line, re.IGNORECASE):
                self.url = found[1]
                self._said.set()
        self._said.set()

    def wait(self) -> None:
        """Wait until it has said where it listens."""
        assert self._said.wait(PATIENCE), self.lines
        assert self.url, self.lines

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        self.process.terminate()
        self.process.wait(PATIENCE)


@contextmanager
def serving(module: str, servers: str | None = None) -> Iterator[Server]:
    """Run ``python -m module --port 0`` while the block runs, on the given Kafka or on its own mock."""
    environment = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}
    if servers is not None:
        environment["KAFKA_BOOTSTRAP_SERVERS"] = servers
    with started(module, "--port", "0", folder=ROOT, environment=environment) as server:
        yield server


@contextmanager
def started(module: str, *arguments: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Server]:
    """Run ``python -m module`` in a folder while the block runs, which begins when it says where it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Server(process)
    assert process.stdout is not None
    reader = threading.Thread(target=server.listen, args=(process.stdout,))
    reader.start()
    try:
        server.wait()
        yield server
    finally:
        process.kill()
        process.wait(PATIENCE)
        reader.join(PATIENCE)
        process.stdout.close()
