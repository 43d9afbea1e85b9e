"""What is sent and told when nobody has closed a pool; tests/kafka has the same with a real broker."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.scripted import plain_pool
from wd_di import Event, Observer, PoolSettings, ProducerPool
from wd_di.pool import _close_all
from wd_di.testing import MockKafka


def test_what_a_forgotten_pool_owes_is_sent(mock_kafka: MockKafka) -> None:
    """A pool that is collected unclosed warns, and still sends what was produced, whatever linger.ms says."""
    kafka = {"bootstrap.servers": mock_kafka.bootstrap_servers, "linger.ms": 60_000}
    pool = ProducerPool(PoolSettings.model_validate({"kafka": kafka, "size": 1}), name="forgotten")
    with pool.producer() as producer:
        delivery = producer.produce_async("topic", "value")
    with pytest.warns(ResourceWarning, match="^pool 'forgotten' was never closed"):
        del pool

    assert "topic" == delivery.result(10_000).topic


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 warns of just this
def test_a_child_tells_nothing_of_a_pool_that_it_has_not_used() -> None:
    """A child's end closes what the child has used; its parent's pools are none of its business."""
    told: list[Event] = []
    observer = Observer()
    with plain_pool(name="unused", observer=observer), plain_pool(name="used", observer=observer) as used:
        observer.subscribe(Event, told.append)
        child = os.fork()
        if child == 0:
            try:
                with used.producer():
                    pass
                told.clear()
                _close_all()
                names = {event.pool for event in told}  # type: ignore[attr-defined]
                os._exit(0 if names == {"used"} else 1)
            finally:
                os._exit(2)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_multiprocessing_is_not_imported_for_it() -> None:
    """A program without child processes doesn't pay for theirs."""
    code = "import sys, wd_di.pool; sys.exit('multiprocessing.util' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
