"""Which calls take longer than they may, and what a process has: watched from inside, told to its journal."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.history import Load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.chaos.history import Journal

MARGIN_MS = 1_500
"""What a call may take beyond its deadline and a tenth of it, on a machine on which brokers start and die meanwhile."""
STALL_MS = 10_000
"""So long the process may not run at all, for the machine's sake; what it was stopped for is no matter of ours."""
BEAT_S = 0.05
_LATE_S = 0.2
_TASKS, _DESCRIPTORS = Path("/proc/self/task"), Path("/proc/self/fd")
_MAIN = "rdk:main"  # librdkafka's thread of that name: one for each handle


@dataclass(slots=True)
class _Call:
    name: str
    deadline_ms: float
    began: float
    stalled: float
    thread: int
    told: bool = False


class Watch:
    """Looks after all calls of a process, also after those that never return.

    What the process couldn't run for doesn't count: it was stopped, or the machine has no time for it. A thread that
    beats finds that out, and tells how long it was, so that a call that holds Python's lock isn't excused by it.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._calls: dict[object, _Call] = {}
        self._beat = time.monotonic()
        self._stalled = 0.0
        threading.Thread(target=self._look, name="watch", daemon=True).start()

    @contextmanager
    def call(self, name: str, deadline_ms: float) -> Iterator[None]:
        """Look after what is called in the block."""
        key = object()
        call = self._calls[key] = _Call(name, deadline_ms, time.monotonic(), self._stalls(), threading.get_ident())
        try:
            yield
        finally:
            del self._calls[key]
            if call.told or self._over(call):
                self._tell(call, "returned")

    def _stalls(self) -> float:
        """Seconds for which nothing ran, up to now."""
        late = time.monotonic() - self._beat - BEAT_S
        return self._stalled + (late if late > _LATE_S else 0.0)

    def _took_ms(self, call: _Call) -> float:
        return 1000 * (time.monotonic() - call.began - (self._stalls() - call.stalled))

    def _over(self, call: _Call) -> bool:
        return self._took_ms(call) > 1.1 * call.deadline_ms + MARGIN_MS

    def _look(self) -> None:
        while True:
            time.sleep(BEAT_S)
            stalls = self._stalls()
            if stalls - self._stalled > _LATE_S:
                self._journal.write("stall", ms=1000 * (stalls - self._stalled))
            self._stalled, self._beat = stalls, time.monotonic()
            for call in list(self._calls.values()):
                if not call.told and self._over(call):
                    call.told = True
                    self._tell(call, where(call.thread))

    def _tell(self, call: _Call, where: str) -> None:
        self._journal.write(
            "hang", call=call.name, took_ms=self._took_ms(call), deadline_ms=call.deadline_ms, where=where
        )


def where(thread: int) -> str:
    """Return where a thread is just now."""
    frame = sys._current_frames().get(thread)
    return "".join(traceback.format_stack(frame)) if frame else ""


def stacks() -> dict[str, str]:
    """Return where all threads are that Python knows of, and what the others are called."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {f"{names.get(ident, '?')} {ident}": where(ident) for ident in sys._current_frames()}


def load() -> Load:
    """Return what this process has."""
    names = []
    for task in _TASKS.iterdir() if _TASKS.exists() else ():
        try:
            names.append((task / "comm").read_text().strip())
        except OSError:  # it has just ended
            continue
    descriptors = len(list(_DESCRIPTORS.iterdir())) if _DESCRIPTORS.exists() else 0
    return Load(threads=len(names), descriptors=descriptors, handles=names.count(_MAIN))


def settled(happened: Callable[[], bool], within_s: float) -> bool:
    """Wait until it has happened; whether it has in time."""
    end = time.monotonic() + within_s
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def told(load: Load) -> dict[str, int]:
    """Return it for a journal."""
    return asdict(load)
