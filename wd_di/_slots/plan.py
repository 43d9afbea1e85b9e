"""How settings become one configuration for each slot; every clash between them is found here."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, cast

from wd_di._settings.kafka import checked_kafka, shown
from wd_di._settings.names import CALLED, TOPIC_DEFAULTS, dotted, revealed
from wd_di._slots.defaults import TRANSACTION_TIMEOUT_MS, of_transactions
from wd_di._slots.ids import Id, address
from wd_di._slots.template import Template
from wd_di.errors import SettingsError
from wd_di.settings import KafkaSettings, PoolSettings, way_to_brokers

# librdkafka's; a transactional producer takes transaction.timeout.ms instead.
_MESSAGE_TIMEOUT_MS = 300_000

# Options of PoolSettings that mean nothing without transactions.
_TRANSACTIONAL_OPTIONS = frozenset(
    {
        "commit_timeout_ms",
        "abort_timeout_ms",
        "resolve_timeout_ms",
        "implicit_transactions",
        "fenced_retries",
        "ids_held_elsewhere",
        "transactional_id_expiry_ms",
    }
)

_IN_FLIGHT_MAX = 5  # KAFKA-5494

# What idempotence, and with it a transactional.id, demands of the other keys.
_DEMANDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("enable.idempotence", bool, "true"),
    ("acks", lambda value: value in ("all", -1), "all"),
    ("retries", lambda value: value >= 1, "at least 1"),
    ("max.in.flight.requests.per.connection", lambda value: value <= _IN_FLIGHT_MAX, f"at most {_IN_FLIGHT_MAX}"),
)


class ProducerConfig:
    """What ``configure`` may change before a producer is made.

    Attributes:
        kafka: librdkafka's keys under dotted names; change it or assign another dict.
        deliver: Whether this producer's messages go to Kafka.
    """

    __slots__ = ("deliver", "kafka")

    def __init__(self, kafka: dict[str, Any], *, deliver: bool) -> None:
        self.kafka: dict[str, Any] = kafka
        self.deliver: bool = deliver

    def __repr__(self) -> str:
        if not isinstance(self.kafka, Mapping):
            return f"ProducerConfig(kafka=<{type(self.kafka).__name__}>, deliver={self.deliver!r})"
        named = {str(key): value for key, value in self.kafka.items()}
        return f"ProducerConfig(kafka={shown(named)!r}, deliver={self.deliver!r})"


Configure = Callable[[ProducerConfig, int], object] | Callable[[ProducerConfig], object]


@dataclass(frozen=True, slots=True, repr=False)
class SlotPlan:
    """What the producer with this index is made of, for the life of the pool's generation.

    Attributes:
        index: Zero-based.
        kafka: librdkafka's keys under dotted names; secrets are ``SecretStr``.
        deliver: Whether messages go to Kafka.
        transactional_id: Also in ``kafka``; ``None`` for a plain producer.
    """

    index: int
    kafka: Mapping[str, object]
    deliver: bool
    transactional_id: str | None

    def __repr__(self) -> str:
        return f"SlotPlan(index={self.index}, kafka={shown(self.kafka)!r}, deliver={self.deliver!r})"

    @property
    def effective(self) -> dict[str, object]:
        """What holds in the end: ``default.topic.config`` goes over all else."""
        return {**self.kafka, **cast("dict[str, object]", self.kafka.get(TOPIC_DEFAULTS, {}))}

    @property
    def brokers(self) -> list[str]:
        """The addresses by which it finds its cluster, each in one form, in one order."""
        return sorted({address(each) for each in str(self.kafka["bootstrap.servers"]).split(",")})

    @property
    def ids(self) -> list[Id]:
        """Its id, if nobody else may have it, with the brokers that know it."""
        known = self.transactional_id if self.remote else None
        return [] if known is None else [(each, known) for each in self.brokers]

    @property
    def remote(self) -> bool:
        """Whether it talks to a cluster that others use too."""
        return self.deliver and not self.kafka.get("test.mock.num.brokers")


@dataclass(frozen=True, slots=True)
class Plan:
    """A pool's settings, checked and spelled out.

    Attributes:
        name: The pool's name.
        settings: As given, but for default deadlines that exceeded ``transaction.timeout.ms``: they are lowered to it.
        slots: One for each index.
        transactional: Whether the slots have transactional ids; all or none do.
        order: Which idle slot is next.
        warm: Whether opening connects all slots.
        transaction_timeout_ms: The ``transaction.timeout.ms`` of all slots.
    """

    name: str
    settings: PoolSettings
    slots: tuple[SlotPlan, ...]
    transactional: bool
    order: Literal["fifo", "lifo"]
    warm: bool
    transaction_timeout_ms: int

    @property
    def ids(self) -> list[Id]:
        """The ids that nobody else may have, with the brokers that know them."""
        return [each for slot in self.slots for each in slot.ids]

    def names_beside(self, one: SlotPlan) -> list[str]:
        """The transactional ids of all that find their cluster as this one does."""
        brokers = one.kafka["bootstrap.servers"]
        return [
            slot.transactional_id
            for slot in self.slots
            if slot.remote and slot.transactional_id is not None and slot.kafka["bootstrap.servers"] == brokers
        ]


def make_plan(
    settings: PoolSettings, *, name: str, configure: Configure | None = None, instance: str | None = None
) -> Plan:
    """Spell out every slot and check that nothing clashes.

    Args:
        settings: The pool's.
        name: The pool's name, for ids and messages.
        configure: Called once for every index, with ``(config, index)`` or ``(config)``. Its exceptions are passed on.
        instance: Replaces ``settings.instance``, as a forked child needs.

    Raises:
        SettingsError: Names the pool, the setting and what to do.
    """
    template = Template(settings, name, instance)
    call = _two_arguments(configure, name)
    slots = tuple(_slot(settings, name, index, template, call) for index in range(settings.size))
    timeout_ms = _transaction_timeout(slots, name)
    transactional = _transactional(slots, name)
    plan = Plan(
        name=name,
        settings=_fitting(settings, timeout_ms, name) if transactional else settings,
        slots=slots,
        transactional=transactional,
        order=settings.order or ("fifo" if transactional else "lifo"),
        warm=transactional if settings.warm is None else settings.warm,
        transaction_timeout_ms=timeout_ms,
    )
    _check(plan)
    if transactional and any(slot.remote for slot in slots):
        template.warn()
    return plan


# -- one slot --------------------------------------------------------------------------------------


def _two_arguments(configure: Configure | None, name: str) -> Callable[[ProducerConfig, int], object] | None:
    """Return ``configure`` as a function of config and index, whichever of the two forms it has."""
    if configure is None:
        return None
    expected = f"{name}: configure must be a plain function of (config, index) or (config)"
    # By name only: the repr of a partial shows its arguments.
    given = getattr(configure, "__qualname__", type(configure).__name__)
    if not callable(configure) or inspect.iscoroutinefunction(configure):
        raise SettingsError(f"{expected}; {given} isn't")
    if _takes(configure, 2):
        return cast("Callable[[ProducerConfig, int], object]", configure)
    if _takes(configure, 1):
        one = cast("Callable[[ProducerConfig], object]", configure)
        return lambda config, _index: one(config)
    raise SettingsError(f"{expected}; {given} takes other arguments")


def _takes(function: Callable[..., object], count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except (TypeError, ValueError):  # it takes others, or its signature can't be told
        return False
    return True


def _slot(
    settings: PoolSettings,
    name: str,
    index: int,
    template: Template,
    configure: Callable[[ProducerConfig, int], object] | None,
) -> SlotPlan:
    who = f"{name}[{index}]"
    # Copied one level down too: default.topic.config is a dict.
    base = {
        key: dict(value) if isinstance(value, dict) else value for key, value in settings.kafka.librdkafka().items()
    }
    config = ProducerConfig(base, deliver=settings.deliver)
    if configure is not None:
        configure(config, index)
    given, configured_id = _split(config, who)
    kafka = checked_kafka(who, given).librdkafka()
    _check_callables(kafka, who)
    transactional_id = _one_id(template.render(index), configured_id, who)
    if transactional_id is not None:
        kafka = of_transactions(kafka, settings) | kafka | {"transactional.id": transactional_id}
    chosen = "client.id" in kafka
    kafka.setdefault("client.id", f"{name}-{template.instance}-{os.getpid()}-{index}")
    for key, value in kafka.items():
        if problem := _unsendable(key):
            raise SettingsError(f"{who}: the name {key!r} {problem}")
        if problem := _unsendable(value):
            made = " (it is made of the pool's name and its instance)" if key == "client.id" and not chosen else ""
            raise SettingsError(f"{who}: {key} {problem}{made}")
    return SlotPlan(index, MappingProxyType(kafka), config.deliver, transactional_id)


def _unsendable(value: object) -> str | None:
    """Say why librdkafka would cut a text, or can't get it at all.

    Cut ids would fence each other: of ``a`` + NUL + ``{index}`` it sees the ``a``.
    """
    if isinstance(value, Mapping):  # default.topic.config
        return next(filter(None, map(_unsendable, (*value, *value.values()))), None)
    text = revealed(value)
    if isinstance(text, os.PathLike):
        text = str(text)  # as confluent-kafka takes it
    if not isinstance(text, str):
        return None
    if "\0" in text:
        return "has a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "isn't valid Unicode: it has half of a surrogate pair, as a variable whose bytes are no UTF-8"
    return None


def _check_callables(kafka: Mapping[str, object], who: str) -> None:
    for key, value in kafka.items():
        if callable(value) and key not in CALLED:
            raise SettingsError(f"{who}: {key} can't be a callable: confluent-kafka calls {' and '.join(CALLED)} only")


def _split(config: ProducerConfig, who: str) -> tuple[dict[str, object], object]:
    """Check what ``configure`` left behind, and take the transactional id out of it."""
    if not isinstance(config.kafka, Mapping):
        raise SettingsError(f"{who}: configure must leave a dict in config.kafka, not {type(config.kafka).__name__}")
    if not isinstance(config.deliver, bool):
        raise SettingsError(
            f"{who}: configure must leave a bool in config.deliver, not {type(config.deliver).__name__}"
        )
    ids = {
        key: value for key, value in config.kafka.items() if isinstance(key, str) and dotted(key) == "transactional.id"
    }
    if len(ids) > 1:
        raise SettingsError(f"{who}: transactional.id is given twice, as {' and '.join(map(repr, ids))}")
    given = {key: value for key, value in config.kafka.items() if key not in ids}
    return given, next(iter(ids.values()), None)


def _one_id(rendered: str | None, configured: object, who: str) -> str | None:
    if configured is None:
        return rendered
    if rendered is not None:
        raise SettingsError(
            f"{who}: transactional.id is set by PoolSettings.transactional_id ({rendered!r}) and again by configure: "
            "keep one of them"
        )
    if not isinstance(configured, str) or not configured:
        raise SettingsError(f"{who}: transactional.id must be text that isn't empty, got {type(configured).__name__}")
    return configured


# -- clashes ---------------------------------------------------------------------------------------


def _transactional(slots: tuple[SlotPlan, ...], name: str) -> bool:
    ids = [slot.transactional_id for slot in slots if slot.transactional_id is not None]
    if len(ids) not in (0, len(slots)):
        plain = next(slot.index for slot in slots if slot.transactional_id is None)
        raise SettingsError(
            f"{name}: {len(ids)} of {len(slots)} producers have a transactional.id and index {plain} has none: "
            "set it for all of them, or make two pools"
        )
    twice = next((each for each in ids if ids.count(each) > 1), None)
    if twice is not None:
        shared = [slot.index for slot in slots if slot.transactional_id == twice]
        raise SettingsError(f"{name}: indices {shared} share transactional.id {twice!r}: they would fence each other")
    return bool(ids)


def _transaction_timeout(slots: tuple[SlotPlan, ...], name: str) -> int:
    values = {int(cast("int", slot.kafka.get("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS))) for slot in slots}
    if len(values) > 1:
        raise SettingsError(f"{name}: transaction.timeout.ms must be the same for every index, got {sorted(values)}")
    return values.pop()


def _fitting(settings: PoolSettings, timeout_ms: int, name: str) -> PoolSettings:
    """Keep the deadlines within the transaction's life: after it the broker has aborted, and waiting is in vain."""
    over = {key for key in ("commit_timeout_ms", "abort_timeout_ms") if getattr(settings, key) > timeout_ms}
    for key in sorted(over & _chosen(settings)):
        raise SettingsError(
            f"{name}: {key}={getattr(settings, key)} exceeds transaction.timeout.ms={timeout_ms}, after which the "
            f"broker aborts: lower {key} or raise transaction.timeout.ms"
        )
    return settings.model_copy(update=dict.fromkeys(over, timeout_ms)) if over else settings


def _chosen(settings: PoolSettings) -> set[str]:
    """What was set to something else than its default.

    Not all that was set: with ``nested_model_default_partial_update`` pydantic-settings sets every field.
    """
    fields = PoolSettings.model_fields  # not those that a subclass adds
    return {key for key in settings.model_fields_set & fields.keys() if getattr(settings, key) != fields[key].default}


def _check(plan: Plan) -> None:
    if plan.transactional:
        _check_sharing(plan)
    else:
        _check_plain(plan)
    for slot in plan.slots:
        who = f"{plan.name}[{slot.index}]"
        _check_reachable(slot, who, way_to_brokers(plan.settings))
        _check_linger(slot, plan.transaction_timeout_ms if plan.transactional else _MESSAGE_TIMEOUT_MS, who)
        if plan.transactional:
            _check_demands(slot, who)
            _check_timeouts(slot, plan.transaction_timeout_ms, who)


def _check_sharing(plan: Plan) -> None:
    if plan.settings.share > 1:
        raise SettingsError(
            f"{plan.name}: share={plan.settings.share} with a transactional id: a transactional producer runs one "
            "transaction at a time. Set share=1 and a larger size"
        )


def _check_plain(plan: Plan) -> None:
    options = _TRANSACTIONAL_OPTIONS & _chosen(plan.settings)
    if any("transaction.timeout.ms" in slot.kafka for slot in plan.slots):
        options |= {"transaction.timeout.ms"}
    if options:
        raise SettingsError(
            f"{plan.name}: {', '.join(sorted(options))} without a transactional id: set transactional_id, or leave "
            "them out"
        )


def _check_reachable(slot: SlotPlan, who: str, way: str) -> None:
    if slot.remote and "bootstrap.servers" not in slot.kafka:
        near = get_close_matches("bootstrap.servers", slot.kafka, n=1, cutoff=0.8)
        near += [key for key in slot.kafka if KafkaSettings.nearly(key) == "bootstrap.servers"]
        hint = f" ({near[0]} is set, and is no setting)" if near else ""
        raise SettingsError(
            f"{who}: bootstrap.servers is missing{hint}: set kafka.bootstrap_servers{way}, or deliver=False to "
            "keep messages in memory"
        )


def _check_linger(slot: SlotPlan, default_ms: int, who: str) -> None:
    linger: Any = slot.effective.get("linger.ms", 0)
    timeout: Any = slot.effective.get("message.timeout.ms", default_ms)
    if timeout and linger >= timeout:
        raise SettingsError(
            f"{who}: linger.ms={linger:g} doesn't end before message.timeout.ms={timeout}: every message would expire"
        )


def _check_demands(slot: SlotPlan, who: str) -> None:
    for key, holds, demand in _DEMANDS:
        if key in slot.effective and not holds(slot.effective[key]):
            raise SettingsError(
                f"{who}: {key}={slot.effective[key]} with a transactional id: it must be {demand}; leave it out"
            )


def _check_timeouts(slot: SlotPlan, transaction_timeout_ms: int, who: str) -> None:
    for key in ("message.timeout.ms", "socket.timeout.ms"):
        value = cast("int", slot.effective.get(key, transaction_timeout_ms))
        # message.timeout.ms=0 is without end; librdkafka lets it pass.
        if not 0 < value <= transaction_timeout_ms:
            raise SettingsError(
                f"{who}: {key}={value}{' (without end)' if value == 0 else ''} exceeds "
                f"transaction.timeout.ms={transaction_timeout_ms}: lower {key} or raise transaction.timeout.ms"
            )
