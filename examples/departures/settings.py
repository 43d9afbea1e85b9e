"""What can be set, and from where: the environment, and what the command line says before it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic_settings import SettingsConfigDict

import wd_di
from wd_di import KafkaSettings, PoolSettings


class Topics(BaseModel):
    """Where the records go."""

    model_config = ConfigDict(frozen=True)

    departures: str = "departures"
    movements: str = "movements"

    @property
    def names(self) -> tuple[str, str]:
        """Both."""
        return self.departures, self.movements


class Settings(wd_di.Settings):
    """``DEPARTURES__SIZE=8`` or ``DEPARTURES__KAFKA__COMPRESSION_TYPE=lz4`` in the environment change one field."""

    model_config = SettingsConfigDict(nested_model_default_partial_update=True)

    departures: PoolSettings = PoolSettings(
        size=4,
        # Every run has ids of its own, so that two demos on one cluster don't fence each other. A service would say
        # {instance} and set it to what stays through a restart: the pod's ordinal, the worker's number.
        transactional_id="departures-{host}-{pid}-{index}",
        # librdkafka writes every retry on stderr, across the progress bar; what fails for good is raised anyway.
        kafka=KafkaSettings.of({"log_level": 0}),
        open_timeout_ms=15_000,
    )
    topics: Topics = Topics()


def settings_for(bootstrap_servers: str, topics: Topics) -> Settings:
    """Return the settings of one run; for these two the environment isn't asked."""
    kafka = {"bootstrap_servers": bootstrap_servers}
    return Settings.model_validate({"departures": {"kafka": kafka}, "topics": topics})
