"""How the users of a `LocalKafka` get rights and lose them, so that afterwards every broker knows of it."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any, Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)

from wd_di.testing._cluster import TIMEOUT_MS, admin_client
from wd_di.testing._errors import ClusterError
from wd_di.testing._security import PROBE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Future

Operation = Literal[
    "All",
    "Read",
    "Write",
    "Create",
    "Delete",
    "Alter",
    "Describe",
    "ClusterAction",
    "DescribeConfigs",
    "AlterConfigs",
    "IdempotentWrite",
]
"""What a right is for, in Kafka's words."""
CLUSTER = "kafka-cluster"
"""What the cluster itself is called where it is a resource."""

_LOOK_S = 0.02
_OPERATIONS = {each.name.replace("_", "").lower(): each for each in AclOperation}


def bindings(
    user: str, operations: Iterable[Operation], resources: Mapping[ResourceType, str | None]
) -> list[AclBinding]:
    """Return what lets a user do each of these with each resource that has a name.

    Raises:
        ValueError: No operation, or no resource.
    """
    named = {kind: name for kind, name in resources.items() if name is not None}
    wanted = [_OPERATIONS[each.lower()] for each in operations]
    if not named or not wanted:
        raise ValueError('say what may be done with what: grant("alice", "Write", topic="orders")')
    return [_binding(user, operation, kind, name) for kind, name in named.items() for operation in wanted]


class Rights:
    """The rights in one cluster.

    Args:
        admin: What a client is told to be one who may change them.
        probe: The same for a user without any.
        brokers: The numbers of those that have to know.
        timeout_ms: How long a change may take.
    """

    def __init__(
        self, admin: Mapping[str, str], probe: Mapping[str, str], brokers: Iterable[int], timeout_ms: int
    ) -> None:
        self._admin = admin_client(admin)
        self._probe = admin_client(probe)
        self._brokers = brokers
        self._timeout_ms = timeout_ms
        self._deadline = time.monotonic() + timeout_ms / 1000

    def give(self, wanted: list[AclBinding]) -> None:
        """Give these, and wait until every broker grants them.

        Raises:
            ClusterError: That couldn't be done in time.
        """
        for future in self._admin.create_acls(wanted).values():
            self._answer(future)
        self._wait_for_brokers()

    def take(self, unwanted: list[AclBinding]) -> None:
        """Take these back, and wait until every broker denies them.

        Raises:
            ClusterError: One of them is gone already, or that couldn't be done in time.
        """
        self._delete(unwanted)
        self._wait_for_brokers()

    def _wait_for_brokers(self) -> None:
        """Give one more right, and ask each broker to do what it allows: they learn of all changes in one order.

        For a list of rights one can't ask a broker of one's choice.
        """
        topic = f"{PROBE}-{uuid.uuid4()}"
        right = _binding(PROBE, AclOperation.DESCRIBE_CONFIGS, ResourceType.TOPIC, topic)
        self._answer(self._admin.create_acls([right])[right])
        for broker in self._brokers:
            while self._denies(broker, topic):
                time.sleep(_LOOK_S)
        self._delete([right])

    def _delete(self, unwanted: list[AclBinding]) -> None:
        filters = {AclBindingFilter(*_fields(each)): each for each in unwanted}
        for each, future in self._admin.delete_acls(list(filters)).items():
            if not self._answer(future):
                raise ClusterError(f"{filters[each]} is gone already")

    def _denies(self, broker: int, topic: str) -> bool:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        try:
            self._probe.describe_configs([resource], broker=broker)[resource].result(self._left)
        except KafkaException as error:
            code = error.args[0].code()
            if code not in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART):
                raise self._failed(error) from error
            return bool(code == KafkaError.TOPIC_AUTHORIZATION_FAILED)
        except TimeoutError as error:
            raise self._failed("no answer") from error
        return False

    def _answer(self, future: Future[Any]) -> Any:
        try:
            return future.result(self._left)
        except (KafkaException, TimeoutError) as error:
            raise self._failed(error) from error

    @property
    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._failed("no answer")
        return left

    def _failed(self, cause: object) -> ClusterError:
        return ClusterError(f"the rights couldn't be changed within {self._timeout_ms} ms: {cause}")


class Grant:
    """Rights that a user of a `LocalKafka` was given.

    Attributes:
        rights: As Kafka has them.
    """

    def __init__(self, rights: list[AclBinding], change: Callable[[int], Rights]) -> None:
        self.rights = rights
        self._change = change

    def revoke(self, *, timeout_ms: int = TIMEOUT_MS) -> None:
        """Take them back, and wait until every broker knows.

        Raises:
            ClusterError: They are gone already, or that couldn't be done in time.
        """
        self._change(timeout_ms).take(self.rights)


def _binding(user: str, operation: AclOperation, kind: ResourceType, name: str) -> AclBinding:
    prefix = name != "*" and name.endswith("*")
    pattern = ResourcePatternType.PREFIXED if prefix else ResourcePatternType.LITERAL
    who = f"User:{user}"
    return AclBinding(kind, name[:-1] if prefix else name, pattern, who, "*", operation, AclPermissionType.ALLOW)


def _fields(right: AclBinding) -> tuple[Any, ...]:
    pattern = right.resource_pattern_type
    return right.restype, right.name, pattern, right.principal, right.host, right.operation, right.permission_type
