"""What the brokers are asked in between: for topics whose records have no answer, and whether they are back."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from wd_di._concurrency.workers import Workers
from wd_di._kafka.librdkafka import KafkaClient
from wd_di.errors import DeliveryError
from wd_di.events import ErrorOccurred, log_error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wd_di._kafka.lines import Lines
    from wd_di._records.connection import Connection
    from wd_di.events import Observer

ASKERS_MAX = 4
TOLD_EVERY = 10.0
"""Seconds between two events about one missing topic."""


class Asker:
    """Asks on threads of its own, since a broker may take its time."""

    def __init__(self, pool: str, observer: Observer) -> None:
        self._pool = pool
        self._observer = observer
        self._workers = Workers(f"wd_di-{pool}-topic", ASKERS_MAX)
        self._told: dict[str, float] = {}
        self._telling = threading.RLock()

    def ask_for_topics(self, connection: Connection) -> None:
        """Have the brokers asked for what is due."""
        topics = connection.topics
        for topic in topics.due():
            topics.asking.add(topic)
            self._workers.submit(partial(self._ask, connection, topic))

    def look_for_brokers(self, lines: Iterable[Lines], connections: Iterable[Connection]) -> None:
        """Have a producer ask which brokers there are, where one is away: nothing else tells of its return."""
        away = [each for each in lines if each.away]
        clients = [each.client for each in connections] if away else []
        for each in away:
            fitting = [client for client in clients if isinstance(client, KafkaClient) and client.lines is each]
            # Better one that reaches a broker.
            client = min(fitting, key=lambda client: client.cut_off, default=None)
            if client is not None and (seconds := each.due()) is not None:
                self._workers.submit(partial(_look, each, client, seconds))

    def _ask(self, connection: Connection, topic: str) -> None:
        """Ask the brokers for a topic whose records have no answer, and tell of it if they don't know it."""
        client, topics = connection.client, connection.topics
        try:
            answered = client.ask(topic, topics.slice)
            if answered and topics.missing(topic):
                self._tell_missing(connection.index, topic, topics.hint(topic))
            topics.asked(topic, answered=answered or client.last_error is not None)
        finally:
            topics.asking.discard(topic)

    def _tell_missing(self, index: int, topic: str, hint: str) -> None:
        now = time.monotonic()
        with self._telling:
            if now - self._told.get(topic, -TOLD_EVERY) < TOLD_EVERY:
                return
            self._told = {each: at for each, at in self._told.items() if now - at < TOLD_EVERY} | {topic: now}
        error = DeliveryError(f"records for {topic!r} have no answer{hint}")
        log_error(f"{self._pool}.topic.{topic}", f"{self._pool}: a topic may be misspelt", error)
        self._observer.emit(ErrorOccurred, pool=self._pool, index=index, where="topic", error=error)


def _look(lines: Lines, client: KafkaClient, seconds: float) -> None:
    brokers = None
    try:
        brokers = client.brokers(seconds)
    finally:
        lines.looked(brokers)
