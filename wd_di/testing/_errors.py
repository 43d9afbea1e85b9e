"""What goes wrong with the test clusters themselves."""

from __future__ import annotations

from wd_di.errors import WdDiError


class ClusterError(WdDiError):
    """A test cluster didn't do what it was asked; where there is a broker log, its tail is in the message."""


class KafkaUnavailableError(ClusterError):
    """There is no Kafka to be had here: its jars couldn't be downloaded, or the given cluster doesn't answer."""
