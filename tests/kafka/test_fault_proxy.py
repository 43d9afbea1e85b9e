"""A pool behind the fault proxy: what it asks of the broker is known by its API key."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.rules import Action, Api
from tests.kafka.readers import values
from tests.pools import Recorder, plain, pool

if TYPE_CHECKING:
    from tests.faults.proxy import FaultProxy
    from wd_di.testing import LocalKafka

NAME = "faulty"
LATE_MS = 1_500
"""How late a request is that was sent before others which aren't."""
SPARE_S = 0.5


def asked(proxy: FaultProxy, api: Api) -> int:
    """Return how often the broker was asked for it."""
    return sum(count for (_, key), count in proxy.requests.items() if key == api)


def test_a_transaction_is_three_requests(proxy: FaultProxy, proxied_kafka: LocalKafka, proxied_topic: str) -> None:
    """A transaction of one record asks for its partition, sends it and ends, all of it through the proxy."""
    steps = (Api.ADD_PARTITIONS_TO_TXN, Api.PRODUCE, Api.END_TXN)
    with pool(proxied_kafka.bootstrap_servers, size=1) as orders:
        before = [asked(proxy, api) for api in steps]
        with orders.transaction() as tx:
            tx.produce_async(proxied_topic, "a")
        after = [asked(proxy, api) for api in steps]

    assert [1, 1, 1] == [now - then for now, then in zip(after, before, strict=True)]
    assert ["a"] == values(proxied_kafka.bootstrap_servers, proxied_topic)


@pytest.mark.parametrize(
    ("api", "action"),
    [
        (Api.PRODUCE, "cut after"),
        (Api.ADD_PARTITIONS_TO_TXN, "cut before"),
        (Api.END_TXN, "cut after"),
        (Api.END_TXN, "delay reply"),
    ],
)
def test_what_librdkafka_asks_again_harms_nobody(
    proxy: FaultProxy, proxied_kafka: LocalKafka, proxied_topic: str, api: Api, action: Action
) -> None:
    """A transaction whose request is late, or lost with its connection, is asked again: committed, and there once."""
    with pool(proxied_kafka.bootstrap_servers, size=1, name=NAME) as orders:
        with orders.transaction() as tx:
            tx.produce_async(proxied_topic, "before")
        rule = proxy.on(api, action, ms=100, client=NAME)
        with orders.transaction() as tx:
            tx.produce_async(proxied_topic, "after")

    assert 1 == rule.hits
    assert ["after", "before"] == values(proxied_kafka.bootstrap_servers, proxied_topic)


def test_a_record_that_is_sent_again_is_there_once(
    proxy: FaultProxy, proxied_kafka: LocalKafka, proxied_topic: str
) -> None:
    """A plain pool's record whose answer was lost with the connection is sent again, and the broker knows it."""
    idempotent = {"enable.idempotence": True}
    with plain(proxied_kafka.bootstrap_servers, size=1, name=NAME, kafka=idempotent) as clicks:
        rule = proxy.on(Api.PRODUCE, "cut after", client=NAME)
        with clicks.producer() as producer:
            producer.produce_sync(proxied_topic, "once")

    assert 1 == rule.hits
    assert ["once"] == values(proxied_kafka.bootstrap_servers, proxied_topic)


def test_a_reload_leaves_a_pending_init_alone(proxy: FaultProxy, proxied_kafka: LocalKafka, proxied_topic: str) -> None:
    """A question for the id that is under way would fence a producer that is made meanwhile: it is waited for."""
    recorder = Recorder()
    settings = {"size": 1, "name": NAME, "open_policy": "background", "observer": recorder}
    rule = proxy.on(Api.INIT_PRODUCER_ID, "delay request", ms=LATE_MS, client=NAME)
    with pool(proxied_kafka.bootstrap_servers, **settings) as orders:
        rule.wait()
        late = time.monotonic() + LATE_MS / 1000
        orders.reload()
        count = 0
        while time.monotonic() < late + SPARE_S:
            with orders.transaction() as tx:
                tx.produce_async(proxied_topic, str(count))
            count += 1

        assert 1 == orders.stats().generation
    assert [] == recorder.retirements()
    assert count == len(values(proxied_kafka.bootstrap_servers, proxied_topic))
