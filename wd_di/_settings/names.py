"""How librdkafka spells its settings, and what a mapping in any other spelling says under those names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import cast

Path = tuple[str, ...]

TOPIC_DEFAULTS = "default.topic.config"
"""The one setting that is a mapping itself: confluent-kafka puts its entries over all others."""

TOPIC_SETTINGS = frozenset(
    {
        "acks",
        "compression.level",
        "compression.type",
        "message.timeout.ms",
        "partitioner",
        "produce.offset.report",
        "queuing.strategy",
        "request.timeout.ms",
    }
)
"""What a producer may have in ``default.topic.config``: librdkafka's topic settings."""

CALLED = ("oauth_cb", "throttle_cb")
"""Callables that are called as confluent-kafka calls them, guarded."""

_EACH_RECORD = (
    "a record's fate is told by Delivery.add_done_callback, or for all of them by "
    'observer.subscribe("message.acknowledged", fn) and "message.failed"'
)
_OF_CONSUMERS = "it belongs to consumers"

INSTEAD: dict[str, str] = {
    "error_cb": 'errors are told by observer.subscribe("error.occurred", fn)',
    "stats_cb": 'statistics are told by observer.subscribe("statistics.emitted", fn)',
    "on_delivery": _EACH_RECORD,
    "dr_cb": _EACH_RECORD,
    "dr_msg_cb": _EACH_RECORD,
    "delivery.report.only.error": "the pool must be told of every record; " + _EACH_RECORD,
    "log_cb": "log lines go to logger, a logging.Logger",
    "default_topic_conf": "its keys can stand beside the others",
    "on_commit": _OF_CONSUMERS,
    "offset_commit_cb": _OF_CONSUMERS,
    "rebalance_cb": _OF_CONSUMERS,
    "consume_cb": _OF_CONSUMERS,
}
"""Settings that the pool needs for itself or a producer hasn't got, and what to use in their place."""

OF_RECORDS = dict.fromkeys(
    ("topic", "topics", "default_topic", "default.topic"),
    "it belongs to a record: pass it to produce_sync(topic=..., value=...) and the like",
)
"""What a pool has no setting for, and where it goes."""

# These keep their underscores, as every callback does; all other keys are dotted (librdkafka 2.16, CONFIGURATION.md).
_UNDERSCORED = {
    *CALLED,
    *INSTEAD,
    "enabled_events",
    "log_level",
    "msg_order_cmp",
    "oauthbearer_token_refresh_cb",
    "ssl.certificate.verify_cb",
    "ssl_ca",
    "ssl_certificate",
    "ssl_engine_callback_data",
    "ssl_key",
}
_KEPT = {name.replace(".", "_"): name for name in _UNDERSCORED}

# librdkafka's second names for one setting: unnoticed, the one that is set last would win.
_SECOND_NAMES = {
    "compression.codec": "compression.type",
    "delivery.timeout.ms": "message.timeout.ms",
    "max.in.flight": "max.in.flight.requests.per.connection",
    "message.send.max.retries": "retries",
    "metadata.broker.list": "bootstrap.servers",
    "queue.buffering.max.ms": "linger.ms",
    "request.required.acks": "acks",
    "sasl.mechanisms": "sasl.mechanism",
    "sasl.oauthbearer.client.credentials.client.id": "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.credentials.client.secret": "sasl.oauthbearer.client.secret",
}

_BROKERS = frozenset({"bootstrap", "broker", "brokers", "broker.list", "host", "hosts", "server", "servers"})
"""What is written for ``bootstrap.servers`` and isn't like it."""

# A list of our own: confluent-kafka has none, and librdkafka prints its own to a file of C's only.
_UNTYPED = """
  allow.auto.create.topics api.version.fallback.ms api.version.request api.version.request.timeout.ms
  broker.address.family broker.address.ttl broker.version.fallback builtin.features debug enable.gapless.guarantee
  enable.metrics.push enable.random.seed enable.sasl.oauthbearer.unsecure.jwt enabled_events https.ca.location
  https.ca.pem log.connection.close log.queue log.thread.name log_level message.copy.max.bytes metadata.max.age.ms
  metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy plugin.library.paths
  produce.offset.report queue.buffering.backpressure.threshold queuing.strategy
  receive.message.max.bytes reconnect.backoff.jitter.ms
  sasl.kerberos.keytab sasl.kerberos.kinit.cmd sasl.kerberos.min.time.before.relogin sasl.kerberos.principal
  sasl.kerberos.service.name sasl.oauthbearer.assertion.algorithm sasl.oauthbearer.assertion.claim.aud
  sasl.oauthbearer.assertion.claim.exp.seconds sasl.oauthbearer.assertion.claim.iss
  sasl.oauthbearer.assertion.claim.jti.include sasl.oauthbearer.assertion.claim.nbf.seconds
  sasl.oauthbearer.assertion.claim.sub sasl.oauthbearer.assertion.file
  sasl.oauthbearer.assertion.jwt.template.file sasl.oauthbearer.metadata.authentication.type
  sasl.oauthbearer.sub.claim.name socket.blocking.max.ms socket.keepalive.enable socket.max.fails
  socket.nagle.disable socket.receive.buffer.bytes socket.send.buffer.bytes ssl.ca.certificate.stores
  ssl.cipher.suites ssl.crl.location ssl.curves.list ssl.engine.id ssl.engine.location ssl.providers
  ssl.sigalgs.list sticky.partitioning.linger.ms test.mock.broker.rtt topic.blacklist
  topic.metadata.refresh.fast.cnt topic.metadata.refresh.fast.interval.ms topic.metadata.refresh.interval.ms
  topic.metadata.refresh.sparse
"""
UNTYPED = frozenset(_UNTYPED.split())
"""librdkafka's properties without a field, but for those that only C can set (librdkafka 2.16)."""

_NOT_MEANT = {"fetch.message.max.bytes", "session.timeout.ms"}
"""Settings of consumers that are like one of a producer's: librdkafka takes them, and a warning of its own follows."""

_LOOKS_SECRET = re.compile(
    r"passw(or)?d|passphrase|secret|private|token|credential|jaas|^ssl_key$|(^|\.)key\.pem$|keystore\.key$|api\.?key",
    re.IGNORECASE,
)


def dotted(*key: str) -> str:
    """Return librdkafka's name for a key, whichever way it is written.

    Args:
        key: ``"linger.ms"``, ``"linger_ms"`` or a second name such as ``"queue.buffering.max.ms"``; of nested mappings
            the keys from the outermost to the innermost, ``"linger"`` and ``"ms"``.
    """
    name = ".".join(part if "." in part or part.endswith("_cb") else part.replace("_", ".") for part in key)
    name = _KEPT.get(name.replace(".", "_"), name)
    return _SECOND_NAMES.get(name, name)


def is_property(name: str) -> bool:
    """Return whether librdkafka or confluent-kafka has something of this name that has no typed field."""
    own = dotted(name)
    return own in UNTYPED or own in _KNOWN or own.startswith(f"{TOPIC_DEFAULTS}.")


_KNOWN = {*_UNDERSCORED, *_NOT_MEANT, TOPIC_DEFAULTS, "transactional.id", "logger"}


def nearly(name: str, typed: Iterable[str], cutoff: float) -> str | None:
    """Return Kafka's setting whose name is as near to this one as that, or begins with it, if there is any.

    Args:
        name: In any spelling.
        typed: Typed fields.
        cutoff: As in ``difflib.get_close_matches``.
    """
    like = re.sub(r"(?<=[a-z])(?=[A-Z])|[\s_-]+", ".", name.strip()).lower().removeprefix("kafka.")
    if like in _BROKERS:
        return "bootstrap.servers"
    names = {each.replace("_", "."): each for each in (*UNTYPED, *_SECOND_NAMES, *CALLED, TOPIC_DEFAULTS)}
    names |= {each.replace("_", "."): dotted(each) for each in (*typed, "transactional.id")}
    near = get_close_matches(like, names, n=1, cutoff=cutoff)
    longer = [each for each in names if each.startswith(like)] if "." in like else []
    found = longer if len(longer) == 1 else near
    return names[found[0]] if found else None


def looks_secret(name: str) -> bool:
    """Return whether a setting that nobody knows is called like a secret."""
    return _LOOKS_SECRET.search(name) is not None


def revealed(value: object) -> object:
    """Return what a ``SecretStr`` holds, and any other value as it is."""
    return getattr(value, "get_secret_value", lambda: value)()


def under_names(given: Mapping[str, object]) -> dict[str, object]:
    """Bring all settings under librdkafka's names, nested ones too; ``None`` is as if not given.

    Raises:
        ValueError: One is given twice with different values, or a key is empty or no string. No value is shown.
    """
    values: dict[str, object] = {}
    for name, group in _grouped(given).items():
        told = [(path, value) for path, value in group if value is not None]
        if _differ(told):
            raise ValueError(
                f"{name} is given twice with different values, as {' and '.join(_spelled(path) for path, _ in told)}: "
                "keep one of them. Of two sources the stronger one wins, if the class is based on wd_di.Settings"
            )
        if told:
            values[name] = told[0][1]
    return values


def in_one_form(given: dict[str, object], fields: Mapping[str, str]) -> dict[str, object]:
    """Return the same settings in the spelling of ``KafkaSettings.model_dump``, so that two sources can be merged.

    What is given twice differently keeps its spellings: the validation will say so.

    Args:
        given: One source's settings, in any spelling.
        fields: The typed fields by librdkafka's names.
    """
    try:
        groups = _grouped(given)
    except ValueError:  # a key that is none; the validation will say so
        return given
    values: dict[str, object] = {}
    for name, group in groups.items():
        told = [(path, value) for path, value in group if value is not None] or group[:1]
        if _differ(told):
            for path, value in told:
                _put(values, path, value)
            continue
        value = told[0][1]
        values[fields.get(name, name)] = in_one_form(value, {}) if isinstance(value, dict) else value
    return values


def _grouped(given: Mapping[str, object]) -> dict[str, list[tuple[Path, object]]]:
    groups: dict[str, list[tuple[Path, object]]] = {}
    for path, value in _leaves(given, ()):
        groups.setdefault(dotted(*path), []).append((path, value))
    return groups


def _leaves(given: Mapping[str, object], outer: Path) -> Iterator[tuple[Path, object]]:
    for key, value in given.items():
        if not isinstance(key, str):
            raise ValueError(f"keys are strings, not {type(key).__name__}")
        if not key.strip():
            raise ValueError("a key is empty, or a name in the environment ends with the delimiter")
        path = (*outer, key)
        if isinstance(value, Mapping) and dotted(*path) != TOPIC_DEFAULTS:
            yield from _leaves(value, path)
        else:
            yield path, value


def _differ(group: list[tuple[Path, object]]) -> bool:
    return len({str(revealed(value)) for _, value in group}) > 1


def _spelled(path: Path) -> str:
    return repr(path[0]) if len(path) == 1 else "".join(f"[{key!r}]" for key in path)


def _put(values: dict[str, object], path: Path, value: object) -> None:
    *outer, last = path
    for key in outer:
        values = cast("dict[str, object]", values.setdefault(key, {}))
    values[last] = value
