"""How long forked children take to end, without and with a pool: ``python -m tests.kafka.forked SERVERS TOPIC``."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from multiprocessing import get_context
from statistics import median
from typing import TYPE_CHECKING

from tests.pools import plain, pool

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 7

warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)  # Python 3.12 warns of just this


def forked(ended: int) -> None:
    """A plain fork that ends as a program does."""
    child = os.fork()
    if child == 0:
        tell_time(ended)
        sys.exit()
    os.waitpid(child, 0)


def of_multiprocessing(ended: int) -> None:
    """A child of multiprocessing."""
    process = get_context("fork").Process(target=tell_time, args=(ended,))
    process.start()
    process.join()


def tell_time(to: int) -> None:
    """Say when there was nothing left to do."""
    os.write(to, f"{time.monotonic()}\n".encode())


def exit_ms(run: Callable[[int], None]) -> float:
    """Return how long children take from there until they are gone, as a rule."""
    took = []
    for _ in range(ROUNDS):
        heard, ended = os.pipe()
        run(ended)
        gone = time.monotonic()
        took.append((gone - float(os.read(heard, 100))) * 1000)
        os.close(heard)
        os.close(ended)
    return median(took)


def main(servers: str, topic: str) -> None:
    """Print how long each kind takes without and with pools, one of which has a transaction open."""
    kinds = {"os.fork": forked, "multiprocessing": of_multiprocessing}
    without = {name: exit_ms(run) for name, run in kinds.items()}
    orders, clicks = pool(servers, size=2), plain(servers, size=1)
    clicks.open()
    scope = orders.transaction()  # without a block, which the forked child would leave, too
    tx = scope.__enter__()
    tx.produce_sync(topic, "before")
    besides = {name: exit_ms(run) for name, run in kinds.items()}
    tx.produce_sync(topic, "after")
    scope.__exit__(None, None, None)
    for each in (orders, clicks):
        each.close()
    sys.stdout.write(json.dumps([without, besides]))


if __name__ == "__main__":
    main(*sys.argv[1:])
