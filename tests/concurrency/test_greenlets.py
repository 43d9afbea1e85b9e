"""Pools where gevent has made greenlets of threads: each test is a program of its own, with a hard end."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from tests.scripted import make_pool
from wd_di import ScopeError

ROOT = Path(__file__).parents[2]
HARD_END_S = 30

EARLY = "import gevent.monkey; gevent.monkey.patch_all()"
LATE = "import wd_di; import gevent.monkey; gevent.monkey.patch_all()"
WITHOUT_THREADS = "import gevent.monkey; gevent.monkey.patch_all(thread=False)"
UNPATCHED = "import gevent"

TOOLS = """
import socket
import time

import gevent

from wd_di import PoolSettings, PoolTimeoutError, DeliveryTimeoutError, PoolOpenError, ProducerPool
from wd_di.testing import MockKafka

kafka = MockKafka()
kafka.create_topic("t")


def make(servers=None, *, kafka_settings=None, **options):
    config = {"bootstrap.servers": servers or kafka.bootstrap_servers, **(kafka_settings or {})}
    return ProducerPool(PoolSettings.model_validate({"kafka": config, **options}), name="orders")


def nobody():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % held.getsockname()[1]


def together(count, fn, *arguments):
    greenlets = [gevent.spawn(fn, *arguments) for _ in range(count)]
    return [greenlet.get() for greenlet in greenlets]


def sync(pool):
    with pool.producer() as producer:
        return producer.produce_sync("t", "value").offset


def longest_stall():
    worst = 0.0

    def beat():
        nonlocal worst
        while True:
            before = time.monotonic()
            gevent.sleep(0.01)
            worst = max(worst, time.monotonic() - before)

    heart = gevent.spawn(beat)

    def stop():
        heart.kill()
        return worst

    return stop
"""


def run(code: str, *, patch: str = EARLY) -> None:
    """Run a program to its good end."""
    ended = subprocess.run(
        [sys.executable, "-c", f"{patch}\n{TOOLS}\n{code}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=HARD_END_S,
        check=False,
    )
    assert 0 == ended.returncode, ended.stderr
    assert "ThreadPoolWorker" not in ended.stderr  # what a client's call raises is nobody else's business


@pytest.mark.parametrize("patch", [EARLY, LATE], ids=["early", "late"])
@pytest.mark.parametrize("options", ["size=1, share=100", "size=2"], ids=["shared", "exclusive"])
def test_produce_sync(options: str, patch: str) -> None:
    """Greenlets that wait for their records leave the others running, whether wd_di was imported first or not."""
    run(
        f"""
stop = longest_stall()
with make({options}) as pool:
    sync(pool)
    assert 50 == len(set(together(50, sync, pool)))
    with pool.producer() as producer:
        assert producer.produce_async("t", "value").result().offset == 51
        producer.produce_async("t", "value")
        producer.flush()
assert stop() < 1
""",
        patch=patch,
    )


def test_transactions() -> None:
    """Each greenlet has a transaction of its own, waits its turn for it, and gets it in the order of asking."""
    run(
        """
begun = []

def place(number):
    with pool.transaction() as tx:
        begun.append(number)
        tx.produce_sync("t", "value")
        gevent.sleep(0.01)
        assert pool.stats().in_use <= 2
        return tx.id

with make(size=2, transactional_id="g-{host}-{pid}-{index}") as pool:
    greenlets = [gevent.spawn(place, number) for number in range(20)]
    assert 20 == len({greenlet.get() for greenlet in greenlets})
assert begun == sorted(begun), begun
"""
    )


def test_deadlines_hold_on_a_dead_broker() -> None:
    """A time-out of 1 s is one, in every way of waiting, and other greenlets run meanwhile."""
    run(
        """
def attempt(error, wait):
    stop, started = longest_stall(), time.monotonic()
    try:
        wait()
    except error:
        assert 0.9 < time.monotonic() - started < 3
    else:
        raise AssertionError("no time-out")
    assert stop() < 0.9

dead = nobody()
ids = make(dead, size=1, transactional_id="g-{host}-{pid}-{index}", timeout_ms=1_000)
shared = make(dead, size=1, share=10, produce_timeout_ms=1_000)
exclusive = make(dead, size=1, produce_timeout_ms=1_000)
attempt(PoolTimeoutError, lambda: sync(ids))
attempt(PoolTimeoutError, lambda: ids.transaction().__enter__())
attempt(DeliveryTimeoutError, lambda: sync(shared))
attempt(DeliveryTimeoutError, lambda: sync(exclusive))
attempt(PoolOpenError, lambda: make(dead, size=1).open(timeout_ms=1_000))
started = time.monotonic()
for pool in (ids, shared, exclusive):
    pool.close(timeout_ms=500)
assert time.monotonic() - started < 5
"""
    )


def test_a_killed_greenlet_leaves_nothing_behind() -> None:
    """``kill`` and ``gevent.Timeout`` end a wait, and the producer goes back."""
    run(
        """
dead = nobody()
waiting = make(dead, size=1, transactional_id="g-{host}-{pid}-{index}")
producing = make(dead, size=1)
for pool in (waiting, producing):
    greenlet = gevent.spawn(sync, pool)
    gevent.sleep(0.2)
    greenlet.kill()
    try:
        with gevent.Timeout(0.2):
            sync(pool)
    except gevent.Timeout:
        pass
    else:
        raise AssertionError("no time-out")
    assert (0, 0) == (pool.stats().in_use, pool.stats().waiting)
    pool.close(timeout_ms=0)
"""
    )


def test_a_kill_outwaits_a_commit() -> None:
    """A greenlet that is killed during its commit ends when the answer has come, and its producer lives on."""
    run(
        """
outcomes = []

def place():
    with pool.transaction() as tx:
        tx.after_completion(outcomes.append)
        tx.produce_sync("t", "value")
        kafka.set_rtt(800)
        tx.before_commit(lambda: gevent.spawn_later(0.3, greenlet.kill, block=False))

with make(size=1, transactional_id="g-{host}-{pid}-{index}") as pool:
    greenlet = gevent.spawn(place)
    assert isinstance(greenlet.get(), gevent.GreenletExit)
    kafka.set_rtt(0)
    assert outcomes == ["committed"], outcomes
    assert (1, 0) == (pool.stats().idle, pool.stats().totals.retired)
"""
    )


@pytest.mark.parametrize("patch", [EARLY, LATE], ids=["early", "late"])
def test_a_callback_in_which_another_greenlet_runs(patch: str) -> None:
    """A finalizer may wait inside of a callback; no other greenlet of the thread calls into the client meanwhile."""
    run(
        """
from tests import internals
from wd_di import Delivery

waited = []


def slowly(self, *given, arrive=Delivery.__call__):
    gevent.sleep(0.02)
    waited.append(True)
    arrive(self, *given)


Delivery.__call__ = slowly
with make(size=1) as pool, pool.producer() as producer:
    deliveries = [producer.produce_async("t", "value") for _ in range(10)]
    [client] = internals.clients(pool)
    until = time.monotonic() + 20
    while not all(each.done() for each in deliveries) and time.monotonic() < until:
        together(3, client.poll, 0)
    assert all(each.done() for each in deliveries)
assert len(waited) == 10
""",
        patch=patch,
    )


def test_the_end_of_the_program() -> None:
    """A pool that nobody has closed sends what it owes, and the program ends in time."""
    run(
        """
import atexit

pool = make(size=1, kafka_settings={"linger.ms": 60_000})
with pool.producer() as producer:
    deliveries = [producer.produce_async("t", "value") for _ in range(100)]

import wd_di.pool
started = time.monotonic()
wd_di.pool.close_all()
assert time.monotonic() - started < 5
assert {"delivered"} == {delivery.outcome for delivery in deliveries}
"""
    )


@pytest.mark.parametrize("patch", [WITHOUT_THREADS, UNPATCHED], ids=["without_threads", "unpatched"])
def test_greenlets_of_one_thread_are_different_owners(patch: str) -> None:
    """Also where threads aren't patched, two greenlets never share a producer or transaction."""
    run(
        """
def place(scope):
    with scope() as handle:
        gevent.sleep(0.01)
        return handle

with ProducerPool(PoolSettings(size=2, deliver=False, transactional_id="g-{pid}-{index}", timeout_ms=100)) as pool:
    assert 2 == len({tx.id for tx in together(2, place, pool.transaction)})
    assert 2 == len({producer.index for producer in together(2, place, pool.producer)})
    try:
        together(3, place, pool.producer)
    except PoolTimeoutError as error:
        assert "by greenlet 'Greenlet-" in str(error), error
    else:
        raise AssertionError("no time-out")
""",
        patch=patch,
    )


def test_eventlet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where eventlet has patched threads a pool would hang: it is refused at once, with the way out."""
    patcher = types.ModuleType("eventlet.patcher")
    patcher.is_monkey_patched = {"thread": True}.get  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)
    with pytest.raises(ScopeError, match=r"^orders: eventlet has .* use gevent, or eventlet"):
        make_pool()
