# ruff: noqa: PT012  (what a transaction's block does is the case)
"""A partition whose registration with a transaction has no answer: an abort that forgot it would end the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient

from tests.faults.rules import Api
from tests.kafka.readers import values
from tests.pools import bounded, plain, pool, unique, until
from tests.programs import PATIENCE_S, hear, program, say
from wd_di import TransactionAbortedError

if TYPE_CHECKING:
    from tests.faults.proxy import FaultProxy
    from wd_di.testing import LocalKafka

CODE = """
import sys, time
from tests import internals
from tests.pools import pool, until
from wd_di import AbortTransaction, DeliveryTimeoutError, PoolSettings

servers, topic, name, case = sys.argv[1:]
ASKED_AGAIN_S = 2  # then the request without an answer fails
kafka = {"socket.timeout.ms": ASKED_AGAIN_S * 1000, "message.timeout.ms": 600 if case == "too old" else 10_000}

def lose(orders):
    with orders.transaction() as tx:
        print("begun", flush=True)
        input()
        if case == "given up":
            tx.produce_sync(topic, "lost", timeout_ms=500)
        delivery = tx.produce_async(topic, "lost")
        if case == "deleted":
            input()
            [client] = internals.clients(orders)
            until(lambda: client.topics.missing(topic))
            print("missing", flush=True)
        if case == "too old":
            delivery.exception()
        raise AbortTransaction

orders = pool(servers, size=1, name=name, kafka=kafka, close_timeout_ms=3_000).__enter__()
if case == "held at the close":
    tx = orders.transaction().__enter__()
    print("begun", flush=True)
    input()
    tx.produce_async(topic, "lost")
    input()
else:
    try:
        lose(orders)
    except DeliveryTimeoutError:
        pass
    if case != "deleted":
        with orders.transaction() as tx:
            tx.produce_async(topic, "next")
    if case != "closed":
        time.sleep(ASKED_AGAIN_S + 1)  # outlive the request: nothing is to be seen of its end
print("closing", flush=True)
orders.close()
print("closed", flush=True)
"""


@pytest.mark.parametrize("warm", [True, False], ids=["closed", "lazy"])
def test_what_is_left_open_is_ended_by_a_successor(
    proxied_kafka: LocalKafka, proxy: FaultProxy, proxied_topic: str, *, warm: bool
) -> None:
    """Readers wait for no time-out of the broker's, though nobody borrows again."""
    servers, name = proxied_kafka.bootstrap_servers, unique("open")
    with pool(servers, size=1, name=name, warm=warm, commit_timeout_ms=1_000) as orders:
        with pytest.raises(TransactionAbortedError, match="1 of 2 records"), orders.transaction() as tx:
            tx.produce_sync(proxied_topic, "never")
            proxy.on(Api.PRODUCE, "swallow request", client=name)
            tx.produce_async(proxied_topic, "nor this")
        if warm:
            orders.close()
        with plain(servers, size=1) as others, others.producer() as producer:
            producer.produce_sync(proxied_topic, "seen")
        with bounded(5_000):
            until(lambda: ["seen"] == values(servers, proxied_topic))


def test_no_topic_that_is_gone_ends_a_process(proxied_kafka: LocalKafka, proxy: FaultProxy, proxied_topic: str) -> None:
    """One may be deleted whose partition is about to be registered."""
    servers, name = proxied_kafka.bootstrap_servers, unique("registering")
    with program(CODE, servers, proxied_topic, name, "deleted") as process:
        assert "begun" == hear(process)
        rule = proxy.on(Api.ADD_PARTITIONS_TO_TXN, "swallow reply", client=name)
        say(process)
        rule.wait()
        admin = AdminClient({"bootstrap.servers": servers})
        admin.delete_topics([proxied_topic])[proxied_topic].result(10)
        say(process)

        assert ["missing", "closing", "closed"] == [hear(process) for _ in range(3)]
        assert 0 == process.wait(PATIENCE_S)


@pytest.mark.parametrize("case", ["given up", "aborted at once", "too old", "closed", "held at the close"])
def test_an_abort_ends_no_process(proxied_kafka: LocalKafka, proxy: FaultProxy, proxied_topic: str, case: str) -> None:
    """The answer may be lost, and the transaction be aborted: the process lives on, and so does the pool."""
    name = unique("registering")
    with program(CODE, proxied_kafka.bootstrap_servers, proxied_topic, name, case) as process:
        assert "begun" == hear(process)
        rule = proxy.on(Api.ADD_PARTITIONS_TO_TXN, "swallow reply", client=name)
        say(process)
        rule.wait()
        say(process)

        assert ["closing", "closed"] == [hear(process), hear(process)]
        assert 0 == process.wait(PATIENCE_S)
    seen = values(proxied_kafka.bootstrap_servers, proxied_topic)
    assert (["next"] if case != "held at the close" else []) == seen
