"""A version of a service: ``python -m tests.kafka.deployed SERVERS TOPIC VERSION INSTANCE SIZE``.

It publishes transactions of two records without a pause until SIGTERM comes, and says what becomes of each, and whom it
meets.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from itertools import count
from typing import TYPE_CHECKING

from tests.pools import pool
from wd_di import FencedError, Observer, PoolError, ProducerContested, ProducerRetired, TransactionError

if TYPE_CHECKING:
    from wd_di import ProducerPool

_telling = threading.Lock()


def tell(word: str, name: str = "", what: object = "", outcome: str = "") -> None:
    """Say something to whoever has started this."""
    with _telling:
        sys.stdout.write(json.dumps([word, name, str(what), outcome]) + "\n")
        sys.stdout.flush()


def publish(orders: ProducerPool, topic: str, worker: str, stop: threading.Event) -> None:
    """Publish until told to stop."""
    for number in count():
        if stop.is_set():
            return
        name = f"{worker}-{number}"
        try:
            with orders.transaction() as tx:
                tx.produce_async(topic, name, key="a")
                tx.produce_async(topic, name, key="b")
        except PoolError as error:
            tell(type(error).__name__, name, error, "aborted")
            stop.wait(0.1)
        except TransactionError as error:
            tell("FencedError" if isinstance(error, FencedError) else type(error).__name__, name, error, error.outcome)
        else:
            tell("committed", name)


def main(servers: str, topic: str, version: str, instance: str, size: str) -> None:
    """Serve."""
    stop, observer = threading.Event(), Observer()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    observer.subscribe(ProducerContested, lambda event: tell("contested", what=event.rival))
    observer.subscribe(ProducerRetired, lambda event: tell("retired", what=event.reason))
    orders = pool(servers, size=int(size), instance=instance, timeout_ms=2_000, observer=observer)
    with orders:
        tell("open")
        threads = [
            threading.Thread(target=publish, args=(orders, topic, f"{version}{number}", stop))
            for number in range(int(size))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tell("closed", what=orders.close().clean)


if __name__ == "__main__":
    main(*sys.argv[1:])
