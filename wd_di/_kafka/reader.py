"""What a cluster knows of a transaction that is over: whether a record is visible, and where a group stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from wd_di._concurrency.deadline import Deadline
from wd_di._concurrency.greenlets import yielding
from wd_di._kafka.callbacks import LaterLogger, TokenSource
from wd_di._kafka.offsets import group_of
from wd_di._kafka.port import SLICE, Fault, FaultKind
from wd_di._kafka.translation import (
    ALL_BROKERS_DOWN,
    DENIED,
    END_OF_PARTITION,
    GONE,
    NO_GROUP,
    UNKNOWN_TOPIC,
    Translator,
    reveal,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from confluent_kafka import KafkaError


_OF_ANY_CLIENT = (
    "bootstrap.servers",
    "metadata.broker.list",
    "broker.",
    "client.",
    "connections.",
    "api.version.",
    "enable.metrics.push",
    "enable.sasl.",
    "enable.ssl.",
    "https.",
    "metadata.recovery.",
    "oauth_cb",
    "plugin.library.paths",
    "reconnect.",
    "sasl.",
    "security.",
    "socket.",
    "ssl.",
)
"""How the settings of a producer begin that lead its readers to the same brokers, as the same user."""

MISSING = 1.0
"""Seconds for which a topic may be unknown to a broker that is a little late."""

_MOCK = "mockCluster"
"""How the id of a cluster begins that librdkafka plays: it shows what was aborted, too."""


class KafkaReader:
    """Looks up what became of one transaction. Without an answer by its deadline a call raises :class:`Fault`.

    Whoever uses it must be able to wait: closing takes a consumer seconds while a broker is frozen, and dropping it
    none.

    Args:
        config: The settings of the producer that has sent it.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        self._translator = Translator(config)
        self._config = {key: value for key, value in config.items() if key.startswith(_OF_ANY_CLIENT)}
        self._consumers: list[Consumer] = []  # in no variable, as with Kept
        self._trouble = "no broker has answered"

    def sees(self, topic: str, partition: int, offset: int, deadline: Deadline) -> bool:
        """Whether a ``read_committed`` reader sees the record; no, if it skips it.

        It skips also what retention or compaction has removed: so only what another reader still finds was aborted.
        """
        place = TopicPartition(topic, partition, offset)
        if self._finds("read_committed", place, deadline):
            self._refuse_mock(deadline)
            return True
        if self._finds("read_uncommitted", place, deadline):
            return False
        raise Fault(FaultKind.OTHER, f"{_named(place)} isn't there any more")

    def stands(
        self, places: Collection[tuple[str, int]], group_metadata: bytes, deadline: Deadline, *, stable: bool
    ) -> dict[tuple[str, int], int]:
        """Return where the group stands in these partitions, below 0 where nowhere.

        Args:
            places: Topics and partitions.
            group_metadata: Of one of its members.
            deadline: For the answer.
            stable: Whether to wait for the end of open transactions that would move it.
        """
        group = group_of(group_metadata)
        self._connect(group, "read_committed" if stable else "read_uncommitted")
        while not deadline.passed:
            asked = [TopicPartition(*place) for place in places]
            try:
                found = yielding(lambda: self._consumers[-1].committed(asked, timeout=deadline.slice(SLICE)))  # noqa: B023
            except KafkaException as error:
                self._take_up(error.args[0], f"the offsets of group {group!r} (Describe on the group)")
                continue
            failed = next((each.error for each in found if each.error is not None), None)
            if failed is None:
                return {(each.topic, each.partition): each.offset for each in found}
            self._take_up(failed, f"the offsets of group {group!r} (Describe on the topic)")
        raise Fault(FaultKind.RETRIABLE, self._trouble)

    def close(self) -> None:
        """Drop its connections."""
        yielding(self._consumers.clear)

    def _finds(self, isolation: str, place: TopicPartition, deadline: Deadline) -> bool:
        """Whether such a reader finds the record; no, if it finds that there is none."""
        self._connect("wd_di", isolation)
        self._consumers[-1].assign([place])
        missing: Deadline | None = None
        while not deadline.passed:
            message = yielding(lambda: self._consumers[-1].poll(deadline.slice(SLICE)))
            if message is None:
                continue
            error, offset = message.error(), message.offset()
            if error is not None and error.code() in NO_GROUP:
                continue  # it reads without being a member of any
            if error is not None and error.code() in UNKNOWN_TOPIC:
                missing = missing or Deadline(deadline.slice(MISSING))
                if missing.passed:
                    break
            if error is not None and error.code() not in END_OF_PARTITION:
                self._take_up(error, f"{place.topic!r} (Read on the topic)")
            elif offset is not None and (offset > place.offset or error is None):
                return offset == place.offset
            else:
                self._trouble = f"another transaction is open before {_named(place)}"
        raise Fault(FaultKind.RETRIABLE, self._trouble)

    def _refuse_mock(self, deadline: Deadline) -> None:
        """Who has answered knows the cluster's id."""
        try:
            cluster = yielding(lambda: self._consumers[-1].cluster_id(deadline.slice(SLICE)))
        except (KafkaException, AttributeError):  # upstream calls the method experimental
            return
        if str(cluster).startswith(_MOCK):
            raise Fault(FaultKind.OTHER, "librdkafka's mock cluster shows what was aborted, too")

    def _connect(self, group: str, isolation: str) -> None:
        given: dict[str, Any] = {
            **self._config,
            "group.id": group,
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "queued.min.messages": 1,
            # By default each of these can be half a second, or a whole one, of which nobody needs to wait here.
            "fetch.wait.max.ms": 10,
            "fetch.error.backoff.ms": 10,
            "fetch.queue.backoff.ms": 10,
            "error_cb": self._note,
            "log_level": 0,
            "logger": LaterLogger(None),  # nobody needs to know
        }
        if "oauth_cb" in given:
            given["oauth_cb"] = TokenSource(given)
        try:
            self._consumers.append(Consumer(reveal(given)))  # as in Handle._connect
        except (KafkaException, TypeError, ValueError) as error:
            raise Fault(FaultKind.SETTINGS, self._translator.scrub(str(error))) from None

    def _note(self, error: KafkaError) -> None:
        """Called by librdkafka; the summary says less than what came before."""
        if error.code() not in ALL_BROKERS_DOWN:
            self._trouble = self._translator.scrub(f"{error.str()} [{error.name()}]")

    def _take_up(self, error: KafkaError, what: str) -> None:
        """Note what went wrong, or raise it if waiting won't help."""
        if error.code() in GONE:
            raise Fault(FaultKind.OTHER, "it isn't there any more")
        if error.code() in DENIED:
            raise Fault(FaultKind.DENIED, f"no right to read {what}")
        self._note(error)


def _named(place: TopicPartition) -> str:
    return f"{place.topic}[{place.partition}]@{place.offset}"
