"""What holds for every test."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests import secured
from tests.issuer import Issuer
from tests.scripted import Script
from wd_di import ProducerPool
from wd_di._kafka import interrupts
from wd_di.testing import LocalKafka

# A shell without job control starts what it runs in the background with SIGINT ignored; Python then makes no
# KeyboardInterrupt of it, for which some tests wait.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Earlier tests leave raw Kafka clients in reference cycles. A forked child that collects one of them destroys a handle
# whose threads stayed in the parent, which hangs or crashes (librdkafka#4869); wd_di's own clients are pinned there.
os.register_at_fork(before=gc.collect)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """What the clients of pools in memory do on cue."""
    return Script.install(monkeypatch)


@pytest.fixture
def kept() -> Iterator[Callable[[ProducerPool], ProducerPool]]:
    """Closes a pool at the end of the test, however that ends."""
    with ExitStack() as pools:

        def keep(pool: ProducerPool) -> ProducerPool:
            pools.callback(pool.close, timeout_ms=0, force=True)
            return pool

        yield keep


@pytest.fixture(scope="session")
def secured_kafka() -> Iterator[LocalKafka]:
    """A broker with security, where everybody has the rights that a test gives."""
    with secured.secured() as kafka:
        yield kafka


@pytest.fixture(scope="session")
def _strict() -> Iterator[tuple[LocalKafka, Issuer]]:
    with secured.strict() as both:
        yield both


@pytest.fixture
def strict(_strict: tuple[LocalKafka, Issuer]) -> LocalKafka:
    """A broker where something is wrong with most ways in."""
    return _strict[0]


@pytest.fixture
def issuer(_strict: tuple[LocalKafka, Issuer]) -> Issuer:
    """Who issues the tokens for that one."""
    return _strict[1]


@pytest.fixture(autouse=True)
def _nothing_held() -> Iterator[None]:
    """A test takes what has come up inside of a callback: a later one's call would raise it."""
    yield
    left = list(interrupts.held.values())
    interrupts.held.clear()
    assert [] == left
