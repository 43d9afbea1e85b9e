from __future__ import annotations

import gc
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from wd_di._concurrency.workers import Poller, Workers

PATIENCE = 10.0
"""Seconds after which a test gives up; what it waits for comes in milliseconds."""


def passed(event: threading.Event) -> bool:
    """Whether the event came."""
    return event.wait(PATIENCE)


def ended(name: str) -> bool:
    """Whether no thread of this name is left, soon."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(PATIENCE)
    return name not in {thread.name for thread in threading.enumerate()}


def soon(holds: Callable[[], object]) -> bool:
    """Whether the condition comes to hold; for what announces itself to nobody."""
    end = time.monotonic() + PATIENCE
    while not holds() and time.monotonic() < end:
        threading.Event().wait(0.001)
    return bool(holds())


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at interpreter exit."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)


# -- workers ---------------------------------------------------------------------------------------


class Job:
    """Runs until it is allowed to end."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.began.set()
        assert self.may_end.wait(PATIENCE)


@pytest.fixture
def job() -> Iterator[Callable[[], Job]]:
    """Makes jobs that end with the test."""
    jobs: list[Job] = []

    def make() -> Job:
        jobs.append(Job())
        return jobs[-1]

    yield make
    for each in jobs:
        each.may_end.set()


def test_as_many_jobs_run_at_once_as_there_may_be_threads(job: Callable[[], Job]) -> None:
    """The next one begins when one of them ends."""
    workers, jobs = Workers("limited", 2), [job(), job(), job()]
    for each in jobs:
        workers.submit(each)
    assert passed(jobs[0].began)
    assert passed(jobs[1].began)
    assert not jobs[2].began.is_set()
    jobs[0].may_end.set()

    assert passed(jobs[2].began)


def test_jobs_of_one_thread_run_in_their_order() -> None:
    """Callbacks of one pool never overtake each other."""
    workers, done = Workers("ordered", 1), queue.Queue[int]()
    for number in range(20):
        workers.submit(lambda number=number: done.put(number))  # type: ignore[misc]

    assert [*range(20)] == [done.get(timeout=PATIENCE) for _ in range(20)]


def test_an_idle_thread_takes_the_next_job() -> None:
    """No thread is started for it."""
    workers, names = Workers("reused", 4), queue.Queue[int]()
    workers.submit(lambda: names.put(threading.get_ident()))
    first = names.get(timeout=PATIENCE)
    assert soon(lambda: workers._idle)
    workers.submit(lambda: names.put(threading.get_ident()))

    assert first == names.get(timeout=PATIENCE)


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """And later jobs get new ones."""
    monkeypatch.setattr(Workers._work, "__defaults__", (0.0,))
    workers, done = Workers("brief", 1), threading.Event()
    workers.submit(lambda: None)
    assert ended("brief")
    workers.submit(done.set)

    assert passed(done)


@pytest.mark.parametrize("error", [ValueError("a bug"), SystemExit(1)])
def test_a_job_that_fails_is_logged_and_the_next_one_runs(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if a listener in it calls sys.exit: the thread's work is the pool's, not the listener's."""
    caplog.set_level(logging.ERROR, "wd_di")
    workers, done = Workers(f"failing-{type(error).__name__}", 1), threading.Event()

    def fail() -> None:
        raise error

    workers.submit(fail)
    workers.submit(done.set)

    assert passed(done)
    assert [f"{workers.name}: a background job failed: {error!r}"] == caplog.messages


def test_workers_forget_a_job_when_it_is_done() -> None:
    """An idle thread must not keep a pool alive."""
    workers = Workers("forgetful", 1)

    class Owner:
        def run(self) -> None:
            pass

    owner = Owner()
    gone = weakref.ref(owner)
    workers.submit(owner.run)
    del owner

    assert soon(lambda: gc.collect() >= 0 and gone() is None)


@pytest.mark.usefixtures("no_threads")
def test_without_threads_a_job_runs_here_and_now() -> None:
    """At interpreter exit none can be started, and closing must still happen."""
    workers, done = Workers("late", 1), []
    workers.submit(lambda: done.append(threading.get_ident()))
    workers.submit(lambda: done.append(threading.get_ident()))

    assert [threading.get_ident()] * 2 == done


# -- the poller ------------------------------------------------------------------------------------


class Rounds:
    """Notes its rounds, and naps as long as it is told."""

    def __init__(self, name: str = "rounds", nap: float = PATIENCE) -> None:
        self.nap = nap
        self.done: queue.Queue[bool] = queue.Queue()
        self.during: Callable[[], object] = bool
        self.poller = Poller(name, weakref.WeakMethod(self.round))

    def round(self) -> float:
        """One round."""
        during, self.during = self.during, bool
        try:
            during()
        finally:
            self.done.put(self.poller.napping)
        return self.nap

    def came(self) -> bool:
        """Whether another round is made, soon."""
        self.done.get(timeout=PATIENCE)
        return True

    def nudge(self) -> None:
        """As the pool does after each record."""
        if self.poller.napping:
            self.poller.wake()


def test_a_wake_up_ends_the_nap() -> None:
    """The next round begins at once."""
    rounds = Rounds("woken")
    rounds.poller.start()
    assert rounds.came()
    rounds.poller.wake()

    assert rounds.came()
    rounds.poller.stop(PATIENCE)
    assert ended("woken")


def test_what_comes_up_during_a_round_ends_the_nap_after_it() -> None:
    """The round may have looked there already; nothing waits for the nap's end."""
    rounds = Rounds()
    rounds.during = rounds.nudge
    rounds.poller.start()

    assert rounds.came()
    assert rounds.came()
    rounds.poller.stop(PATIENCE)


def test_short_naps_follow_one_another_without_a_wake_up() -> None:
    """What is owed is looked for all the time."""
    rounds = Rounds(nap=0.0)
    rounds.poller.start()

    assert all(rounds.came() for _ in range(3))
    rounds.poller.stop(PATIENCE)


def test_a_stopped_poller_makes_no_more_rounds() -> None:
    """Its thread has ended when stop returns."""
    rounds = Rounds("stopped")
    rounds.poller.start()
    assert rounds.came()
    rounds.poller.stop(PATIENCE)

    assert "stopped" not in {thread.name for thread in threading.enumerate()}
    assert rounds.done.empty()


def test_a_poller_may_stop_itself() -> None:
    """It doesn't wait for its own end, which comes after the round."""
    rounds = Rounds("own")
    rounds.during = lambda: rounds.poller.stop(PATIENCE)
    rounds.poller.start()

    assert ended("own")
    assert 1 == rounds.done.qsize()


@pytest.mark.parametrize("error", [ValueError("a bug"), SystemExit(1)])
def test_a_round_that_fails_is_logged_and_the_next_one_comes(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Deliveries go on being served, whatever a listener did."""
    caplog.set_level(logging.ERROR, "wd_di")
    rounds = Rounds(f"broken-{type(error).__name__}", nap=0.0)

    def fail() -> None:
        raise error

    rounds.during = fail
    rounds.poller.start()

    assert all(rounds.came() for _ in range(3))
    rounds.poller.stop(PATIENCE)
    assert [f"{rounds.poller._name}.round"] == [record.__dict__["wd_di_key"] for record in caplog.records]


def test_a_poller_ends_with_what_it_polls() -> None:
    """A forgotten pool is collected, and its thread goes with it."""
    rounds = Rounds("orphan", nap=0.02)
    rounds.poller.start()
    assert rounds.came()
    del rounds
    gc.collect()

    assert ended("orphan")


@pytest.mark.usefixtures("no_threads")
def test_a_poller_that_cannot_start_can_be_stopped() -> None:
    """At interpreter exit the closing thread polls by itself."""
    rounds = Rounds()
    rounds.poller.start()
    rounds.poller.stop(PATIENCE)

    assert rounds.done.empty()
