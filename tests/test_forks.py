"""One list says what a forked child renews."""

from __future__ import annotations

import os
import pathlib
import sys
import threading

import pytest

import wd_di
from wd_di import _forks
from wd_di import default as _default  # registers its own
from wd_di.testing import LocalKafka, MockKafka


def test_each_place_is_taken() -> None:
    """Whatever is loaded has registered under its name, and nothing else has."""
    assert _default
    assert LocalKafka
    assert MockKafka
    assert wd_di.ProducerPool

    assert set(_forks.ORDER) == set(_forks._renewals)


def test_an_unknown_place() -> None:
    """Whoever registers something new says in the list when its time is."""
    with pytest.raises(KeyError, match="my lock"):
        _forks.renew_in_child("my lock", print)


def test_one_door_to_forks() -> None:
    """Nobody else tells the interpreter what to do about them."""
    package = pathlib.Path(wd_di.__file__).parent
    users = [path.name for path in package.rglob("*.py") if "register_at_fork(" in path.read_text()]

    assert ["_forks.py"] == users


def test_in_order_and_to_the_end(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """What one fails with is printed, and keeps no other from its turn."""
    monkeypatch.setattr(sys, "unraisablehook", lambda told: os.write(2, told.exc_type.__name__.encode()))
    monkeypatch.setattr(_forks, "_renewals", {})
    monkeypatch.setattr(_forks, "ORDER", ("first", "second", "third", "never"))
    _forks.renew_in_child("third", lambda: os.write(1, b"third\n"))
    _forks.renew_in_child("first", lambda: os.write(1, b"first\n"))
    _forks.renew_in_child("second", lambda: 1 // 0)
    child = os.fork()
    if child == 0:
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    printed, complained = capfd.readouterr()

    assert (0, "first\nthird\n") == (ended, printed)
    assert "ZeroDivisionError" == complained


def test_a_lock_is_held_over_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork waits for whoever holds it, and it is free in both processes then."""
    lock, held, let_go = threading.RLock(), threading.Event(), threading.Event()
    monkeypatch.setattr(_forks, "_held", [*_forks._held, lock])

    def hold() -> None:
        with lock:
            held.set()
            let_go.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    timer = threading.Timer(0.1, let_go.set)
    timer.start()
    child = os.fork()
    if child == 0:
        os._exit(0 if lock.acquire(timeout=1) else 1)
    thread.join(10)
    timer.join(10)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert let_go.is_set()
    assert lock.acquire(timeout=1)
