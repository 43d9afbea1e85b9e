"""Clients as a pool has them, without a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wd_di._concurrency.workers import Workers
from wd_di._kafka.memory import MemoryBroker
from wd_di._records.connection import Connection, Services
from wd_di.events import Observer

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._kafka.port import Answers


def connected(connect: Callable[[Answers], Any]) -> Any:
    """The client that ``connect`` makes; its ``connection`` is an attribute of it."""
    services = Services(
        Observer(),
        nudge=lambda: None,
        jobs=Workers("j", 1),
        callbacks=Workers("w", 1),
        errands=Workers("e", 1),
        questions=Workers("q", 1),
        closing=lambda: False,
        rivals=str,
    )
    connection = Connection("orders", 0, services, connect, MemoryBroker().read)
    client: Any = connection.client
    client.connection = connection
    return client
