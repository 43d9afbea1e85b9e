"""What the application is made of."""

from __future__ import annotations

from dependency_injector import containers, providers
from pydantic_settings import SettingsConfigDict

import wd_di
from wd_di import KafkaSettings, Observer, PoolResource, PoolSettings


class Settings(wd_di.Settings):
    """``EVENTS__SHARE=8`` or ``EVENTS__KAFKA__LINGER_MS=20`` in the environment change one field."""

    model_config = SettingsConfigDict(nested_model_default_partial_update=True)

    events: PoolSettings = PoolSettings(
        # Events are only enqueued, so threads can use one producer at once, and its batches are fuller than those of
        # twenty.
        size=2,
        share=32,
        timeout_ms=10_000,
        kafka=KafkaSettings(linger_ms=5, compression_type="lz4"),
    )


class Container(containers.DeclarativeContainer):
    """A pool of plain producers, and who hears of events that were lost."""

    wiring_config = containers.WiringConfiguration(modules=[".services"])

    settings = providers.ThreadSafeSingleton(Settings)
    observer = providers.ThreadSafeSingleton(Observer)
    events = PoolResource(settings.provided.events, observer=observer)
