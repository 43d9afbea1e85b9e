"""The command line: 10,000 events from 8 threads."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from dependency_injector import providers

from examples.brokers import bootstrap_servers
from examples.events_publishing.containers import Container, Settings
from examples.events_publishing.services import publish
from wd_di import Delivery, MessageFailed, running

EVENTS = 10_000
THREADS = 8


def main() -> None:
    """Publish, close, and say what became of the events."""
    lost: list[MessageFailed] = []
    with bootstrap_servers() as servers:
        settings = Settings.model_validate({"events": {"kafka": {"bootstrap_servers": servers}}})
        container = Container(settings=providers.Object(settings))
        container.observer().subscribe(MessageFailed, lost.append)
        started = time.monotonic()
        with running(container), ThreadPoolExecutor(THREADS) as executor:
            deliveries = list(executor.map(_publish_one, range(EVENTS)))
        took = time.monotonic() - started
    delivered = sum(delivery.outcome == "delivered" for delivery in deliveries)
    print(f"{delivered:,} of {EVENTS:,} events from {THREADS} threads delivered in {took:.1f} s, {len(lost)} lost")
    print(f"closed: {container.events.report}")


def _publish_one(number: int) -> Delivery:
    if number % 2:
        return publish("order_placed", {"order_id": number, "amount": 99.99})
    return publish("user_created", {"id": number, "name": f"user {number}"})


if __name__ == "__main__":
    main()
