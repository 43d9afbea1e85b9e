"""A service of the page on transactions: ``python -m tests.kafka.billers SERVERS ORDERS BILLS GROUP``.

It bills orders until SIGTERM comes, and says how many each time, and what went wrong.
"""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import closing
from types import SimpleNamespace
from typing import Any

from confluent_kafka import Consumer, KafkaException

from tests.pages import ROOT, files
from tests.pools import pool
from wd_di import Observer, PoolTimeoutError, TransactionAborted, TransactionError

PAGE = ROOT / "docs" / "howto" / "transactions.md"
QUIET = {"log_level": 0, "heartbeat.interval.ms": 500, "session.timeout.ms": 6_000, "fetch.wait.max.ms": 20}
"""Of consumers: those that couldn't even take leave of their group are soon forgotten."""
SOON = {"timeout_ms": 2_000, "commit_timeout_ms": 3_000, "abort_timeout_ms": 1_000, "resolve_timeout_ms": 2_000}


def shown(orders: str, bills: str, group: str) -> SimpleNamespace:
    """Return what is in the page's ``billing.py``, for other topics and another group."""
    source = files(PAGE)["billing.py"]
    for name, real in {"orders": orders, "bills": bills, "billing": group}.items():
        source = source.replace(f'"{name}"', repr(real))
    names: dict[str, Any] = {}
    exec(compile(source, str(PAGE), "exec", dont_inherit=True), names)  # noqa: S102  (our own page)
    names["Consumer"] = lambda given: Consumer({**given, **QUIET})
    return SimpleNamespace(**names)


def say(word: str, what: object) -> None:
    """Tell whoever has started this."""
    sys.stdout.write(f"{word} {what}\n")
    sys.stdout.flush()


def main(servers: str, *names: str) -> None:
    """Bill, with one consumer after the other if need be."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    billing = shown(*names)
    observer = Observer()
    observer.subscribe(TransactionAborted, lambda event: say("aborted", repr(event.cause)))
    bills = pool(servers, name="bills", size=1, observer=observer, **SOON)
    with bills:
        while not stop.is_set():
            with closing(billing.join(servers)) as consumer:
                try:
                    while not stop.is_set():
                        bill(billing, consumer, bills)
                except KafkaException as error:  # where the group stands isn't known: the next one begins there
                    say("joins", repr(error))
    say("drained:", bills.close().clean)


def bill(billing: SimpleNamespace, consumer: Any, bills: Any) -> None:
    """Bill the next orders; what isn't committed comes again."""
    try:
        say("billed", billing.bill_next(consumer, bills))
    except (PoolTimeoutError, TransactionError) as error:
        say("again", repr(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
