"""A program with a pool: ``python -m tests.slots.owners SERVERS KIND FOLDER SETTINGS``, the settings as JSON.

It says ``ready``, and what comes of each line of its input. Warnings of the library are lines that begin with
``warning``; they come before what follows them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.pools import pool
from tests.programs import started
from tests.slots.sitters import Sitter, host, tell
from wd_di import ProducerPool, WdDiError
from wd_di._kafka.librdkafka import KafkaClient
from wd_di._slots import seats

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

PATIENCE_MS = 20_000


class Owner(Sitter):
    """A process with a pool."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.warnings: list[str] = []
        super().__init__(process)

    def hear(self) -> str:
        """Return the next line that is no warning; those are kept."""
        while (line := super().hear()).startswith("warning "):
            self.warnings.append(line.removeprefix("warning "))
        return line


@contextmanager
def owner(servers: str, kind: str, folder: Path, **settings: object) -> Iterator[Owner]:
    """Run the program while the block runs; its pool isn't open yet."""
    with started("-m", "tests.slots.owners", servers, kind, str(folder), json.dumps(settings)) as process:
        yield Owner(process)


@contextmanager
def opened(servers: str, kind: str, folder: Path, **settings: object) -> Iterator[Owner]:
    """Run it with an open pool."""
    with owner(servers, kind, folder, **settings) as process:
        assert "open" == process.do("open")
        yield process


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(f"warning {record.getMessage()}")


class Commands:
    """What can be done with the pool, which is made at the first use."""

    def __init__(self, servers: str, settings: dict[str, Any]) -> None:
        self._servers = servers
        self._settings = settings
        self._open: list[tuple[Any, Any]] = []

    @cached_property
    def pool(self) -> ProducerPool:
        """It."""
        return pool(self._servers, **self._settings)

    def open(self) -> str:
        """Open it."""
        self.pool.open()
        return "open"

    def close(self) -> str:
        """Close it."""
        return "closed" if self.pool.close().clean else "not clean"

    def fork(self) -> str:
        """Go on in a child, which ends when its input does."""
        if child := os.fork():
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return str(os.getpid())

    def nameless(self) -> str:
        """Hear of no cluster's id."""
        KafkaClient.cluster_id = lambda *_: ""  # type: ignore[method-assign]
        return "nameless"

    def begin(self, topic: str) -> str:
        """Begin a transaction, and produce."""
        scope = self.pool.transaction(timeout_ms=PATIENCE_MS).begin()
        tx = scope.__enter__()
        tx.produce_sync(topic, "1")
        self._open.append((scope, tx))
        return "begun"

    def end(self) -> str:
        """Commit it."""
        scope, _ = self._open.pop()
        scope.__exit__(None, None, None)
        return "committed"

    def transact(self, topic: str, count: str = "1") -> str:
        """Do both, so many times."""
        for _ in range(int(count)):
            self.begin(topic)
            self.end()
        return "committed"


def _main() -> None:
    servers, kind, folder, settings = sys.argv[1:]
    seats.host = host(kind, Path(folder))
    logging.getLogger("wd_di").addHandler(_Warnings(logging.WARNING))
    commands = Commands(servers, json.loads(settings))
    tell("ready")
    for line in sys.stdin:
        command, *arguments = line.split()
        try:
            said = getattr(commands, command)(*arguments)
        except WdDiError as error:
            said = f"{type(error).__name__}: {error}"
        tell(said)


if __name__ == "__main__":
    _main()
