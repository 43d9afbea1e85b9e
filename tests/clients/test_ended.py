"""A call that is made once, on a thread of its own, whatever becomes of those who wait for it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.scripted import outcome
from wd_di._kafka import ended
from wd_di._kafka.ended import OneCall


class Made:
    """A call that notes who has made it, and may be kept waiting."""

    def __init__(self, raises: BaseException | None = None) -> None:
        self.threads: list[int] = []
        self.free = threading.Event()
        self._raises = raises

    def __call__(self) -> None:
        self.threads.append(threading.get_ident())
        assert self.free.wait(10)
        if self._raises is not None:
            raise self._raises


def test_made_elsewhere() -> None:
    """It is made once, by another thread, however often it is asked for."""
    made = Made()
    one = OneCall("commit_transaction", made)
    waited = [one.answered(0.01) for _ in range(3)]
    made.free.set()

    assert ([False] * 3, True, True) == (waited, one.answered(10), one.answered(0))
    assert one.over
    assert 1 == len(made.threads)
    assert threading.get_ident() not in made.threads


def test_what_it_raises() -> None:
    """Whoever asks gets it, as often as they do."""
    error = ZeroDivisionError()
    made = Made(error)
    made.free.set()
    one = OneCall("commit_transaction", made)

    assert [error, error] == [outcome(lambda: one.answered(10)) for _ in range(2)]


@pytest.mark.parametrize("when", ["no thread", "finalizing"])
def test_without_a_thread(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Where none can be started whoever waits makes the call."""
    made = Made()
    made.free.set()

    def none(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        if when == "no thread":
            patch.setattr(ended._thread, "start_new_thread", none)
        else:
            patch.setattr(ended.sys, "is_finalizing", lambda: True)
        answered = OneCall("commit_transaction", made).answered(0)

    assert answered
    assert [threading.get_ident()] == made.threads


def test_interrupted_before_it_was_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C while its thread is started calls it off, and the next one who asks starts another."""
    made = Made()
    made.free.set()
    one = OneCall("commit_transaction", made)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ended._thread, "start_new_thread", interrupted)
        with pytest.raises(KeyboardInterrupt):
            one.answered(10)

    assert one.answered(10)
    assert 1 == len(made.threads)
