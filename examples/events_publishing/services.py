"""What the application does: publish an event."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from examples.events_publishing.containers import Container
from wd_di import Producer, inject, injected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wd_di import Delivery


@inject
def publish(
    event_type: str, data: Mapping[str, object], producer: Producer = injected(Container.events.producer)
) -> Delivery:
    """Enqueue an event for the topic of its type, and return at once.

    Whoever has to know what became of it waits for the delivery; ``message.failed`` tells of each that was lost.
    """
    headers = {"timestamp": str(int(time.time())), "type": event_type}
    return producer.produce_async(f"events.{event_type}", json.dumps(data), headers=headers)
