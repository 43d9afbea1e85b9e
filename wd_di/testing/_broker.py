"""One broker as a process: started, paused, killed and stopped by its own pid, and never outliving this one."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wd_di.testing._errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from wd_di.testing._kraft import Node

_STOP_TIMEOUT_MS = 10_000
_TAIL_BYTES = 256 * 1024


class Broker:
    """A Kafka broker of a `LocalKafka`.

    Attributes:
        id: Kafka's own number of this broker, from 1.
        port: The loopback port that clients connect to; the same for life.
        log: The file that it writes its log to.
    """

    def __init__(
        self, node: Node, *, command: Sequence[str], log: Path, is_ready: Callable[[], bool], timeout_ms: int
    ) -> None:
        self.id = node.id
        self.port = node.port
        self._command = command
        self.log = log
        self._is_ready = is_ready
        self._timeout_ms = timeout_ms
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "down"
        return f"<Broker {self.id} on port {self.port}, {state}>"

    @property
    def running(self) -> bool:
        """Whether the process exists; a paused one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            ClusterError: The broker isn't running.
        """
        return self._alive().pid

    def start(self) -> None:
        """Start the broker unless it runs, and return when it serves clients.

        Raises:
            ClusterError: It died, or wasn't ready in time; the message shows the end of its log.
        """
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start the process unless it runs, without waiting for it."""
        if self.running:
            return
        with self.log.open("ab") as log, _signals_wait():
            # Its own session: a Ctrl-C in the terminal is for the test, which still needs its broker to clean up.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            self._guard = _guard(self._process.pid, self.log.parent)

    def wait_ready(self) -> None:
        """Wait until the broker serves clients, at most the cluster's ``start_timeout_ms``."""
        deadline = time.monotonic() + self._timeout_ms / 1000
        while not self._is_ready():
            if _ended(self._alive(), within_s=0.05):
                raise ClusterError(f"broker {self.id} died at its start. Its log ends:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"broker {self.id} wasn't ready after {self._timeout_ms} ms. Its log ends:\n{self.log_tail()}"
                )

    def stop(self, *, timeout_ms: int = _STOP_TIMEOUT_MS) -> None:
        """Shut down in good order (SIGTERM), after ``timeout_ms`` by force (SIGKILL). Harmless when it's down."""
        if not self.running:
            return
        self.resume()
        self._signal(signal.SIGTERM)
        if not _ended(self._alive(), within_s=timeout_ms / 1000):
            self._signal(signal.SIGKILL)
        self._reap()

    def kill(self) -> None:
        """End the broker at once (SIGKILL), as a power failure would. Harmless when it's down."""
        if self.running:
            self._signal(signal.SIGKILL)
            self._reap()

    def pause(self) -> None:
        """Freeze the broker (SIGSTOP): its connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused broker go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop the broker if it runs, start it again on the same port with the same data, and wait for it."""
        self.stop()
        self.start()

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the broker's log."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.returncode is not None:
            raise ClusterError(f"broker {self.id} isn't running: start() it first")
        return self._process

    def _signal(self, number: signal.Signals) -> None:
        self._alive().send_signal(number)

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait(_STOP_TIMEOUT_MS / 1000)
        if self._guard is not None:
            _release(self._guard)
            self._guard = None


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Let what would end this process come a moment later: a process that nobody knows yet would outlive it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no handler runs here
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    waiting = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for number in waiting:
        signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in waiting.items():
            signal.signal(number, handler)
        for each in came:
            signal.raise_signal(each)


def _guard(pid: int, home: Path) -> subprocess.Popen[bytes]:
    """A shell that kills ``pid`` and removes ``home`` once this process is gone: the pipe between them then ends.

    Linux' PR_SET_PDEATHSIG would do without the shell, but it fires at the end of the *thread* that started the
    broker, needs ``preexec_fn``, which isn't safe beside other threads, and exists on Linux alone.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read -r line || { kill -9 "$0"; rm -rf "$1"; }', str(pid), str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _release(guard: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):
        guard.communicate(b"\n", timeout=_STOP_TIMEOUT_MS / 1000)


def _ended(process: subprocess.Popen[bytes], *, within_s: float) -> bool:
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True
