"""What is sent and told when nobody has closed a pool; tests/kafka has the same with a real broker."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.pools import plain
from tests.scripted import plain_pool
from wd_di import Event, Observer
from wd_di.pool import close_all
from wd_di.testing import MockKafka


def test_what_a_forgotten_pool_owes_is_sent(mock_kafka: MockKafka) -> None:
    """A pool that is collected unclosed warns, and still sends what was produced, whatever linger.ms says."""
    pool = plain(mock_kafka.bootstrap_servers, name="forgotten", size=1, kafka={"linger.ms": 60_000})
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
                close_all()
                names = {event.pool for event in told}  # type: ignore[attr-defined]
                os._exit(0 if names == {"used"} else 1)
            finally:
                os._exit(2)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_multiprocessing_is_not_imported_for_it() -> None:
    """A program without child processes doesn't pay for theirs."""
    code = "import sys, wd_di.pool; sys.exit('multiprocessing.util' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


HELD = {
    "a handle": "held = pool.producer().__enter__()",
    "a scope": "held = pool.producer(); held.__enter__()",
    "a stack": "held = contextlib.ExitStack(); held.enter_context(pool.producer())",
    "a generator": """
def work():
    with pool.producer() as producer:
        yield producer

held = work()
next(held)
""",
    "a transaction": "held = pool.transaction().__enter__(); held.produce_async('t', 'v')",
    "a generator's transaction": """
def work():
    with pool.transaction() as tx:
        tx.produce_async("t", "v")
        yield tx

held = work()
next(held)
""",
    "a circle": "held = [pool.producer().__enter__()]; held.append(held)",
}


@pytest.mark.parametrize("closing", ["", "pool.close(timeout_ms=50)", "pool.close(timeout_ms=50, force=True)"])
@pytest.mark.parametrize("held", HELD)
def test_a_process_ends_whatever_is_held(held: str, closing: str) -> None:
    """What the interpreter drops at its very end waits for no thread that never begins, and complains of nothing."""
    program = f"""
import contextlib
import wd_di

pool = wd_di.ProducerPool({{"size": 1, "deliver": False, "transactional_id": "t-{{index}}", "instance": "7"}})
pool.open()
{HELD[held]}
{closing}
print("done")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)

    assert (0, "done\n", "") == (ended.returncode, ended.stdout, ended.stderr)


def test_what_a_close_left_with_its_holder_ends_with_the_process() -> None:
    """Nobody comes back any more: a transaction that stayed open would block readers until its time-out."""
    program = """
import wd_di

pool = wd_di.ProducerPool({"size": 1, "deliver": False, "transactional_id": "t-{index}", "instance": "7"})
pool.observer.subscribe("producer.closed", lambda event: print("closed", event.index))
held = pool.transaction().__enter__()
held.produce_async("t", "v")
print("held", len(pool.close(timeout_ms=50).held))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)

    assert (0, "held 1\nclosed 0\n", "") == (ended.returncode, ended.stdout, ended.stderr)
