from __future__ import annotations

from typing import Any

import pytest

from wd_di._concurrency.deadline import Deadline, check_timeout


def test_a_deadline_counts_down_to_zero_and_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is never negative."""
    now = 100.0
    monkeypatch.setattr("wd_di._concurrency.deadline.time.monotonic", lambda: now)
    deadline = Deadline(2.0)
    assert (2.0, 0.5, False) == (deadline.left, deadline.slice(0.5), deadline.passed)
    now = 101.75
    assert (0.25, 0.25, False) == (deadline.left, deadline.slice(0.5), deadline.passed)
    now = 103.0

    assert (0.0, 0.0, True) == (deadline.left, deadline.slice(0.5), deadline.passed)


def test_a_deadline_of_nothing_has_passed_at_once() -> None:
    """Zero means don't wait."""
    assert Deadline.of_ms(0, 5000).passed


def test_none_means_the_setting_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a number overrides it."""
    monkeypatch.setattr("wd_di._concurrency.deadline.time.monotonic", lambda: 0.0)

    assert (5.0, 0.25) == (Deadline.of_ms(None, 5000).left, Deadline.of_ms(250, 5000).left)


def test_there_is_no_for_ever() -> None:
    """A negative time-out is refused by name, with what to write instead."""
    with pytest.raises(ValueError, match=r"^close_ms is -1: it can't be negative \(None is .*, 0 doesn't wait\)$"):
        check_timeout(-1, 5000, "close_ms")


@pytest.mark.parametrize("wrong", [1.5, "100", True])
def test_milliseconds_are_whole_numbers(wrong: Any) -> None:
    """1.5 would be meant as seconds."""
    with pytest.raises(TypeError, match=rf"^timeout_ms is milliseconds as an int, not {type(wrong).__name__}$"):
        check_timeout(wrong, 5000)
