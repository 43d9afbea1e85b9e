"""What the application does: notify a user, in a job that some queue runs."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wd_di import PoolTimeoutError, ProduceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wd_di import DeliveryReport, ProducerPool

TOPIC = "notifications"

logger = logging.getLogger(__name__)


class NotificationJob:
    """Publishes one notification.

    Args:
        pool: Where to get a producer.
        spare: Where to get one if that pool has none in time.
        pauses_ms: Milliseconds to wait before each further attempt at the pool.
    """

    def __init__(self, pool: ProducerPool, spare: ProducerPool, pauses_ms: Sequence[int]) -> None:
        self._pool = pool
        self._spare = spare
        self._pauses_ms = pauses_ms

    def perform(self, user_id: int, message: str) -> DeliveryReport:
        """Publish the notification and return where the broker stored it.

        Raises:
            PoolTimeoutError: Not even the spare pool has a producer. Nothing was sent: the job can simply run again.
            ProduceError: It wasn't delivered, or there was no answer. Then the job, run again, may deliver it twice.
        """
        notification = _notification(user_id, message)
        try:
            return self._patiently(str(user_id), notification)
        except ProduceError as error:
            logger.error("notification for user %s: %s", user_id, error)  # noqa: TRY400  (the queue logs what is raised)
            raise

    def _patiently(self, key: str, notification: str) -> DeliveryReport:
        """Try the pool, again after each pause, then the spare one; a pool that timed out has sent nothing."""
        for pause_ms in (0, *self._pauses_ms):
            time.sleep(pause_ms / 1000)
            try:
                return _publish(self._pool, key, notification)
            except PoolTimeoutError as error:
                logger.warning("%s", error)
        logger.warning("taking the spare pool")
        return _publish(self._spare, key, notification)


def _publish(pool: ProducerPool, key: str, notification: str) -> DeliveryReport:
    with pool.producer() as producer:
        return producer.produce_sync(TOPIC, notification, key)


def _notification(user_id: int, message: str) -> str:
    timestamp = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"user_id": user_id, "message": message, "timestamp": timestamp})
