"""What the application is made of."""

from __future__ import annotations

from dependency_injector import containers, providers

from examples.departures.settings import Settings
from wd_di import Observer, PoolResource


class Container(containers.DeclarativeContainer):
    """A pool of transactional producers, its settings, and who listens to it."""

    wiring_config = containers.WiringConfiguration(modules=[".services"])

    settings = providers.ThreadSafeSingleton(Settings)
    topics = settings.provided.topics
    observer = providers.ThreadSafeSingleton(Observer)
    departures = PoolResource(settings.provided.departures, observer=observer)
