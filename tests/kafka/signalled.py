"""A program that signals meet at work: ``python -m tests.kafka.signalled SERVERS TOPIC CASE ROUNDS``."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from billiard.exceptions import SoftTimeLimitExceeded

from tests.pools import plain, pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di import ProducerPool

AT_MOST = 0.03
"""Seconds after which the signal has come."""


class MineError(Exception):
    """A program's own error."""


def leave(*_: object) -> None:
    """End, as in a container."""
    sys.exit(143)


def give_up(*_: object) -> None:
    """Raise an error of the program's own."""
    raise MineError(7, "late")


def limit(*_: object) -> None:
    """Raise what Celery raises at a soft time limit."""
    raise SoftTimeLimitExceeded(30)


def time_out(*_: object) -> None:
    """Raise a time-out."""
    raise TimeoutError("alarm")


HANDLERS: dict[str, tuple[signal.Signals, Any, tuple[type[BaseException], tuple[object, ...]]]] = {
    "exit": (signal.SIGTERM, leave, (SystemExit, (143,))),
    "own": (signal.SIGHUP, give_up, (MineError, (7, "late"))),
    "limit": (signal.SIGUSR1, limit, (SoftTimeLimitExceeded, (30,))),
    "alarm": (signal.SIGALRM, time_out, (TimeoutError, ("alarm",))),
    "ctrl-c": (signal.SIGINT, signal.default_int_handler, (KeyboardInterrupt, ())),
}


def flushes(of: ProducerPool, topic: str) -> None:
    """Enqueue and flush, without an end."""
    with of.producer() as producer:
        while True:
            for _ in range(20):
                producer.produce_async(topic, "x")
            producer.flush()


def waits(of: ProducerPool, topic: str) -> None:
    """Produce and wait, without an end."""
    with of.producer() as producer:
        while True:
            producer.produce_sync(topic, "x")


def commits(of: ProducerPool, topic: str) -> None:
    """One transaction after the other."""
    while True:
        with of.transaction() as tx:
            for _ in range(5):
                tx.produce_async(topic, tx.id)


def aborts(of: ProducerPool, topic: str) -> None:
    """One transaction after the other that isn't committed."""
    while True:
        with of.transaction() as tx:
            tx.produce_async(topic, tx.id)
            tx.abort_only()


WORK: dict[str, tuple[Callable[..., ProducerPool], Callable[[ProducerPool, str], None]]] = {
    "flush": (plain, flushes),
    "produce_sync": (plain, waits),
    "commit": (pool, commits),
    "abort": (pool, aborts),
}


def signalled(number: int, work: Callable[[], None]) -> BaseException | None:
    """What comes out of the work when the signal comes at some moment."""
    pause = random.uniform(0, AT_MOST)  # noqa: S311  (no secret)
    thread = threading.Thread(target=lambda: (time.sleep(pause), os.kill(os.getpid(), number)))
    try:
        thread.start()
        work()
    except BaseException as error:  # noqa: BLE001  (it is the result)
        return error
    finally:
        thread.join()
    return None


def main(servers: str, topic: str, case: str, rounds: int) -> None:
    """Say what was noted, and what came out that wasn't what the handler had raised; then end by SIGTERM."""
    make, work = WORK[case]
    # CPython drops what a handler raises inside of a weak reference's callback: threads that are collected have some.
    gc.disable()
    with make(servers, size=1) as of:
        for name, (number, handler, (kind, args)) in HANDLERS.items():
            before = signal.signal(number, handler)
            for _ in range(rounds):
                error = signalled(number, lambda: work(of, topic))
                for note in getattr(error, "__notes__", ()):
                    sys.stdout.write(f"{note}\n")
                if type(error) is not kind or error.args != args:
                    sys.stdout.write(f"{name}: {error!r}\n")
                    traceback.print_exception(error)
            signal.signal(number, before)
        stats = of.stats()
        signal.signal(signal.SIGTERM, leave)
        sys.stdout.write(f"done: {stats.in_use} in use, {stats.waiting} waiting\n")
        sys.stdout.flush()
        work(of, topic)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
