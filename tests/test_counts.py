"""How many Python calls the hot paths take: figures that no noise can blur, so that a slower shape shows at once."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from dependency_injector import containers

import wd_di
from tests.scripted import make_pool, plain_pool
from wd_di import PoolResource, ProducerPool, Transaction, inject, injected

OURS = str(Path(wd_di.__file__).parent)
IDS = {"deliver": False, "transactional_id": "c-{pool}-{index}-{pid}"}


class Container(containers.DeclarativeContainer):
    """A pool in memory."""

    orders = PoolResource(IDS)


@inject
def empty(tx: Transaction = injected(Container.orders.transaction)) -> None:
    """A transaction that sends nothing."""


def calls(fn: Callable[[], object]) -> Counter[str]:
    """The Python calls of ``fn``, by name, without its own; what is done once has been done before."""
    seen: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            seen[f"{frame.f_code.co_filename.removeprefix(OURS)}:{frame.f_code.co_qualname}"] += 1

    for _ in range(3):
        fn()
    gc.disable()  # the garbage of earlier tests calls back when it is collected
    sys.setprofile(note)
    try:
        fn()
    finally:
        sys.setprofile(None)
        gc.enable()
    seen.subtract([f"{fn.__code__.co_filename.removeprefix(OURS)}:{fn.__code__.co_qualname}"])
    return +seen


@pytest.fixture(autouse=True)
def _no_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where trio is loaded, as it is by plugins of pytest, each way in asks it whether it runs."""
    monkeypatch.delitem(sys.modules, "trio.lowlevel", raising=False)


@pytest.fixture
def pool() -> Iterator[ProducerPool]:
    """An open plain pool."""
    with plain_pool() as pool:
        yield pool


def test_an_idle_checkout_and_return(pool: ProducerPool) -> None:
    """Taking and giving back an idle producer is a dozen calls."""

    def checkout() -> None:
        with pool.producer():
            pass

    made = calls(checkout)

    assert made.total() <= 12, made


def test_produce_sync_in_an_open_checkout(pool: ProducerPool) -> None:
    """A record and its answer, the in-memory client included."""
    with pool.producer() as producer:
        made = calls(lambda: producer.produce_sync("orders", b"value"))

    assert made.total() <= 45, made


def test_produce_async_in_an_open_checkout(pool: ProducerPool) -> None:
    """A record without waiting for its answer."""
    with pool.producer() as producer:
        made = calls(lambda: producer.produce_async("orders", b"value"))

    assert made.total() <= 18, made


def test_an_empty_transaction() -> None:
    """What is needed by a first record only isn't made."""

    def transaction() -> None:
        with pool.transaction():
            pass

    with make_pool() as pool:
        made = calls(transaction)

    assert made.total() <= 44, made


def test_an_injected_empty_transaction() -> None:
    """With all that the container does for it."""
    container = Container()
    container.wire(modules=[__name__])
    try:
        made = calls(lambda: empty())  # noqa: PLW0108  (injected functions are looked up at the call)
    finally:
        container.shutdown_resources()
        container.unwire()

    assert made.total() <= 55, made
