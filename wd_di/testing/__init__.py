"""What helps to test code that uses wd_di: fakes, a mock cluster and a real one, loaded when they are first touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wd_di._lazy import lazily

if TYPE_CHECKING:
    from wd_di.testing._cluster import Cluster, GivenKafka
    from wd_di.testing._errors import ClusterError, KafkaUnavailableError
    from wd_di.testing._fake import FakePool, faked
    from wd_di.testing._jars import kafka_jars
    from wd_di.testing._local import LocalKafka
    from wd_di.testing._mock import ApiKey, MockKafka, raise_fatal_error
    from wd_di.testing._rights import Grant
    from wd_di.testing._security import Security
    from wd_di.testing._sent import ANY, Sent
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "_cluster": "Cluster GivenKafka",
            "_errors": "ClusterError KafkaUnavailableError",
            "_fake": "FakePool faked",
            "_jars": "kafka_jars",
            "_local": "LocalKafka",
            "_mock": "ApiKey MockKafka raise_fatal_error",
            "_rights": "Grant",
            "_security": "Security",
            "_sent": "ANY Sent",
        },
    )

__all__ = [
    "ANY",
    "ApiKey",
    "Cluster",
    "ClusterError",
    "FakePool",
    "GivenKafka",
    "Grant",
    "KafkaUnavailableError",
    "LocalKafka",
    "MockKafka",
    "Security",
    "Sent",
    "faked",
    "kafka_jars",
    "raise_fatal_error",
]
