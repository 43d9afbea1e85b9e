"""A call from inside of a callback of the same client doesn't end the process (confluent-kafka-python#457)."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest

from wd_di._kafka.nested import Calls, NestedCallError

PATIENCE = 40

START = """
import gc, logging, signal, wd_di
from wd_di._records.delivery import Delivery
from wd_di.testing import MockKafka

nested, busy = [], []
inside = None

def once(call):
    # Not from inside of itself, and not for ever.
    if call is None or busy or len(nested) == 10:
        return
    busy.append(True)
    try:
        nested.append(call())
    finally:
        busy.clear()

class Logger:
    # Does something for each line that librdkafka logs.
    def log(self, *_):
        once(inside)

def in_callbacks(more):
    # Does something inside of each call of ours by librdkafka, as a signal's handler or a finalizer may.
    def arrive(self, *given, noted=Delivery.__call__):
        more()
        noted(self, *given)
    Delivery.__call__ = arrive

kafka = MockKafka()
kafka.create_topic("logs")
settings = {"kafka": {"bootstrap.servers": kafka.bootstrap_servers, "debug": "msg"}, "size": 1}
"""

LOGGER = """
settings["kafka"]["logger"] = Logger()
"""

CALLBACK = """
in_callbacks(lambda: once(inside))
"""

PLAIN = """
pool = wd_di.ProducerPool(settings)
pool.open()
with pool.producer() as producer:
    inside = INSIDE
    for number in range(60):  # enough lines of the log
        for _ in range(5):  # so that one call serves several callbacks: the second one would abort
            producer.produce_async("orders", str(number))
        producer.produce_sync("orders", str(number), timeout_ms=10_000)
    inside = None
pool.close()
print("done", len(nested))
"""

PRODUCE = 'lambda: producer.produce_sync("logs", "x", timeout_ms=10_000)'

SIGNAL = f"""
signal.signal(signal.SIGUSR1, lambda *_: once({PRODUCE}))
in_callbacks(lambda: inside and signal.raise_signal(signal.SIGUSR1))
"""

FINALIZER = f"""
class Last:
    def __del__(self):
        once({PRODUCE})

def collect():
    if inside is not None and not busy:
        last = Last()
        last.me = last
        del last
        gc.collect()

in_callbacks(collect)
"""

FLUSH = """
def flush():
    try:
        producer.flush(timeout_ms=100)
    except wd_di.DeliveryTimeoutError:
        pass  # a report waits in the outer call
"""

SCOPE = "a scope of its own"  # on the pool's own thread it might have to wait for the only producer

CALLS = {
    "a produce_sync": PLAIN.replace("INSIDE", PRODUCE),
    "one on a shared producer": 'settings["share"] = 4\n' + PLAIN.replace("INSIDE", PRODUCE),
    "a flush of what the outer call sends": FLUSH + PLAIN.replace("INSIDE", "flush"),
    SCOPE: PLAIN.replace("INSIDE", 'lambda: pool.producer().__enter__().produce_sync("logs", "x", timeout_ms=10_000)'),
    "a topic that isn't known": PLAIN.replace(
        "INSIDE", 'lambda: producer.produce_sync(f"logs-{len(nested)}", "x", timeout_ms=10_000)'
    ),
    "a transaction": 'settings["transactional_id"] = "t-{index}-{pid}"\n'
    + PLAIN.replace("pool.producer()", "pool.transaction()").replace("INSIDE", PRODUCE),
}

WAYS = {
    **{f"{call}, by a logger": LOGGER + program for call, program in CALLS.items() if call != SCOPE},
    **{f"{call}, inside of a callback": CALLBACK + program for call, program in CALLS.items()},
    "by a signal's handler": SIGNAL + PLAIN.replace("INSIDE", "True"),
    "by a finalizer": FINALIZER + PLAIN.replace("INSIDE", "True"),
}


def run(program: str) -> Any:
    """Run a program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.mark.parametrize("way", WAYS)
def test_no_program_is_aborted(way: str) -> None:
    """Whatever runs inside of a callback, or for a line of the log, may produce and flush; the outer call goes on."""
    ended = run(START + WAYS[way])

    assert (0, "done 10") == (ended.returncode, ended.stdout.strip()), ended.stderr


def test_a_handler_that_closes() -> None:
    """A signal's handler may close the pool inside of a callback; whoever holds a producer hears of it."""
    program = """
signal.signal(signal.SIGUSR1, lambda *_: once(lambda: pool.close(timeout_ms=100, force=True)))
in_callbacks(lambda: inside and signal.raise_signal(signal.SIGUSR1))
pool = wd_di.ProducerPool(settings)
pool.open()
try:
    with pool.producer() as producer:
        inside = True
        for _ in range(1000):
            for _ in range(5):
                producer.produce_async("orders", "1")
            producer.produce_sync("orders", "2")
except (wd_di.CheckoutReturnedError, wd_di.DeliveryError):  # refused, or given up by the close
    print("done")
"""
    ended = run(START + program)

    assert (0, "done") == (ended.returncode, ended.stdout.strip()), ended.stderr


def test_a_handler_that_locks() -> None:
    """Logging's handlers hold a lock while they work, and librdkafka's lines come when its call is over."""
    program = """
class Shipping(logging.Handler):
    def emit(self, record):
        once(inside)

def produce():
    try:
        return producer.produce_sync("logs", "x", timeout_ms=1_000)
    except wd_di.DeliveryTimeoutError as error:
        return error

logging.getLogger("wd_di.librdkafka").addHandler(Shipping())
logging.getLogger("wd_di.librdkafka").setLevel(logging.DEBUG)
pool = wd_di.ProducerPool(settings)
pool.open()
with pool.producer() as producer:
    nested[:] = [None] * 9
    inside = produce
    producer.produce_sync("orders", "1", timeout_ms=10_000)
    inside = None
    producer.produce_sync("orders", "2", timeout_ms=10_000)
pool.close()
print("done", len(nested), type(nested[-1]).__name__)
"""
    ended = run(START + program)

    assert (0, "done 10 DeliveryReport") == (ended.returncode, ended.stdout.strip()), ended.stderr


def test_upstream_still_aborts() -> None:
    """Bare confluent-kafka ends the process; if this fails, the guard can go."""
    ended = run(
        textwrap.dedent("""
            import confluent_kafka
            producer = confluent_kafka.Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1, "log_level": 0})
            for _ in range(5):
                producer.produce("t", b"v", on_delivery=lambda *_: producer.poll(0))
            producer.flush(10)
        """)
    )

    assert -signal.SIGABRT == ended.returncode


def test_each_thread_by_itself() -> None:
    """A nested call is made on another thread, also one within that; others go on where they are."""
    calls, threads = Calls(), []

    def nest(depth: int) -> int:
        threads.append(threading.current_thread().name)
        return calls.make(nest, [depth - 1], 1) if depth else 7

    assert 7 == calls.make(nest, [2], 1)
    assert ["MainThread", "wd_di-nested", "wd_di-nested"] == threads
    assert not calls._inside


def test_what_a_nested_call_raises() -> None:
    """It comes out where the call was made, and the outer call may go on."""
    calls = Calls()

    def outer(_: int) -> str:
        with pytest.raises(ZeroDivisionError):
            calls.make(lambda one: one // 0, [1], 1)
        return "went on"

    assert "went on" == calls.make(outer, [0], 1)


def test_a_nested_call_that_needs_the_callbacks_lock() -> None:
    """It is given up, and so are others until it has gone on; when the callback has returned, all is well."""
    calls, lock, made = Calls(), threading.Lock(), []

    def needing(number: int) -> None:
        with lock:
            made.append(number)

    def outer(_: int) -> None:
        with lock:
            for number in (1, 2):
                with pytest.raises(NestedCallError, match="which must return first"):
                    calls.make(needing, [number], 0)

    calls.make(outer, [0], 1)
    assert calls._left is not None
    calls._left.join(PATIENCE)
    calls.make(lambda _: calls.make(needing, [3], 1), [0], 1)

    assert [1, 3] == made


def test_without_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be had, as at the interpreter's end, it is refused."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    calls = Calls()

    with pytest.raises(NestedCallError, match="from inside of a callback"):
        calls.make(lambda _: calls.make(lambda one: one, [1], 1), [0], 1)
