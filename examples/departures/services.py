"""What the application does: announce one flight."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from examples.departures.containers import Container
from wd_di import Transaction, inject, injected

if TYPE_CHECKING:
    from examples.departures.flights import Flight
    from examples.departures.settings import Topics


class FlightCancelledError(Exception):
    """The flight never left."""


@inject
def depart(
    flight: Flight,
    tx: Transaction = injected(Container.departures.transaction),
    topics: Topics = injected(Container.topics),
) -> None:
    """Announce the departure and the aircraft's movement: readers see both, or neither.

    Raises:
        FlightCancelledError: The flight has no departure time; both records are taken back.
    """
    tx.produce_async(topics.departures, _departure(flight), key=flight.name)
    tx.produce_async(topics.movements, _movement(flight), key=flight.aircraft)
    # Only now, as in life: what was sent already is aborted with the transaction.
    if flight.departed is None:
        raise FlightCancelledError(f"{flight.name} to {flight.dest} at {flight.scheduled} was cancelled")


def _departure(flight: Flight) -> str:
    return json.dumps(
        {
            "flight": flight.name,
            "date": flight.date,
            "origin": flight.origin,
            "dest": flight.dest,
            "scheduled": flight.scheduled,
            "departed": flight.departed,
            "delay_minutes": flight.delay,
        }
    )


def _movement(flight: Flight) -> str:
    return json.dumps({"aircraft": flight.aircraft, "flight": flight.name, "from": flight.origin, "to": flight.dest})
