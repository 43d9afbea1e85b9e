"""A partition whose registration with a transaction has no answer: an abort that forgot it would end the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.rules import Api
from tests.kafka.readers import values
from tests.pools import unique
from tests.programs import PATIENCE_S, hear, program, say

if TYPE_CHECKING:
    from tests.faults.proxy import FaultProxy
    from wd_di.testing import LocalKafka

CODE = """
import sys, time
from tests.pools import pool
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
    with orders.transaction() as tx:
        tx.produce_async(topic, "next")
    if case != "closed":
        time.sleep(ASKED_AGAIN_S + 1)
print("closing", flush=True)
orders.close()
print("closed", flush=True)
"""


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
