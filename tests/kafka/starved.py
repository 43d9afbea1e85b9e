"""A process that commits some records, and lets librdkafka's own threads be stopped at the beginning of each commit."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from tests.pools import pool
from wd_di._kafka.librdkafka import KafkaClient

TIMES = 5
commit, calls = KafkaClient.commit, 0


def say(what: str) -> None:
    """Let the parent know."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def name(task: Path) -> str:
    """How a thread is called, unless it ends just now."""
    try:
        return (task / "comm").read_text().strip()
    except OSError:
        return ""


def told(client: KafkaClient, seconds: float) -> None:
    """Commit; before the first call say which threads are librdkafka's and wait for a line, before others be slow.

    What else there is to do for them lies between the two, as a question for a topic.
    """
    global calls  # noqa: PLW0603  (there is one client)
    calls += 1
    if calls == 1:
        say(" ".join(each.name for each in Path("/proc/self/task").iterdir() if name(each) == "rdk:main"))
        sys.stdin.readline()
    else:
        threading.Thread(target=client.ask, args=(sys.argv[2], 2), daemon=True).start()
        time.sleep(0.02)  # until the question is in librdkafka's queue, which nothing tells
        say("again")
    commit(client, seconds)


if __name__ == "__main__":
    KafkaClient.commit = told  # type: ignore[method-assign]  (of this process)
    with pool(sys.argv[1], name="starved", size=1) as orders:
        for number in range(TIMES):
            calls = 0
            with orders.transaction() as tx:
                tx.produce_sync(sys.argv[2], str(number))
    say("committed")
