"""What helps to test code that uses wd_di: fakes, a mock cluster and a real one, loaded when they are first touched."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wd_di.testing._cluster import Cluster, GivenKafka
    from wd_di.testing._errors import ClusterError, KafkaUnavailableError
    from wd_di.testing._fake import FakePool, faked
    from wd_di.testing._jars import kafka_jars
    from wd_di.testing._local import LocalKafka
    from wd_di.testing._mock import ApiKey, MockKafka, raise_fatal_error
    from wd_di.testing._sent import ANY, Sent

__all__ = [
    "ANY",
    "ApiKey",
    "Cluster",
    "ClusterError",
    "FakePool",
    "GivenKafka",
    "KafkaUnavailableError",
    "LocalKafka",
    "MockKafka",
    "Sent",
    "faked",
    "kafka_jars",
    "raise_fatal_error",
]

_HOMES = {
    "ANY": "_sent",
    "ApiKey": "_mock",
    "Cluster": "_cluster",
    "ClusterError": "_errors",
    "FakePool": "_fake",
    "GivenKafka": "_cluster",
    "KafkaUnavailableError": "_errors",
    "LocalKafka": "_local",
    "MockKafka": "_mock",
    "Sent": "_sent",
    "faked": "_fake",
    "kafka_jars": "_jars",
    "raise_fatal_error": "_mock",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
