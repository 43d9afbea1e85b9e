"""The background job: a busy pool, a spare one, and deliveries that fail."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from dependency_injector import providers

from examples.background_job import __main__ as demo
from examples.background_job.containers import Container, Settings
from tests.kafka.readers import read
from wd_di import DeliveryError, MessageAcknowledged, PoolSettings, PoolTimeoutError, ProducerPool, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wd_di import DeliveryReport
    from wd_di.testing import MockKafka

PATIENCE = 10.0
ONE_AT_ONCE = PoolSettings(deliver=False, size=1, warm=True, timeout_ms=0)


@pytest.fixture
def pool() -> Iterator[ProducerPool]:
    """A pool in memory with one producer, for which nobody waits."""
    with ProducerPool(ONE_AT_ONCE, name="pool") as pool:
        yield pool


@pytest.fixture
def spare() -> Iterator[ProducerPool]:
    """Another such pool."""
    with ProducerPool(ONE_AT_ONCE, name="spare") as pool:
        yield pool


@pytest.fixture
def taken(pool: ProducerPool, spare: ProducerPool) -> list[str]:
    """Which pools have delivered a notification."""
    names: list[str] = []
    for each in (pool, spare):
        each.observer.subscribe(MessageAcknowledged, lambda event: names.append(event.pool))
    return names


@pytest.fixture
def container(pool: ProducerPool, spare: ProducerPool) -> Iterator[Container]:
    """The application with those pools instead of its own."""
    container = Container()
    with container.notifications.override(pool), container.spare.override(spare):
        yield container


def perform(container: Container) -> DeliveryReport:
    """Run the job on a thread of its own, as a queue does, and without pauses."""
    with ThreadPoolExecutor(1) as queue:
        return queue.submit(container.job(pauses_ms=(0, 0)).perform, 123, "Welcome!").result(PATIENCE)


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return level and beginning of each line of the job's log."""
    return [(record.levelname, record.getMessage()[:27]) for record in caplog.records]


def test_a_notification_is_delivered(container: Container, taken: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """With a producer free, the job says where the notification is stored, and nothing else."""
    report = perform(container)

    assert ("notifications", 0) == (report.topic, report.offset)
    assert ["pool"] == taken
    assert [] == logged(caplog)


def test_a_busy_pool_is_tried_again(
    container: Container, pool: ProducerPool, taken: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A job that finds no producer takes the one that comes free before its next attempt."""
    busy, leave, left = threading.Event(), threading.Event(), threading.Event()

    def occupy() -> None:
        with pool.producer():
            busy.set()
            leave.wait(PATIENCE)
        left.set()

    def make_room(_: object) -> None:
        leave.set()
        left.wait(PATIENCE)

    pool.observer.subscribe("checkout.timed_out", make_room)
    with ThreadPoolExecutor(1) as executor:
        executor.submit(occupy)
        assert busy.wait(PATIENCE)
        perform(container)

    assert ["pool"] == taken
    assert [("WARNING", "pool: no producer free afte")] == logged(caplog)


def test_the_spare_pool_helps_out(
    container: Container, pool: ProducerPool, taken: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A pool that stays busy is left for the spare one."""
    with pool.producer():
        perform(container)

    assert ["spare"] == taken
    assert [("WARNING", "pool: no producer free afte")] * 3 + [("WARNING", "taking the spare pool")] == logged(caplog)


def test_without_any_producer_the_job_can_run_again(
    container: Container, pool: ProducerPool, spare: ProducerPool, taken: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """With both pools busy nothing is sent, and the queue is told so."""
    with pool.producer(), spare.producer(), pytest.raises(PoolTimeoutError, match="spare: no producer free"):
        perform(container)

    assert [] == taken
    assert "ERROR" not in dict(logged(caplog))


def test_a_failed_delivery_is_raised(mock_kafka: MockKafka, caplog: pytest.LogCaptureFixture) -> None:
    """A message that the cluster refuses is logged as an error and raised; no other pool is asked for it."""
    kafka = {"bootstrap_servers": mock_kafka.bootstrap_servers}
    settings = Settings.model_validate({"notifications": {"kafka": kafka}, "spare": {"kafka": kafka}})
    with running(Container(settings=providers.Object(settings))) as container:
        with pytest.raises(DeliveryError, match="too large"):
            container.job().perform(123, demo.TOO_LONG)
        container.job().perform(123, "short")
    [record] = read(mock_kafka.bootstrap_servers, "notifications", "read_uncommitted")

    assert [("ERROR", "notification for user 123: ")] == logged(caplog)
    assert (b"123", "short") == (record.key, json.loads(record.value or b"")["message"])


def test_the_demo_shows_all_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo runs on the mock, and says how each job ended."""
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)

    demo.main()
    idle, busy, refused = capsys.readouterr().out.splitlines()

    assert idle.startswith("idle pool: notifications[")
    assert busy.startswith("busy pool: notifications[")
    assert "at offset 1" in busy
    assert refused.startswith("refused message: DeliveryError: ")
