"""How wd_di writes to its logger: seldom, never in circles, and without raising."""

from __future__ import annotations

import logging
import threading
from asyncio import CancelledError
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from wd_di._forks import hold_over_forks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LOGGER = logging.getLogger("wd_di")

# Re-entrant, because a finalizer that logs may run on the thread that holds it.
LOCK = threading.RLock()
hold_over_forks(LOCK)  # else a child forked while another thread holds it could never subscribe


class _Writing(threading.local):
    now = False


_writing = _Writing()


def write_log(
    logger: logging.Logger, level: int, text: str, *, error: BaseException | None = None, extra: Mapping[str, object]
) -> None:
    """Log, unless this thread does so already: a handler that produces through the pool would never come to an end."""
    if _writing.now:
        return
    _writing.now = True
    try:
        logger.log(level, "%s", text, exc_info=error, extra=extra)
    except BaseException as raised:  # a filter or handler that raises leaves nobody to tell
        if is_from_outside(raised):
            raise
    finally:
        _writing.now = False


def is_from_outside(error: BaseException) -> bool:
    """Whether an exception that came out of a callback may be that of a signal's handler: Ctrl-C, or ``sys.exit``.

    Handlers run on the main thread alone; on another one it is the callback's own, whatever it is. An ``Exception``
    counts as its own there, too, and so does a cancellation: no callback is awaited.
    """
    own = isinstance(error, Exception | CancelledError)
    return not own and threading.current_thread() is threading.main_thread()


def _shown(error: BaseException) -> str:
    with suppress(Exception):  # a user's class
        return repr(error)
    return f"{type(error).__name__}, which has no repr"


class Limiter:
    """Lets one of a kind through per period, and counts the others.

    Args:
        period_ms: How long a key is silent after it was let through.
        capacity: How many keys are remembered; beyond it the one let through longest ago is forgotten.
    """

    def __init__(self, *, period_ms: int = 10_000, capacity: int = 256) -> None:
        self._period = period_ms / 1000
        self._capacity = capacity
        self._silent: dict[str, tuple[float, int]] = {}  # key: until when, how many left out; in the order let through

    def admit(self, key: str, now: float) -> int | None:
        """Return how many of this key were left out since the last one, or ``None``: leave this one out, too."""
        with LOCK:
            until, left_out = self._silent.get(key, (now, 0))
            if now < until:
                self._silent[key] = (until, left_out + 1)
                return None
            self._silent.pop(key, None)
            self._silent[key] = (now + self._period, 0)
            if len(self._silent) > self._capacity:
                del self._silent[next(iter(self._silent))]
            return left_out


def and_more(left_out: int) -> str:
    """Return what to add to a line for those that were left out before it."""
    return f" ({left_out} more since the last such line)" if left_out else ""


class ErrorLog(Limiter):
    """Writes at most one error per key and period, and says with the next one how many were left out.

    Args:
        clock: Monotonic time in seconds.
        period_ms: How long a key is silent after it was written.
        capacity: How many keys are remembered; beyond it the one written longest ago is forgotten.
    """

    def __init__(self, clock: Callable[[], float] = monotonic, *, period_ms: int = 10_000, capacity: int = 256) -> None:
        super().__init__(period_ms=period_ms, capacity=capacity)
        self._clock = clock

    def write(self, key: str, message: str, error: BaseException) -> None:
        """Log ``message`` and ``error`` at ERROR on logger ``wd_di``, unless ``key`` is silent."""
        self._write(logging.ERROR, key, f"{message}: {_shown(error)}", error)

    def warn(self, key: str, message: str) -> None:
        """Log ``message`` at WARNING, likewise."""
        self._write(logging.WARNING, key, message, None)

    def _write(self, level: int, key: str, text: str, error: BaseException | None) -> None:
        left_out = self.admit(key, self._clock())
        if left_out is not None:
            extra = {"wd_di_key": key, "wd_di_suppressed": left_out}
            write_log(LOGGER, level, f"{text}{and_more(left_out)}", error=error, extra=extra)
