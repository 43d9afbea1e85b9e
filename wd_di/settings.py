"""Which settings a pool has, what they mean, and which values each of them takes.

Clashes between settings are found in ``_slots/plan``: they need the pool's name and what ``configure`` made of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from inspect import isawaitable, iscoroutine
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from wd_di._settings.environment import Settings
from wd_di._settings.kafka import MAX_INT, Frozen, KafkaSettings, is_kafkas
from wd_di._settings.names import OF_RECORDS, dotted
from wd_di._settings.passed import kind_of
from wd_di._settings.problems import all_problems, problem, retold
from wd_di._settings.shapes import WAY
from wd_di._settings.warned import SettingsWarning, outside, short_timeout
from wd_di.errors import SettingsError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["KafkaSettings", "PoolSettings", "Settings", "SettingsWarning"]

Ms = Annotated[int, Field(ge=0, le=MAX_INT)]
PositiveMs = Annotated[int, Field(ge=1, le=MAX_INT)]


class PoolSettings(Frozen):
    """One pool. Durations are milliseconds; unknown fields are refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    size: int = Field(default=5, ge=1)
    """How many producers the pool holds at most."""
    timeout_ms: Ms = 5_000
    """How long a checkout may take: waiting, connecting and initialising together. Also accepted as ``timeout``."""
    kafka: KafkaSettings = KafkaSettings()
    transactional_id: str | None = Field(default=None, min_length=1)
    """Template of the producers' ids, with ``{index}``, ``{instance}``, ``{pool}``, ``{host}`` and ``{pid}``."""
    instance: str | None = Field(default=None, min_length=1)
    """What tells this process from its replicas and stays through a restart: the pod's ordinal, the worker's number."""
    deliver: bool = True
    """Whether messages go to Kafka; if not, to a broker in memory."""

    order: Literal["fifo", "lifo"] | None = None
    """Which idle producer is next: by default ``"fifo"`` for transactional pools, else ``"lifo"``."""
    warm: bool | None = None
    """Whether ``open`` connects all producers: by default for transactional pools only."""
    share: int = Field(default=1, ge=1)
    """How many borrowers use one producer at once; transactional producers are never shared."""
    max_waiting: int | None = Field(default=None, ge=0)
    """How many checkouts may wait; one more is refused at once."""

    produce_timeout_ms: Ms = 30_000
    commit_timeout_ms: PositiveMs = 10_000
    abort_timeout_ms: PositiveMs = 3_000
    resolve_timeout_ms: Ms = 10_000
    """How long to look for the outcome of a commit whose answer is missing; 0 doesn't look."""
    open_timeout_ms: Ms = 30_000
    close_timeout_ms: Ms = 30_000
    open_policy: Literal["fail", "background"] = "fail"
    """``"background"`` starts degraded when Kafka can't be reached, and goes on connecting."""

    max_lifetime_ms: PositiveMs | None = None
    """Age at which a producer is replaced on its return."""
    idle_timeout_ms: PositiveMs | None = None
    """How long a producer may stay idle before it is closed."""
    leak_after_ms: PositiveMs | None = None
    """How long a producer may be held before its holder is reported."""
    transactional_id_expiry_ms: PositiveMs = 604_800_000
    """The brokers' ``transactional.id.expiration.ms``: they forget an id that is idle for longer, 7 days by default.

    A producer that was idle for 80 % of it is initialised again before it is used, also where it was held meanwhile.
    """

    implicit_transactions: bool = True
    """Whether producing outside a transaction on a transactional pool opens one around the call."""
    allow_blocking_in_loop: bool = False
    """Whether blocking calls are allowed on a thread with a running event loop, as in notebooks."""
    fenced_retries: int = Field(default=3, ge=0)
    """How many times per ten minutes a fenced producer is initialised again."""
    ids_held_elsewhere: Literal["warn", "refuse"] = "warn"
    """What to do if another process of this host has a producer's id: take it all the same, or refuse to."""

    def on(self, kafka: KafkaSettings, /) -> Self:
        """Return these settings with what several pools have in common of Kafka's, such as addresses and SASL.

        Args:
            kafka: What is given once for all of them; what this pool says itself is stronger.
        """
        common, own = kafka.librdkafka(), self.kafka.librdkafka()
        return self.model_copy(update={"kafka": type(self.kafka).of({**common, **own})})

    @model_validator(mode="wrap")
    @classmethod
    def _with_near_names(cls, data: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Say of a field that there isn't which one was meant."""
        try:
            return handler(data)
        except ValidationError as error:
            told = _near_names(error, cls)
        raise told  # outside of the handler: the original may show inputs

    @model_validator(mode="before")
    @classmethod
    def _timeout_is_timeout_ms(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        values = cls._in_one_form(dict(data))
        if "timeout" in data and (text := short_timeout(data["timeout"])):
            warnings.warn(text, SettingsWarning, outside())
        if "timeout" in values:
            raise ValueError(
                "timeout and timeout_ms are one setting (in milliseconds), given twice with different values"
            )
        kafkas = [key for key in values if key not in cls.model_fields and is_kafkas(key)]
        if kafkas and cls.model_config.get("extra") == "forbid":
            raise ValueError(f"{', '.join(kafkas)} is Kafka's own: it belongs into the field kafka")
        return values

    @classmethod
    def _in_one_form(cls, given: dict[str, object]) -> dict[str, object]:
        if "timeout" not in given or str(given.get("timeout_ms", given["timeout"])) != str(given["timeout"]):
            return given
        return {"timeout_ms": given["timeout"]} | {key: each for key, each in given.items() if key != "timeout"}


def _near_names(error: ValidationError, kind: type[PoolSettings]) -> ValidationError:
    def text(each: ErrorDetails) -> str:
        extra = each["type"] == "extra_forbidden" and len(each["loc"]) == 1
        return _no_setting(each["loc"][0], kind) if extra else each["msg"]

    found = any(each["type"] == "extra_forbidden" for each in error.errors(include_url=False, include_context=False))
    return retold(error, text) if found else error


# -- for the pool, which doesn't know pydantic -----------------------------------------------------


def left_open(settings: PoolSettings, name: str) -> bool:
    """Whether nobody chose this setting: also where a default was updated in part, which sets every field."""
    chosen, fields = settings.model_fields_set, PoolSettings.model_fields
    return name not in chosen or (chosen >= fields.keys() and getattr(settings, name) == fields[name].default)


def way_to_brokers(settings: PoolSettings) -> str:
    """Return which variable says where the brokers are, if the settings are of a ``Settings``; else nothing."""
    return str(settings.__dict__.get(WAY, ""))


def checked_pool(name: object, given: object) -> PoolSettings:
    """Validate what a pool was given as its settings, again where they may have been changed since.

    Args:
        name: The pool's name.
        given: A ``PoolSettings``, which ``model_copy`` doesn't validate, or a mapping of its fields, as
            ``providers.Configuration`` gives it; ``None`` in a mapping is as if not given.

    Raises:
        SettingsError: Names the pool, and each field that is wrong, or else what was given. No value is shown.
    """
    if not isinstance(name, str) or not name:
        raise SettingsError(f"the name of a pool is text that isn't empty, got {kind_of(name)}")
    if isinstance(given, PoolSettings):
        if misplaced := _misplaced(given):
            raise SettingsError(f"{name}: {misplaced}")
        values = {key: getattr(given, key) for key in PoolSettings.model_fields if key in given.model_fields_set}
    elif isinstance(given, Mapping):
        values = {key: value for key, value in given.items() if value is not None}
    else:
        raise SettingsError(f"{name}: {_no_settings(given)}")
    kafka = values.get("kafka")
    if isinstance(kafka, KafkaSettings):
        values["kafka"] = kafka.librdkafka() | _besides_fields(kafka)
    try:
        checked = PoolSettings.model_validate(values)
        if isinstance(kafka, KafkaSettings):
            again = type(kafka).of(values["kafka"])
            checked = checked.model_copy(update={"kafka": kafka if again == kafka else again})
    except ValidationError as error:
        problems = all_problems(error, _problem)
    else:
        return _unless_changed(given, checked) if isinstance(given, PoolSettings) else checked
    raise SettingsError(f"{name}: {problems}")


def _misplaced(given: PoolSettings) -> str:
    """Say what ``model_copy`` was told to update that is no field: pydantic keeps it where nobody looks for it."""
    names = _besides_fields(given)
    if type(given).model_config.get("extra") != "forbid":  # a subclass wants them, but for what it would have renamed
        names = {key: each for key, each in names.items() if key == "timeout"}
    return "; ".join(f"{key}: {_no_setting(key)}" for key in names)


def _besides_fields(given: BaseModel) -> dict[str, object]:
    others = {**given.__dict__, **(given.model_extra or {})}
    return {key: others[key] for key in others if key in given.model_fields_set - type(given).model_fields.keys()}


def _no_setting(key: object, kind: type[PoolSettings] = PoolSettings) -> str:
    """Say what to write in place of a key that is no field of ``PoolSettings``, or of the class based on it."""
    if key == "timeout":
        return "model_copy takes the fields' own names only: it is timeout_ms"
    if key in OF_RECORDS:
        return OF_RECORDS[str(key)]
    if is_kafkas(key):
        return "it is Kafka's own: it belongs into the field kafka"
    like = str(key).lower().replace("-", "_").replace(".", "_")
    near = get_close_matches(like, kind.model_fields, n=1)
    if not near and (kafkas := KafkaSettings.nearly(like)):
        near = [f"kafka.{kafkas.replace('.', '_')}"]
    return f"a pool has no such setting{f', did you mean {near[0]}?' if near else ''}"


def _unless_changed(given: PoolSettings, checked: PoolSettings) -> PoolSettings:
    """Return what was given, of whatever subclass, with the values that the validation made others of."""
    made = {key: getattr(checked, key) for key in checked.model_fields_set}
    others = {key: each for key, each in made.items() if not _same(each, getattr(given, key))}
    return given.model_copy(update=others) if others else given


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other


def _no_settings(given: object) -> str:
    if iscoroutine(given):
        given.close()  # or Python complains that nobody awaited it
    text = f"the settings of a pool are a PoolSettings or a mapping of its fields, not {kind_of(given)}"
    ways: list[tuple[object, str]] = [
        (given is None, "pass one, in a container for example PoolResource(settings.provided.orders)"),
        (isinstance(given, KafkaSettings), "pass PoolSettings(kafka=...)"),
        (isinstance(given, str) and given.lstrip().startswith("{"), "JSON is read before, as by json.loads"),
        (isinstance(given, str), "a pool's name is passed as name=..."),
        (isawaitable(given), "await it before, and pass what it returns: a pool doesn't wait for its settings"),
        (isinstance(given, type), "pass an instance"),
        (pools := _pools_in(given), _one_of(pools)),
        (missing := undefined(given), f"{missing}, and pass what it returns then"),
        (callable(given), "pass what it returns"),
    ]
    return ": ".join([text, *[way for holds, way in ways if holds][:1]])


def _one_of(pools: list[str]) -> str:
    return f"pass one of its pools ({', '.join(pools)}), in a container settings.provided.{pools[0]}" if pools else ""


def undefined(provider: Any) -> str | None:
    """Say what is missing if this is an option of dependency-injector's ``Configuration``, or one, without a value."""
    kind = type(provider)  # asked in place of the option, which answers every name with an option
    if not hasattr(kind, "__IS_PROVIDER__"):
        return None
    if hasattr(kind, "option"):  # config.orders.as_(...), which fails in its own way without a value
        return undefined(provider.option)
    if not hasattr(kind, "get_name"):
        return None
    with suppress(Exception):  # in strict mode it raises
        value = provider()
        if value is not None and (value or hasattr(kind, "get_name_segments")):  # an option may be an empty mapping
            return None
    load = "check its name and load the configuration before, with config.from_yaml or config.from_dict for example"
    return f"the configuration option {provider.get_name()} isn't defined, or not loaded yet: {load}"


def _pools_in(given: object) -> list[str]:
    fields = type(given).model_fields if isinstance(given, BaseModel) else {}
    return [name for name in fields if isinstance(getattr(given, name, None), PoolSettings)]


def _problem(error: ErrorDetails) -> str:
    if not error["loc"]:
        return problem(error, ())
    first, *others = map(str, error["loc"])
    if error["type"] == "extra_forbidden" and not others:
        inner = isinstance(error["input"], Mapping | PoolSettings)
        alone = f"a pool has no such setting: if these are the pool's, pass them alone, as config.{first}"
        way = alone if inner else _no_setting(first)
        return f"{first or repr(first)}: {way}, got {type(error['input']).__name__}"
    return problem(error, [first, *map(dotted, others)] if first in PoolSettings.model_fields else [dotted(first)])
