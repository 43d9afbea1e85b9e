"""What an error of librdkafka's means, and what may be said of it."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException

from wd_di._kafka.port import Fault, FaultKind
from wd_di._settings.names import revealed
from wd_di.errors import AuthorizationError, PoolOpenError

if TYPE_CHECKING:
    from collections.abc import Mapping


def _codes(*names: str) -> frozenset[int]:
    """Return the codes of these names; those that librdkafka itself gives begin with an underscore."""
    return frozenset(getattr(KafkaError, name) for name in names)


FENCED = _codes("_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH")
PURGED = _codes("_PURGE_QUEUE", "_PURGE_INFLIGHT")
UNKNOWN_TOPIC = _codes("_UNKNOWN_TOPIC", "UNKNOWN_TOPIC_OR_PART")
UNKNOWN_PARTITION = _codes("_UNKNOWN_PARTITION")
OUTDATED = _codes("_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION")
WRONG_STATE = _codes("_STATE")
UNREADABLE = _codes("_BAD_MSG")
ALL_BROKERS_DOWN = _codes("_ALL_BROKERS_DOWN")
TIMED_OUT_MESSAGE = _codes("_MSG_TIMED_OUT")
GONE = _codes("_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE")
END_OF_PARTITION = _codes("_PARTITION_EOF")
NO_GROUP = _codes("GROUP_AUTHORIZATION_FAILED")
GONE_WITH_ITS_TOPIC = _codes("_DESTROY")
DENIED = _codes(
    "_AUTHENTICATION",
    "SASL_AUTHENTICATION_FAILED",
    "TOPIC_AUTHORIZATION_FAILED",
    "GROUP_AUTHORIZATION_FAILED",
    "CLUSTER_AUTHORIZATION_FAILED",
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
)
FATAL = _codes("_FATAL")
_TIMED_OUT = _codes("_TIMED_OUT")
_REBALANCED = _codes("ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "FENCED_INSTANCE_ID", "REBALANCE_IN_PROGRESS")
_READ_OFFSETS = "Read on the topic"
_MISSING_RIGHT = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "Write on the topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "Read on the consumer group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "IdempotentWrite on the cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "Write and Describe on the transactional.id",
}
_EXPIRED = (
    "the broker forgets a transactional.id that was idle for its transactional.id.expiration.ms: set "
    "transactional_id_expiry_ms to that, and idle producers are initialised again in time"
)
_CUT = re.compile(r"mechanism handshake failed: Local: ")
"""How librdkafka tells of an authentication that had no answer: the broker may be on its way down, or up."""
LOGIN_ENDING = re.compile("Failed to acquire SASL OAUTHBEARER token|Request not valid in current SASL state")
"""What befalls who was let in before: there is no new token yet, or the broker was asked again too soon."""
_HINTS = {
    "certificate verify failed": "or is it out of date, or for another host than the one that was connected to?",
    "SSL connection closed by peer (": "does that port speak TLS?",
    "alert certificate unknown": "the broker doesn't trust the certificate in ssl.certificate.location",
    "alert unknown ca": "the broker doesn't trust the certificate in ssl.certificate.location",
    "alert certificate required": "the broker wants a certificate: set ssl.certificate.location and ssl.key.location",
    "Request not valid in current SASL state": "that port takes no SASL: set security.protocol to ssl or plaintext",
}
"""What else is to be said of an error, by a part of its text."""


class Translator:
    """Puts the errors of one client in our words, without what its settings keep secret."""

    def __init__(self, config: Mapping[str, object]) -> None:
        hidden = (value.get_secret_value() for value in config.values() if hasattr(value, "get_secret_value"))
        # The longest first, since one may begin another.
        self._secrets = tuple(sorted((secret for secret in hidden if secret), key=len, reverse=True))

    def scrub(self, text: str) -> str:
        """Return the text without secrets."""
        return functools.reduce(lambda left, secret: left.replace(secret, "***"), self._secrets, text)

    def fault(self, error: object, *, known: Fault | None = None, settings: bool = False) -> Fault:
        """Return what an error means for the call that it came from.

        Args:
            error: librdkafka's, or one of confluent-kafka's own.
            known: What has been the client's end, if anything has.
            settings: Whether the client was being made.
        """
        if not isinstance(error, KafkaError):
            return Fault(FaultKind.SETTINGS if settings else FaultKind.OTHER, self.scrub(str(error)))
        text, right = f"{error.str()} [{error.name()}]", _missing_right(error)
        further = [_foreign(text), *(hint for part, hint in _HINTS.items() if part in text)]
        if right is not None:
            further.append(f"missing right: {right}")
        expired = error.code() == KafkaError.INVALID_PRODUCER_ID_MAPPING
        if expired:
            further.append(_EXPIRED)
        if error.code() in FATAL and known is not None:  # "Local: Fatal error" is all that it says
            further.append(str(known))
            right = known.right
        kind = FaultKind.SETTINGS if settings else _kind(error, known)
        told = self.scrub("; ".join(filter(None, [text, *further])))
        return Fault(kind, told, requires_abort=error.txn_requires_abort(), expired=expired, right=right)


def _kind(error: KafkaError, known: Fault | None) -> FaultKind:
    code = error.code()
    if code in _REBALANCED:
        return FaultKind.REBALANCED
    if denies(error):
        return FaultKind.DENIED
    if code in FENCED and (error.fatal() or code != KafkaError.INVALID_PRODUCER_EPOCH):
        return FaultKind.FENCED
    if error.fatal() or code in FATAL or known is not None:
        # After a fatal error abort and commit answer _CONFLICT, "retriable", for ever: never loop on it.
        return known.kind if known is not None and known.fatal else FaultKind.FATAL
    if error.txn_requires_abort():
        return FaultKind.ABORTABLE
    return FaultKind.RETRIABLE if error.retriable() or code in _TIMED_OUT else FaultKind.OTHER


def denies(error: KafkaError) -> bool:
    """Whether a broker doesn't let us in, or denies a right."""
    return error.code() in DENIED and not _CUT.search(error.str())


def _missing_right(error: KafkaError) -> str | None:
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED and "commit offsets" in error.str():
        return _READ_OFFSETS
    return _MISSING_RIGHT.get(error.code())


def _foreign(text: str) -> str:
    """Say who answers, if librdkafka has taken the first four bytes of its answer for a size."""
    size = re.search(r"Invalid response size (-?\d+)", text)
    if size is None:
        return ""
    start = (int(size[1]) % 2**32).to_bytes(4, "big")
    begins = f", but something whose answer begins with {start.decode()!r}" if start.isascii() else ""
    return f"that isn't Kafka{begins}"


def is_fatal(error: BaseException) -> bool:
    """Whether librdkafka itself calls it fatal."""
    return isinstance(error, KafkaException) and bool(error.args[0].fatal())


def code_of(fault: Fault) -> int | None:
    """Return librdkafka's code of what a call failed with, if it has one."""
    error = fault.__cause__
    return error.args[0].code() if isinstance(error, KafkaException) else None


def answered(fault: Fault) -> bool:
    """Whether a call failed with a broker's answer, or before anything was sent that could have one."""
    code = code_of(fault)
    return code is None or code >= 0


def public(error: BaseException) -> BaseException:
    """Return the error by which users are told of a missing right, with the fault as its cause; any other as it is."""
    if not isinstance(error, Fault) or error.right is None:
        return error
    denied = AuthorizationError(str(error))
    denied.__cause__ = error
    return denied


def without_frames(error: BaseException) -> BaseException:
    """Return the error; where it and its causes came from is our business, and would be most of a traceback."""
    each: BaseException | None = error
    while isinstance(each, Fault | AuthorizationError | PoolOpenError | KafkaException):
        each = each.with_traceback(None).__cause__
    return error


def reveal(config: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings with their secrets in the open: only for librdkafka's eyes."""
    return {key: revealed(value) for key, value in config.items()}
