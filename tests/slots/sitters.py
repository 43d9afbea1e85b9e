"""A program that takes a seat of its host and does as it is told: ``python -m tests.slots.sitters KIND FOLDER NAME``.

Each line of its input is a thing to do, and each line that it prints says that it is done.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.programs import hear, say, started
from wd_di._slots import seats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLEEPER = "import sys; sys.stdin.read()"


class Sitter:
    """A process that has a seat, or wanted one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.begins: str = self.hear()

    @property
    def sits(self) -> bool:
        """Whether it got the seat."""
        return self.begins == "sits"

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def hear(self) -> str:
        """Return the next line that it prints."""
        return hear(self.process)

    def say(self, what: str) -> None:
        """Have it do something, while we go on."""
        say(self.process, what)

    def do(self, what: str) -> str:
        """Have it do something; what it says of it."""
        self.say(what)
        return self.hear()

    def kill(self) -> None:
        """Let it end as no program can prevent."""
        self.process.kill()
        self.process.wait()


@contextmanager
def sitter(kind: str, folder: Path, name: str) -> Iterator[Sitter]:
    """Run the program while the block runs."""
    with started("-m", "tests.slots.sitters", kind, str(folder), name) as process:
        yield Sitter(process)


@contextmanager
def ended(pid: int) -> Iterator[int]:
    """End a process that isn't ours at the end of the block."""
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)


def tell(what: object) -> None:
    """Say something to whoever has started this process."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def host(kind: str, folder: Path) -> seats.Host:
    """Return a host of this kind."""
    return seats.Sockets() if kind == "sockets" else seats.Files(folder)


def fork() -> int:
    """Leave a child behind."""
    return os.fork() or _sleep()


def fork_unseen() -> int:
    """Leave a child behind of whose birth Python isn't told, as a library in C makes it."""
    return ctypes.CDLL(None).fork() or _sleep()


def start() -> int:
    """Leave another program behind, to which all is handed down that can be."""
    return subprocess.Popen([sys.executable, "-c", SLEEPER], stdin=subprocess.PIPE, close_fds=False).pid


def _sleep() -> Any:
    while True:
        time.sleep(60)


def _main() -> None:
    kind, folder, name = sys.argv[1:]
    here = host(kind, Path(folder))
    seat = here.take(name)
    tell("sits" if seat is not None else "stands")
    commands: dict[str, Callable[[], object]] = {
        "fork": fork,
        "fork unseen": fork_unseen,
        "start": start,
        "leave": lambda: seat and seat.close(),
        "look": lambda: here.occupant(name),
    }
    for line in sys.stdin:
        tell(commands[line.strip()]())


if __name__ == "__main__":
    _main()
