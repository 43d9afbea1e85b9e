"""What the application is made of."""

from __future__ import annotations

from dependency_injector import containers, providers
from pydantic_settings import SettingsConfigDict

import wd_di
from examples.background_job.services import NotificationJob
from wd_di import PoolResource, PoolSettings


class Settings(wd_di.Settings):
    """``NOTIFICATIONS__SIZE=5`` in the environment changes one field."""

    model_config = SettingsConfigDict(nested_model_default_partial_update=True)

    notifications: PoolSettings = PoolSettings(size=1, timeout_ms=200)
    # One producer that any number of jobs use at once: it is never taken, but their batches mix.
    spare: PoolSettings = PoolSettings(size=1, share=1_000, timeout_ms=200)


class Container(containers.DeclarativeContainer):
    """The job, its pool, and a spare one for when that is busy."""

    settings = providers.ThreadSafeSingleton(Settings)
    notifications = PoolResource(settings.provided.notifications)
    spare = PoolResource(settings.provided.spare)
    job = providers.Factory(NotificationJob, pool=notifications, spare=spare, pauses_ms=(50, 200))
