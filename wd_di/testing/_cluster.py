"""What a test asks of a real cluster, whoever runs it: where it is, and topics."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NoReturn

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from wd_di._concurrency.deadline import Deadline
from wd_di.errors import uncopyable
from wd_di.testing._errors import ClusterError, KafkaUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Self

    from wd_di.testing._broker import Broker

TIMEOUT_MS = 30_000
_PROBE_S = 0.5
_ANSWER_S = 10
_QUIET = {"log_level": 0, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200}


class Cluster(ABC):
    """A real Kafka cluster to test against."""

    @property
    @abstractmethod
    def bootstrap_servers(self) -> str:
        """The value for the client's ``bootstrap.servers``."""

    @property
    @abstractmethod
    def brokers(self) -> Sequence[Broker]:
        """The brokers, to kill, pause and restart."""

    @property
    def _admin(self) -> Mapping[str, str]:
        """What a client is told that manages topics."""
        return {"bootstrap.servers": self.bootstrap_servers}

    def __reduce__(self) -> NoReturn:
        raise uncopyable(self, "it belongs to this process. Hand over its bootstrap_servers")

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        *,
        replication: int | None = None,
        config: Mapping[str, object] | None = None,
        timeout_ms: int = TIMEOUT_MS,
    ) -> str:
        """Create a topic and wait until every partition has a leader.

        Args:
            name: The topic's name.
            partitions: How many partitions it gets.
            replication: How many brokers hold each partition; by default what the broker is configured for.
            config: Topic settings such as ``{"retention.ms": 60000}``.
            timeout_ms: How long creating and electing may take together.

        Returns:
            The topic's name.

        Raises:
            ClusterError: The topic exists, or couldn't be created in time.
        """
        topic = NewTopic(name, partitions, replication or -1, config={k: str(v) for k, v in (config or {}).items()})
        deadline = Deadline(timeout_ms / 1000)
        admin = self._ask(
            f"topic {name!r} couldn't be created",
            lambda admin: admin.create_topics([topic], operation_timeout=deadline.left)[name],
            KafkaError.TOPIC_ALREADY_EXISTS,
            deadline,
        )
        while not _has_leaders(admin, name, partitions):
            if deadline.passed:
                raise ClusterError(f"topic {name!r} has no leader for each partition after {timeout_ms} ms")
        return name

    def delete_topic(self, name: str, *, timeout_ms: int = TIMEOUT_MS) -> None:
        """Delete a topic.

        Raises:
            ClusterError: The topic doesn't exist, or couldn't be deleted in time.
        """
        deadline = Deadline(timeout_ms / 1000)
        self._ask(
            f"topic {name!r} couldn't be deleted",
            lambda admin: admin.delete_topics([name], operation_timeout=deadline.left)[name],
            KafkaError.UNKNOWN_TOPIC_OR_PART,
            deadline,
        )

    def _ask(
        self, failed: str, ask: Callable[[AdminClient], Future[None]], done: int, deadline: Deadline
    ) -> AdminClient:
        """Ask until there is an answer, and return who got it.

        Another client each time, for one whose connection is dead may not find out for as long as a minute. ``done`` is
        what the answer says if a former request was carried out after all.
        """
        again = False
        while True:
            admin = admin_client(self._admin)
            try:
                ask(admin).result(deadline.slice(_ANSWER_S))
            except KafkaException as error:
                if again and error.args[0].code() == done:
                    return admin
                raise ClusterError(f"{failed}: {error}") from error
            except TimeoutError as error:
                if deadline.passed:
                    raise ClusterError(f"{failed}: no answer within {deadline.seconds * 1000:.0f} ms") from error
                again = True
            else:
                return admin


class GivenKafka(Cluster):
    """A cluster that somebody else runs, and that isn't ours to kill or pause.

    Args:
        bootstrap_servers: Where it is.

    Raises:
        KafkaUnavailableError: Nobody answers there.
    """

    def __init__(self, bootstrap_servers: str) -> None:
        self._bootstrap_servers = bootstrap_servers
        try:
            admin_client(self._admin).list_topics(timeout=_ANSWER_S)
        except KafkaException as error:
            raise KafkaUnavailableError(
                f"no Kafka answers at {bootstrap_servers!r} within {_ANSWER_S} s: {error}. Start it, or name another."
            ) from error

    def __repr__(self) -> str:
        return f"<GivenKafka at {self._bootstrap_servers}>"

    @property
    def bootstrap_servers(self) -> str:
        """The value for the client's ``bootstrap.servers``."""
        return self._bootstrap_servers

    @property
    def brokers(self) -> Sequence[Broker]:
        """Not ours.

        Raises:
            ClusterError: Always.
        """
        raise ClusterError(
            f"the brokers at {self._bootstrap_servers} can't be killed or paused from here: "
            "unset KAFKA_BOOTSTRAP_SERVERS for brokers that wd_di starts itself"
        )

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave it as it is."""


def admin_client(config: Mapping[str, str]) -> AdminClient:
    """A client that reconnects soon and logs nothing, for brokers that come and go."""
    return AdminClient({**config, **_QUIET})


def answers(broker: int, config: Mapping[str, str], cluster_id: str) -> bool:
    """Whether the broker says that it is alive, which is the only one that a client with this ``config`` is told of.

    One that starts answers only once the controllers agree.
    On a port that somebody else has taken meanwhile, a broker of another cluster may have that number, too.
    """
    # A new client each time: one that has met the other brokers would ask those.
    with contextlib.suppress(KafkaException):
        found = admin_client(config).list_topics(timeout=_PROBE_S)
        return found.cluster_id == cluster_id and broker in found.brokers
    return False


def _has_leaders(admin: AdminClient, topic: str, partitions: int) -> bool:
    with contextlib.suppress(KafkaException):
        found = admin.list_topics(topic, timeout=1).topics[topic].partitions
        return len(found) == partitions and all(partition.leader >= 0 for partition in found.values())
    return False
