"""Celery's tasks, as the guide to workers has them, in a real worker whose Kafka goes away or doesn't answer."""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from tests import celery_broker
from tests.faults.rules import Api
from tests.kafka.readers import read
from tests.pools import unique, until
from tests.project.celery_workers import CLOSED, Worker
from wd_di.testing import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.proxy import FaultProxy
    from wd_di.testing import LocalKafka

SOON = {
    "size=1,": "size=1, timeout_ms=1_000, commit_timeout_ms=2_000, abort_timeout_ms=500, resolve_timeout_ms=1_000,",
    "retry_backoff=True": "retry_backoff=True, retry_backoff_max=2",
}
"""The page's pool and tasks, for people in a hurry."""
ENOUGH_MS = 60_000

TOLD = """
import json

from celery.signals import task_failure, task_retry, task_success
from shop.tasks import place

from wd_di._transactions import ending

place.max_retries = None  # however long the broker is away
ending.LAST_WORD = 20  # seconds: on a slow machine it takes longer until the answer is let through


def say(word, order, error=None):
    of_error = {name: getattr(error, name, None) for name in ("outcome", "safe_to_retry", "__notes__")}
    print("told " + json.dumps({"word": word, "order": order, "error": type(error).__name__, **of_error}))


@task_success.connect
def succeeded(sender, **_):
    say("succeeded", sender.request.args[0])


@task_retry.connect
def retried(request, reason, **_):
    say("retried", request.args[0], reason.exc)


@task_failure.connect
def failed(args, exception, **_):
    say("failed", args[0], exception)
"""

pytestmark = pytest.mark.timeout(180)


class Tasks:
    """A worker, and what becomes of the tasks of one test."""

    def __init__(self, folder: Path, kafka: LocalKafka) -> None:
        for topic in ("orders", "inventory"):
            with suppress(ClusterError):  # it is there already
                kafka.create_topic(topic)
        self.worker = Worker(folder, kafka.bootstrap_servers, instead=SOON, told=TOLD)
        self.worker.start()
        self._servers = kafka.bootstrap_servers
        self._run = unique("task")
        self._queue = Celery("shop", broker=celery_broker.URL, set_as_current=False)
        folders = {"data_folder_out": "data_out", "data_folder_in": "data_in", "control_folder": "control"}
        self._queue.conf.broker_transport_options = {name: str(folder / each) for name, each in folders.items()}

    def call(self, *numbers: int, **options: Any) -> None:
        """Ask for orders."""
        for number in numbers:
            self._queue.send_task("shop.tasks.place", (f"{self._run}-{number}", "tea"), **options)

    def told(self, word: str, error: str | None = None) -> list[dict[str, Any]]:
        """Return what was told of tasks so far, by what happened."""
        lines = [json.loads(line) for line in re.findall(r"told (\{.*\})", self.worker.log())]
        return [line for line in lines if line["word"] == word and error in (None, line["error"])]

    def until_told(self, count: int, word: str, error: str | None = None) -> None:
        """Return when that has happened so many times; if it doesn't, the worker's log says why."""
        try:
            until(lambda: len(self.told(word, error)) >= count, timeout_ms=ENOUGH_MS)
        except TimeoutError as late:
            late.add_note(self.worker.log())
            raise

    def found(self) -> dict[int, int]:
        """Return how often readers see each order."""
        keys = [(record.key or b"").decode() for record in read(self._servers, "orders")]
        return Counter(int(key.removeprefix(f"{self._run}-")) for key in keys if key.startswith(self._run))


@pytest.fixture
def tasks_on(tmp_path: Path) -> Iterator[Callable[[LocalKafka], Tasks]]:
    """Starts a worker that ends with its test."""
    with ExitStack() as started:

        def start(kafka: LocalKafka) -> Tasks:
            tasks = Tasks(tmp_path, kafka)
            started.callback(tasks.worker.kill)
            return tasks

        yield start


@pytest.mark.parametrize("away", ["killed", "frozen"])
def test_tasks_while_the_broker_is_away(
    own_kafka: LocalKafka, tasks_on: Callable[[LocalKafka], Tasks], away: str
) -> None:
    """What was taken back runs again until it is there, and each order is there once."""
    tasks, [broker] = tasks_on(own_kafka), own_kafka.brokers
    tasks.call(*range(4))
    tasks.until_told(4, "succeeded")
    broker.kill() if away == "killed" else broker.pause()
    tasks.call(*range(4, 8))
    tasks.until_told(1, "retried", "TransactionAbortedError")
    tasks.until_told(4, "retried")
    broker.start() if away == "killed" else broker.resume()
    tasks.until_told(8, "succeeded")
    log = tasks.worker.stop()

    assert dict.fromkeys(range(8), 1) == tasks.found()
    assert {"aborted"} == {told["outcome"] for told in tasks.told("retried", "TransactionAbortedError")}
    assert [] == tasks.told("failed")
    assert 2 == log.count(CLOSED)


def test_a_task_in_doubt_runs_once(
    proxied_kafka: LocalKafka, proxy: FaultProxy, tasks_on: Callable[[LocalKafka], Tasks]
) -> None:
    """A task of which nobody knows whether it was committed fails and says so, and doesn't run again."""
    tasks = tasks_on(proxied_kafka)
    tasks.call(0)
    tasks.until_told(1, "succeeded")
    proxy.on(Api.END_TXN, "swallow reply", times=None, client="orders")
    proxy.on(Api.FETCH, "swallow request", times=None, client="orders")
    tasks.call(1)
    tasks.until_told(1, "failed", "CommitOutcomeUnknownError")
    proxy.reset()
    tasks.call(2)
    tasks.until_told(2, "succeeded")
    log = tasks.worker.stop()

    assert dict.fromkeys(range(3), 1) == tasks.found()
    assert {"PoolTimeoutError"} >= {told["error"] for told in tasks.told("retried")}
    assert 2 == log.count(CLOSED)


def test_a_warm_shutdown_waits_for_the_commit(
    proxied_kafka: LocalKafka, proxy: FaultProxy, tasks_on: Callable[[LocalKafka], Tasks]
) -> None:
    """A worker that is asked to end while a task commits lets it commit, and then closes its pools."""
    tasks = tasks_on(proxied_kafka)
    rule = proxy.on(Api.END_TXN, "delay reply", ms=1_000, client="orders")
    tasks.call(0)
    rule.wait(timeout_ms=ENOUGH_MS)
    log = tasks.worker.stop()

    assert (1, {0: 1}) == (len(tasks.told("succeeded")), tasks.found())
    assert 2 == log.count(CLOSED)


def test_a_soft_time_limit_in_the_commit(
    proxied_kafka: LocalKafka, proxy: FaultProxy, tasks_on: Callable[[LocalKafka], Tasks]
) -> None:
    """A soft time limit that meets a commit carries a note of what became of it, which Celery's log shows as well."""
    tasks = tasks_on(proxied_kafka)
    tasks.call(0)
    tasks.until_told(1, "succeeded")
    rule = proxy.on(Api.END_TXN, "delay reply", ms=1_000, client="orders")
    tasks.call(1, soft_time_limit=1)
    rule.wait(timeout_ms=ENOUGH_MS)
    proxy.freeze()  # before the second is over that the answer is held back for
    until(lambda: "Soft time limit (1s) exceeded" in tasks.worker.log(), timeout_ms=ENOUGH_MS)
    proxy.thaw()
    tasks.until_told(1, "failed", "SoftTimeLimitExceeded")
    log = tasks.worker.stop()
    [told] = tasks.told("failed")
    [note] = told["__notes__"]

    assert dict.fromkeys(range(2), 1) == tasks.found()
    assert re.fullmatch(r"orders: transaction \S+ was committed", note)
    assert 1 == len(re.findall(f"^{re.escape(note)}$", log, re.MULTILINE))
