"""What the application does: record what a user did, and notify one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from examples.two_clusters.containers import Container
from wd_di import Producer, inject, injected

if TYPE_CHECKING:
    from wd_di import Delivery, DeliveryReport

USER_EVENTS = "user_events"
PUSH_NOTIFICATIONS = "push_notifications"


@inject
def record(user_id: int, action: str, producer: Producer = injected(Container.analytics.producer)) -> DeliveryReport:
    """Record an action and wait until it is committed: on a transactional pool, one record is a transaction too."""
    return producer.produce_sync(USER_EVENTS, json.dumps({"user_id": user_id, "action": action}), key=str(user_id))


@inject
def notify(user_id: int, text: str, producer: Producer = injected(Container.notifications.producer)) -> Delivery:
    """Enqueue a notification."""
    return producer.produce_async(PUSH_NOTIFICATIONS, json.dumps({"user_id": user_id, "text": text}), key=str(user_id))
