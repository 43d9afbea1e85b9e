"""What the brokers are asked before a call can send, and for how long the call waits for that."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from wd_di._concurrency.deadline import Deadline
from wd_di._concurrency.errands import Errand

if TYPE_CHECKING:
    from wd_di._concurrency.workers import Workers
    from wd_di._kafka.port import Client


class Questions:
    """The questions of all who send by one client.

    A worker puts them, for librdkafka looks neither for Ctrl-C nor for a cancellation before an answer has come.
    Whoever called waits for no longer than its own deadline, whatever others who ask have.

    Args:
        client: By which the brokers are asked.
        workers: Who asks.
    """

    __slots__ = ("_client", "_gate", "_reaching", "_until", "_workers")

    def __init__(self, client: Client, workers: Workers) -> None:
        self._client = client
        self._workers = workers
        self._gate = threading.RLock()  # re-entrant, for a signal's handler may send, too
        self._reaching: Errand[None] | None = None
        self._until = Deadline(0)

    def reach(self, deadline: Deadline) -> None:
        """Wait until a broker answers, or there is no use in waiting."""
        self._until_reached(deadline).known(deadline.left)

    async def reach_async(self, deadline: Deadline) -> None:
        """Wait as :meth:`reach` does, while the loop goes on."""
        await self._until_reached(deadline).known_async(deadline.left)

    def renew(self, topic: str, partition: int, deadline: Deadline) -> bool:
        """Ask for a topic or partition that the client doesn't know; whether it is there now."""
        errand = self._renewal(topic, partition, deadline)
        return errand.known(deadline.left) and errand.get()

    async def renew_async(self, topic: str, partition: int, deadline: Deadline) -> bool:
        """Ask as :meth:`renew` does, while the loop goes on."""
        errand = self._renewal(topic, partition, deadline)
        return await errand.known_async(deadline.left) and errand.get()

    def _until_reached(self, deadline: Deadline) -> Errand[None]:
        """Return what is under way for all, for as long as the most patient of them has time."""
        with self._gate:
            self._until.extend(deadline)
            errand = self._reaching
            if errand is None or errand.over:
                errand = self._reaching = Errand(self._reach)
                errand.run_on(self._workers)
            return errand

    def _reach(self) -> None:
        while True:
            pointless = self._client.reach(self._until)
            with self._gate:  # whoever comes later begins anew
                if pointless or self._until.passed:
                    self._reaching = None
                    return

    def _renewal(self, topic: str, partition: int, deadline: Deadline) -> Errand[bool]:
        errand = Errand(partial(self._client.renew, topic, partition, deadline))
        errand.run_on(self._workers)
        return errand
