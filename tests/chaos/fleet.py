"""The writers as processes: started, told things, stopped, killed and replaced, each of their lives on record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.history import lines
from tests.chaos.watch import settled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.chaos.history import Journal
    from tests.chaos.writer import Config

ROOT = Path(__file__).parents[2]
OPEN_S = 60.0
STOP_S = 90.0
VERSIONS = (1, 2)


class Writer:
    """One writer in all its lives.

    Attributes:
        life: The number of the present one.
    """

    def __init__(self, config: Config, journal: Journal, logs: Path) -> None:
        self.name, self.kind = config.name, config.kind
        self.life = -1
        self._config = config
        self._journal, self._logs = journal, logs
        self._process: subprocess.Popen[str] | None = None

    @property
    def present(self) -> str:
        """The name of the present life's process."""
        return f"{self.name}.{self.life}"

    def start(self, *, version: int | None = None) -> None:
        """Begin another life."""
        self.life += 1
        self._config = replace(self._config, version=version or self._config.version)
        config = replace(self._config, name=self.present)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CHAOS": config.json(), "PYTHONWARNINGS": "ignore"}
        with (self._logs / f"{self.present}.log").open("w") as log:
            self._process = subprocess.Popen(
                _command(config),
                cwd=self._config.folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._journal.write("spawned", process=self.present, pid=self._process.pid, version=config.version)

    def is_open(self) -> bool:
        """Whether the present life's pool is open."""
        return any(line["what"] == "open" for path in self.journals() for line in lines(path))

    def journals(self) -> list[Path]:
        """Return the journals of the present life, of Celery's children too."""
        folder = Path(self._config.folder)
        own = folder / f"{self.present}.jsonl"
        return [path for path in (own, *sorted(folder.glob(f"{self.present}-*.jsonl"))) if path.exists()]

    # -- what is done to it --------------------------------------------------------------------------

    def tell(self, order: str) -> None:
        """Tell it to do something."""
        process = self._alive()
        with suppress(BrokenPipeError):
            assert process.stdin is not None
            process.stdin.write(f"{order}\n")
            process.stdin.flush()

    def kill(self) -> None:
        """End it and its children at once."""
        process = self._alive()
        os.killpg(process.pid, signal.SIGKILL)
        for child in self.children():
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._ended("killed")

    def pause(self) -> None:
        """Stop it where it is, as a machine without time for it."""
        os.killpg(self._alive().pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.killpg(self._alive().pid, signal.SIGCONT)

    def kill_child(self) -> bool:
        """End the newest child of its own at once; whether it has one."""
        for child in self.children()[-1:]:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
                self._journal.write("child killed", pid=child)
                return True
        return False

    def stop(self, *, finish: bool = False) -> None:
        """Tell it to end in good order, and wait for that; one that hangs shows where, and is killed."""
        process = self._alive()
        settled(lambda: bool(self._pids()) or process.poll() is not None, OPEN_S)  # it listens by now
        if finish and self.kind != "celery":
            self.tell("finish")
        else:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGUSR1)
            with suppress(subprocess.TimeoutExpired):
                process.wait(1.0)  # it is about to write
            os.killpg(process.pid, signal.SIGKILL)
            self._ended("hung")
        else:
            self._ended("told")

    def replace(self) -> None:
        """Start a process with the same ids and the other settings beside it, and stop it when that one is open."""
        old, name = self._alive(), self.present
        _, other = VERSIONS if self._config.version == VERSIONS[0] else reversed(VERSIONS)
        self.start(version=other)
        new = self._process
        settled(lambda: self.is_open() or (new is not None and new.poll() is not None), OPEN_S)
        self._process, present = old, self.life
        self.life = int(name.rpartition(".")[2])
        self.stop()
        self._process, self.life = new, present

    def revive(self) -> None:
        """Start it again if it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            self._ended("itself")
        if self._process is None:
            self.start()

    def children(self) -> list[int]:
        """Return the pids of Celery's children that are alive, the oldest first."""
        return sorted(pid for pid in self._pids() if self._process is not None and pid != self._process.pid)

    def living(self) -> list[Path]:
        """Return the journals of those that work just now."""
        return list(self._pids().values())

    def _pids(self) -> dict[int, Path]:
        own = self._process.pid if self._process is not None else 0
        started = {line["pid"]: path for path in self.journals() for line in lines(path) if line["what"] == "start"}
        return {pid: path for pid, path in started.items() if pid == own or _parent(pid) == own}

    def _alive(self) -> subprocess.Popen[str]:
        self.revive()
        assert self._process is not None
        return self._process

    def _ended(self, by: str) -> None:
        assert self._process is not None
        code = self._process.wait(STOP_S)
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._journal.write("ended", process=self.present, code=code, by=by)
        self._process = None


class Fleet:
    """All writers."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = {each.name: each for each in writers}

    def __iter__(self) -> Iterator[Writer]:
        return iter(self._writers.values())

    def __getitem__(self, name: str) -> Writer:
        return self._writers[name]

    def kill(self) -> None:
        """End whoever is left."""
        for each in self:
            if each._process is not None and each._process.poll() is None:
                each.kill()


def _command(config: Config) -> list[str]:
    if config.kind == "celery":
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "warning"]
        return [sys.executable, "-m", "celery", "--app", "tests.chaos.tasks", "worker", "--concurrency", "2", *quiet]
    return [sys.executable, "-m", "tests.chaos.writer", config.json()]


def _parent(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[1])
