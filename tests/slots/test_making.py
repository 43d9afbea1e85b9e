"""How long a producer is waited for whose brokers don't answer."""

from __future__ import annotations

import threading

import pytest

from tests.pools import bounded, pool, settings, unique, until
from tests.scripted import PATIENCE
from wd_di import ProducerPool
from wd_di._kafka.librdkafka import KafkaClient
from wd_di._slots import making
from wd_di.testing import MockKafka

SOON_MS = 2_000


def background(servers: str, word: str) -> ProducerPool:
    """A transactional pool that goes on connecting."""
    return pool(servers, size=1, transactional_id=word, open_policy="background")


def lead_away(orders: ProducerPool, servers: str, word: str) -> None:
    """Give the pool other brokers, and see that it works with them at once."""
    with bounded(SOON_MS):
        orders.reload(settings(servers, size=1, transactional_id=word, open_policy="background"), timeout_ms=SOON_MS)
        with orders.transaction() as tx:
            tx.produce_sync("t", "1")


@pytest.fixture
def word() -> str:
    """An id that no other test has."""
    return unique("{instance}")


def test_a_reload_leads_away_from_dead_brokers(dead: str, mock_kafka: MockKafka, word: str) -> None:
    """A producer whose brokers never answered, or can't be reached, is waited for by no reload."""
    with background(dead, word) as orders:
        until(lambda: orders.stats().creating)
        lead_away(orders, mock_kafka.bootstrap_servers, word)


def test_a_reload_leads_away_from_a_broker_that_never_answered(
    silent: str, mock_kafka: MockKafka, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one that wants its id all the same: who never answered wasn't asked for it."""
    begun = threading.Event()
    init = KafkaClient.init

    def noted(client: KafkaClient, seconds: float) -> None:
        begun.set()
        init(client, seconds)

    monkeypatch.setattr(making, "ID_PATIENCE", 0.2)
    monkeypatch.setattr(KafkaClient, "init", noted)
    with background(silent, word) as orders:
        assert begun.wait(PATIENCE)
        lead_away(orders, mock_kafka.bootstrap_servers, word)
