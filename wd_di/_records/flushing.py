"""How a client is flushed for those who wait on an event loop, which mustn't."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from wd_di.errors import WdDiError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wd_di._concurrency.workers import Workers
    from wd_di._records.connection import Connection
    from wd_di._records.delivery import Delivery


class Flushing:
    """Keeps one worker flushing for as long as anybody waits, so that ``linger.ms`` is skipped.

    Args:
        jobs: The workers.
        connection: Whose client it is.
        seconds: How long one flush takes at most: short, for flush also waits for records that nobody waits for.
    """

    __slots__ = ("_awaited", "_connection", "_gate", "_jobs", "_running", "_seconds")

    def __init__(self, jobs: Workers, connection: Connection, seconds: float) -> None:
        self._jobs = jobs
        self._connection = connection
        self._seconds = seconds
        self._gate = threading.RLock()  # re-entrant, for a listener may wait, too
        self._awaited: set[Delivery] = set()
        self._running = False

    def begin(self, pending: Iterable[Delivery]) -> None:
        """Flush until these have their answers, or nobody waits for them."""
        with self._gate:
            self._awaited.update(pending)
            if self._running:
                return
            self._running = True
        self._jobs.submit(self._run)

    def end(self, pending: Iterable[Delivery]) -> None:
        """Nobody waits for these any more."""
        with self._gate:
            self._awaited.difference_update(pending)

    def _run(self) -> None:
        try:
            while self._goes_on():
                self._connection.serve(self._connection.client.flush, self._seconds)
        except WdDiError:  # closed by force; those who wait hear of it from their deliveries
            with self._gate:
                self._running = False

    def _goes_on(self) -> bool:
        with self._gate:
            self._awaited = {delivery for delivery in self._awaited if not delivery.done()}
            self._running = bool(self._awaited)
            return self._running
