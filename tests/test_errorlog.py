from __future__ import annotations

import pytest

from wd_di import events
from wd_di._errorlog import ErrorLog


class _Clock:
    """Seconds that pass only when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_log_error(caplog: pytest.LogCaptureFixture) -> None:
    """An error is written at ERROR on logger wd_di, with its message, its traceback and its key."""
    error = ValueError("bad hook")

    events.log_error("test_log_error", "orders: a hook failed", error)

    (record,) = caplog.records
    assert (record.name, record.levelname) == ("wd_di", "ERROR")
    assert record.getMessage() == "orders: a hook failed: ValueError('bad hook')"
    assert record.exc_info == (ValueError, error, None)
    assert record.__dict__["wd_di_key"] == "test_log_error"


def test_errors_are_rate_limited(caplog: pytest.LogCaptureFixture) -> None:
    """One line per key and 10 s; the next one says how many were left out, and then counts anew."""
    clock = _Clock()
    log = ErrorLog(clock)
    error = ValueError()

    for seconds in (0.0, 0.0, 9.9, 0.1, 10.0):
        clock.now += seconds
        log.write("hook", "hook failed", error)

    assert caplog.messages == [
        "hook failed: ValueError()",
        "hook failed: ValueError() (2 more since the last such line)",
        "hook failed: ValueError()",
    ]


def test_keys_are_limited_apart(caplog: pytest.LogCaptureFixture) -> None:
    """A busy key doesn't silence another one."""
    log = ErrorLog(_Clock())

    for key in ("a", "b", "a"):
        log.write(key, key, ValueError())

    assert caplog.messages == ["a: ValueError()", "b: ValueError()"]


def test_memory_of_keys_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Beyond its capacity the log forgets the key written longest ago, no other."""
    clock = _Clock()
    log = ErrorLog(clock, capacity=2)

    for seconds, key in ((0, "a"), (5, "b"), (5, "a"), (1, "c"), (1, "a"), (1, "b")):
        clock.now += seconds
        log.write(key, key, ValueError())

    assert [f"{key}: ValueError()" for key in "abacb"] == caplog.messages
    assert len(log._silent) == 2
