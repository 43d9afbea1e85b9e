"""Pools for tests on brokers, real ones and the mock: ids that nobody else has, and a list of what happened."""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from wd_di import Configure, Event, KafkaSettings, Observer, PoolSettings, ProducerPool, ProducerRetired

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


T = TypeVar("T")


def unique(prefix: str) -> str:
    """Return a name that no other test has."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def settings(servers: str, *, kafka: Mapping[str, object] | None = None, **options: Any) -> PoolSettings:
    """Return settings of a transactional pool, unless the options say otherwise."""
    options.setdefault("transactional_id", "wd_di-{instance}-{index}")
    options.setdefault("instance", uuid.uuid4().hex[:8])
    return PoolSettings(kafka=KafkaSettings.of({"bootstrap.servers": servers, **(kafka or {})}), **options)


def pool(
    servers: str,
    *,
    name: str = "orders",
    observer: Observer | None = None,
    configure: Configure | None = None,
    **options: Any,
) -> ProducerPool:
    """Return a pool that isn't open yet."""
    return ProducerPool(settings(servers, **options), name=name, observer=observer, configure=configure)


def plain(servers: str, *, name: str = "clicks", **options: Any) -> ProducerPool:
    """Return a pool without transactions."""
    return pool(servers, name=name, transactional_id=None, **options)


class Recorder(Observer):
    """An observer that keeps every event."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.subscribe(Event, self.events.append)

    def of(self, kind: type[Event]) -> list[Any]:
        """Return the events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def retirements(self) -> list[str]:
        """Why producers were retired so far; not those of a request that a slow broker may have been sent twice."""
        return [event.reason for event in self.of(ProducerRetired) if event.reason != "sent twice"]


@contextmanager
def bounded(deadline_ms: int) -> Iterator[None]:
    """Assert that the block ends within the larger of 10 % and 250 ms of its deadline."""
    started = time.monotonic()
    yield
    took = (time.monotonic() - started) * 1000

    assert took <= deadline_ms + max(0.1 * deadline_ms, 250), f"{took:.0f} ms with a deadline of {deadline_ms} ms"


def until(happened: Callable[[], T], *, timeout_ms: int = 20_000) -> T:
    """Return what ``happened()`` gives as soon as that is true.

    Raises:
        TimeoutError: It wasn't in time.
    """
    deadline = time.monotonic() + timeout_ms / 1000
    while not (value := happened()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{happened} didn't come true within {timeout_ms} ms")
        time.sleep(0.01)
    return value
