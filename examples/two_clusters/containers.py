"""What the application is made of."""

from __future__ import annotations

from dependency_injector import containers, providers
from pydantic_settings import SettingsConfigDict

import wd_di
from wd_di import KafkaSettings, PoolResource, PoolSettings


class Settings(wd_di.Settings):
    """``ANALYTICS__SIZE=8`` or ``NOTIFICATIONS__KAFKA__LINGER_MS=20`` in the environment change one field."""

    model_config = SettingsConfigDict(nested_model_default_partial_update=True)

    # A service would say {instance}, and set it to what stays through a restart: the pod's ordinal.
    analytics: PoolSettings = PoolSettings(size=5, timeout_ms=3_000, transactional_id="analytics-{host}-{pid}-{index}")
    notifications: PoolSettings = PoolSettings(size=10, timeout_ms=10_000, kafka=KafkaSettings(acks="all"))


class Container(containers.DeclarativeContainer):
    """A transactional pool for analytics and a plain one for notifications; they share nothing."""

    wiring_config = containers.WiringConfiguration(modules=[".services"])

    settings = providers.ThreadSafeSingleton(Settings)
    analytics = PoolResource(settings.provided.analytics)
    notifications = PoolResource(settings.provided.notifications)
