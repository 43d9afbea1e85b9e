"""Programs whose child processes produce and just end: ``python -m tests.kafka.children SERVERS TOPIC CASE``."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import Process, get_context
from typing import TYPE_CHECKING, Any

from tests.pools import plain, pool

if TYPE_CHECKING:
    from wd_di import ProducerPool

SERVERS, TOPIC, CASE = sys.argv[1:] if sys.argv[0].endswith("children.py") else ("", "", "")
COUNT = 100
LATE = {"linger.ms": 60_000}
"""Nothing leaves by itself, however slowly a child ends."""

warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)  # Python 3.12 warns of just this

at_import: ProducerPool | None = plain(SERVERS, size=1, kafka=LATE) if CASE.endswith("at_import") else None
"""Made anew by every child that imports this program."""


def clicks() -> ProducerPool:
    """Return a pool that nobody has used."""
    return plain(SERVERS, size=1, kafka=LATE)


def send(servers: str = "", topic: str = "", of: ProducerPool | None = None) -> None:
    """Enqueue the records, and wait for none: with a pool of its own, which nobody closes, unless one is given."""
    of = of or plain(servers or SERVERS, size=1, kafka=LATE)
    with of.producer() as producer:
        for number in range(COUNT):
            producer.produce_async(topic or TOPIC, str(number))


keep: list[Any] = []


def send_at_import() -> None:
    """Send by the pool that this process has made when it imported the program."""
    send(of=at_import)


def send_and_fail(of: ProducerPool) -> None:
    """End by an exception."""
    send(of=of)
    raise KeyError("expected by the test")


def send_and_exit(of: ProducerPool) -> None:
    """End by sys.exit."""
    send(of=of)
    sys.exit(3)


def send_from_a_thread(of: ProducerPool) -> None:
    """Return while a thread, which is no daemon, is still about to produce."""
    main = threading.main_thread()

    def late() -> None:
        main.join()  # it has ended when Python waits for threads
        send(of=of)

    threading.Thread(target=late).start()


def leave_open(of: ProducerPool) -> None:
    """End inside a transaction."""
    with of.transaction() as tx:
        tx.produce_sync(TOPIC, "committed")
    tx = of.transaction().begin().__enter__()
    tx.produce_sync(TOPIC, "open")
    keep.append(tx)


def run(method: str | None, fn: Any, *args: Any, daemon: bool = False) -> Process:
    """Let a child call the function, and wait for its end."""
    process: Any = get_context(method).Process(target=fn, args=args, daemon=daemon)
    process.start()
    process.join()
    return process


def used(of: ProducerPool) -> ProducerPool:
    """Return it with producers and threads."""
    of.open()
    with of.producer():
        pass
    return of


def send_and_wait(of: ProducerPool, ears: int) -> None:
    """End when the test has killed the broker."""
    send(of=of)
    os.write(1, b"ready\n")
    os.read(ears, 1)


def nested(of: ProducerPool) -> None:
    """Let a child's child send."""
    run("fork", send, "", "", of)


def forks(of: ProducerPool) -> None:
    """Let a child's own fork send, and end as the child does."""
    if pid := os.fork():
        os.waitpid(pid, 0)
    else:
        send(of=of)


def plain_fork(end: Any) -> None:
    """A child that multiprocessing knows nothing of."""
    of = clicks()
    if pid := os.fork():
        assert 0 == os.waitpid(pid, 0)[1]
    else:
        send(of=of)
        end()


def executor(method: str) -> None:
    """An executor's workers."""
    with ProcessPoolExecutor(1, get_context(method)) as workers:
        workers.submit(send, SERVERS, TOPIC).result()


def made_before() -> None:
    """A multiprocessing.Pool that is older than the pool, and ended by close and join."""
    workers = get_context("fork").Pool(1)
    keep.append(used(clicks()))
    workers.apply(send, (SERVERS, TOPIC))
    workers.close()
    workers.join()


def parent_goes_on() -> None:
    """A parent whose own records are not the child's to send, and whose producers live on."""
    of = used(clicks())
    with of.producer() as producer:
        producer.produce_async(TOPIC, "parent")
        run("fork", send, "", "", of)
        producer.produce_sync(TOPIC, "parent")
    assert of.close().clean


CASES: dict[str, Any] = {
    "inherited": lambda: run("fork", send, "", "", clicks()),
    "inherited_in_use": lambda: run("fork", send, "", "", used(clicks())),
    "made_in_the_child": lambda: run("fork", send),
    "daemon": lambda: run("fork", send, "", "", clicks(), daemon=True),
    "exception": lambda: run("fork", send_and_fail, clicks()),
    "sys_exit": lambda: run("fork", send_and_exit, clicks()),
    "late_thread": lambda: run("fork", send_from_a_thread, clicks()),
    "grandchild": lambda: run("fork", nested, clicks()),
    "forks": lambda: run("fork", forks, clicks()),
    "spawn": lambda: run("spawn", send, SERVERS, TOPIC),
    "spawn_at_import": lambda: run("spawn", send_at_import),
    "forkserver": lambda: run("forkserver", send, SERVERS, TOPIC),
    "forkserver_at_import": lambda: run("forkserver", send_at_import),
    "executor_fork": lambda: executor("fork"),
    "executor_spawn": lambda: executor("spawn"),
    "executor_forkserver": lambda: executor("forkserver"),
    "made_before": made_before,
    "parent_goes_on": parent_goes_on,
    "plain_fork_falls_off": lambda: plain_fork(int),
    "plain_fork_exits": lambda: plain_fork(lambda: sys.exit(0)),
    "leave_open": lambda: run("fork", leave_open, pool(SERVERS, size=2)),
    "dead_broker": lambda: run("fork", send_and_wait, used(clicks()), os.dup(0)),  # a child has no stdin
}

if __name__ == "__main__":
    CASES[CASE]()
