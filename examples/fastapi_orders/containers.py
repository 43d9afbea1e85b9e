"""What the application is made of."""

from __future__ import annotations

from dependency_injector import containers, providers
from pydantic_settings import SettingsConfigDict

import wd_di
from wd_di import PoolResource, PoolSettings


class Settings(wd_di.Settings):
    """``ORDERS__SIZE=8`` in the environment changes one field."""

    model_config = SettingsConfigDict(nested_model_default_partial_update=True)

    # A service would say {instance}, and set it to what stays through a restart: the pod's ordinal.
    orders: PoolSettings = PoolSettings(size=4, timeout_ms=2_000, transactional_id="web-{host}-{pid}-{index}")
    # One plain producer that all requests use at once: nobody waits for it.
    clicks: PoolSettings = PoolSettings(size=1, share=1_000)


class Container(containers.DeclarativeContainer):
    """A pool for what must be atomic, and one for what needn't be."""

    wiring_config = containers.WiringConfiguration(modules=[".app", ".services"])

    settings = providers.ThreadSafeSingleton(Settings)
    orders = PoolResource(settings.provided.orders)
    clicks = PoolResource(settings.provided.clicks)
