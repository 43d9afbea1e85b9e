"""Two pools on two clusters: neither reaches the other's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient
from dependency_injector import providers

from examples.two_clusters import __main__ as demo
from examples.two_clusters import services
from examples.two_clusters.containers import Container, Settings
from examples.two_clusters.services import notify, record
from tests.kafka.clusters import started
from tests.kafka.readers import read
from tests.pools import unique
from wd_di import KafkaSettings, MessageAcknowledged, PoolSettings, ProducerPool, TransactionError, running
from wd_di.testing import LocalKafka, MockKafka

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wd_di.testing import Cluster

NOWHERE = KafkaSettings(bootstrap_servers="127.0.0.1:1")
IN_MEMORY_IDS = PoolSettings(deliver=False, size=1, transactional_id="analytics-{host}")


@pytest.fixture(scope="module")
def other_kafka() -> Iterator[LocalKafka]:
    """A second real cluster."""
    with started() as kafka:
        yield kafka


@pytest.fixture
def topics(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Names that no other test has, instead of the application's own."""
    user_events, push_notifications = unique("user_events"), unique("push_notifications")
    monkeypatch.setattr(services, "USER_EVENTS", user_events)
    monkeypatch.setattr(services, "PUSH_NOTIFICATIONS", push_notifications)
    return user_events, push_notifications


def known(servers: str, topics: tuple[str, str]) -> list[str]:
    """Return which of the topics a cluster has."""
    admin = AdminClient({"bootstrap.servers": servers})
    return [topic for topic in topics if topic in admin.list_topics(timeout=10).topics]


def test_each_pool_reaches_its_own_cluster(
    local_kafka: Cluster, other_kafka: LocalKafka, topics: tuple[str, str]
) -> None:
    """Each topic exists on one of the two real clusters only, and holds what was sent there."""
    analytics, notifications = local_kafka.bootstrap_servers, other_kafka.bootstrap_servers
    user_events, push_notifications = topics
    local_kafka.create_topic(user_events)
    other_kafka.create_topic(push_notifications)

    demo.run(analytics, notifications)

    assert [user_events] == known(analytics, topics)
    assert [push_notifications] == known(notifications, topics)
    [event], [notification] = read(analytics, user_events), read(notifications, push_notifications)
    assert {"user_id": 7, "action": "signed up"} == json.loads(event.value or b"")
    assert {"user_id": 7, "text": "Welcome!"} == json.loads(notification.value or b"")


def test_a_dead_cluster_disturbs_only_its_own_pool(topics: tuple[str, str]) -> None:
    """Notifications go on while the analytics cluster is away."""
    with MockKafka() as analytics, MockKafka() as notifications:
        settings = Settings.model_validate(
            {
                "analytics": {
                    "size": 1,
                    "commit_timeout_ms": 300,
                    "abort_timeout_ms": 100,
                    "kafka": {"bootstrap_servers": analytics.bootstrap_servers, "log_level": 0},
                },
                "notifications": {"kafka": {"bootstrap_servers": notifications.bootstrap_servers}},
            }
        )
        with running(Container(settings=providers.Object(settings))) as container:
            record(1, "signed up")
            analytics.broker_down(1)
            with pytest.raises(TransactionError, match="analytics"):
                record(2, "signed up")
            delivered = notify(2, "Welcome!").result()
            analytics.broker_up(1)
            stats = container.notifications().stats()

    assert topics[1] == delivered.topic
    assert 0 == stats.totals.retired


def test_one_pool_can_be_overridden_alone(topics: tuple[str, str]) -> None:
    """A fake for one pool leaves the other as it is."""
    settings = Settings(analytics=IN_MEMORY_IDS, notifications=PoolSettings(kafka=NOWHERE))
    seen: list[tuple[str, str]] = []
    with ProducerPool(PoolSettings(deliver=False), name="fake") as fake:
        container = Container(settings=providers.Object(settings))
        with container.notifications.override(fake):
            for pool in (fake, container.analytics()):
                pool.observer.subscribe(MessageAcknowledged, lambda event: seen.append((event.pool, event.topic)))
            record(7, "signed up")
            notify(7, "Welcome!").result()
            container.shutdown_resources()
        container.unwire()

    assert [("analytics", topics[0]), ("fake", topics[1])] == seen


def test_the_demo_shows_both_clusters(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo runs on two mocks, and says which topics each of them has."""
    for variable in ("ANALYTICS__KAFKA__BOOTSTRAP_SERVERS", "NOTIFICATIONS__KAFKA__BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(variable, raising=False)

    demo.main()

    assert (
        "the analytics cluster has user_events\nthe notifications cluster has push_notifications\n"
        == capsys.readouterr().out
    )
