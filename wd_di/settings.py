"""Which settings there are, what they mean, and which values each of them takes.

Clashes between settings are found in ``_plan``: they need the pool's name and what ``configure`` made of them.
"""

from __future__ import annotations

import json
import os
import re
import warnings
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from difflib import get_close_matches
from enum import Enum
from functools import wraps
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from wd_di._names import (
    CALLED,
    INSTEAD,
    TOPIC_DEFAULTS,
    TOPIC_SETTINGS,
    UNTYPED,
    dotted,
    in_one_form,
    is_property,
    looks_secret,
    nearly,
    under_names,
)
from wd_di._sources import all_in_one_form, beneath, reading
from wd_di._variables import Given, misspelt_arguments, outside, short_timeout
from wd_di.errors import SettingsError

_MAX_INT = 2_147_483_647


class SettingsWarning(UserWarning):
    """Settings that are taken, and were likely meant otherwise or surprise on the second machine."""


# -- what may be shown, and what is passed on ------------------------------------------------------

_MASK = str(SecretStr("?"))
MISSPELT = 0.85
"""How near an unknown name must be to a setting's to be taken for it: hidden like a secret, or told."""


def is_secret(key: str) -> bool:
    """Return whether the value of this key must never be shown, judging unknown keys by their name."""
    name = dotted(key)
    known = _holds_secret(name)
    if known is not None:
        return known
    if looks_secret(name) or ("." in name and is_secret(name.rpartition(".")[0])):  # what is within a secret
        return True
    meant = nearly(name, KafkaSettings.model_fields, MISSPELT)
    return meant is not None and _holds_secret(dotted(meant)) is True


def _holds_secret(name: str) -> bool | None:
    """Whether the setting of this name is a secret; ``None`` if there is none."""
    field = KafkaSettings.model_fields.get(name.replace(".", "_"))
    return None if field is None else SecretStr in get_args(field.annotation)


def shown(values: Mapping[str, object]) -> dict[str, object]:
    """Return what may be printed of these keys: no secrets, and callables by name (a partial shows its arguments)."""
    return {key: _shown(str(key), value) for key, value in values.items()}


def _shown(key: str, value: object) -> object:
    if isinstance(value, Mapping):
        return {inner: _shown(f"{key}.{inner}", each) for inner, each in value.items()}
    if callable(value):
        return f"<{getattr(value, '__qualname__', type(value).__name__)}>"
    if is_secret(key):
        return SecretStr("hidden")
    return value if value is None or isinstance(value, _TEXT_LIKE) else f"<{type(value).__name__}>"


# confluent-kafka sends str() of whatever it is given: of these it is what was meant.
_TEXT_LIKE = (str, int, float, Decimal, PurePath, SecretStr)


def _passed_through(name: str, value: object, beside: Mapping[str, object], fields: Iterable[str]) -> object:
    """Check a value without a typed field: librdkafka takes text, confluent-kafka also callables and a logger."""
    if name in INSTEAD and (name, value) != ("delivery.report.only.error", False):
        raise ValueError(f"{name} can't be set for a pool's producers: {INSTEAD[name]}")
    _refuse_json(name, value, fields)
    if name == TOPIC_DEFAULTS:
        return _topic_defaults(value, beside)
    longer = [each for each in fields if each.startswith(f"{name}.")]
    if longer:
        raise ValueError(f"{name} is no setting, only the beginning of some: {', '.join(longer)}")
    kind = "a coroutine function" if iscoroutinefunction(value) else _kind(value)
    if name == "logger" and (isinstance(value, type) or not callable(getattr(value, "log", None))):
        raise ValueError(f"logger takes a logging.Logger, not {kind}")
    if name in CALLED and (not callable(value) or iscoroutinefunction(value)):
        raise ValueError(f"{name} takes a plain function, not {kind}")
    if name == "logger" or callable(value):
        return value
    value = value.value if isinstance(value, Enum) else value
    if not isinstance(value, _TEXT_LIKE):
        # Of others str() is no value: "b'...'", "['...']", "<object at 0x...>" or asterisks.
        raise ValueError(f"{name} takes a string, number, boolean or callable, not {kind}")  # noqa: TRY004  (as below)
    return _unmasked(name, value if isinstance(value, SecretStr) or not is_secret(name) else SecretStr(str(value)))


def _refuse_json(name: str, value: object, fields: Iterable[str]) -> None:
    """Refuse a text that holds JSON: pydantic-settings reads it for a whole field only, and librdkafka never."""
    if "." in name and is_secret(name):  # it may be a key in JSON; ssl_key takes none
        return
    read = _json(value)
    if isinstance(read, list):
        raise ValueError(f"{name} takes text, not a JSON list: separate its values by commas")  # noqa: TRY004  (as below)
    if not isinstance(read, dict):
        return
    inner: list[str] = []
    with suppress(ValueError):
        inner = (
            [f"{name}__{key}" for key in under_names(read)] if name == TOPIC_DEFAULTS else [*under_names({name: read})]
        )
    known = [each for each in inner if each in fields] or [each for each in fields if each.startswith(f"{name}.")][:3]
    start, example = _variables_start(name, value), ""
    if start is None:
        start, example = "ORDERS__KAFKA__", "for a pool 'orders' for example "
    variables = ", ".join(f"{start}{each.replace('.', '_').upper()}" for each in known or inner or [name])
    raise ValueError(
        f"{name} is given JSON, which is read for the whole of the field kafka and not for a part of it: in the "
        f"environment each setting has a variable of its own, {example}{variables}"
    )


def _variables_start(name: str, value: object) -> str | None:
    """Return what the environment's variable with this value has before the name of the setting."""
    ending = r"[._]+".join(map(re.escape, re.split(r"[._]+", name)))
    found = (re.fullmatch(f"(.*?){ending}", key, re.IGNORECASE) for key, each in os.environ.items() if each == value)
    return next((match[1] for match in found if match), None)


def _json(value: object) -> object:
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return None


def _topic_defaults(value: object, beside: Mapping[str, object]) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{TOPIC_DEFAULTS} takes a mapping, not {_kind(value)}")  # noqa: TRY004  (pydantic passes ValueError on)
    values = under_names(value)
    others = sorted(values.keys() - TOPIC_SETTINGS)
    if others:
        raise ValueError(f"{', '.join(others)} can't stand in {TOPIC_DEFAULTS}: set it beside that")
    twice = [name for name in values if name in beside and str(values[name]) != str(beside[name])]
    if twice:
        raise ValueError(f"{', '.join(twice)} is given twice with different values, in {TOPIC_DEFAULTS} and beside it")
    return checked_kafka(TOPIC_DEFAULTS, values).librdkafka()


def _unmasked(name: str, value: object) -> object:
    """Refuse a secret that was read back from a dump, before Kafka does: pydantic writes asterisks in its place."""
    if isinstance(value, SecretStr) and value.get_secret_value() == _MASK:
        raise ValueError(f"{name} is nothing but asterisks, as a dump in JSON shows a secret: its value is lost")
    return value


def _kind(given: object) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__


# -- the values ----------------------------------------------------------------------------------


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _acks(value: object) -> object:
    if not isinstance(value, str):
        return value
    return int(value) if value in {"-1", "0", "1"} else value.lower()


Acks = Annotated[Literal["all", -1, 0, 1], BeforeValidator(_acks)]
Compression = Annotated[Literal["none", "gzip", "snappy", "lz4", "zstd"], BeforeValidator(_lower)]
SecurityProtocol = Annotated[Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"], BeforeValidator(_lower)]
SaslMechanism = Annotated[
    Literal["GSSAPI", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"], BeforeValidator(_upper)
]


class _Frozen(BaseModel):
    # A failed validation prints its whole input unless hidden, passwords included.
    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        # JSON in a variable may hold an ordinal or a password made of digits.
        coerce_numbers_to_str=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_as_number(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise ValueError("a boolean isn't a value of this setting")
        return value


class KafkaSettings(_Frozen):
    """What librdkafka is told, as typed fields; every other key is passed through.

    Keys may be dotted or underscored, also in the environment: ``linger.ms`` and ``linger_ms`` are one setting. Fields
    mean what librdkafka's CONFIGURATION.md says of the same name, in its units; what isn't set keeps its default there.
    Values whose name looks secret are hidden, also under unknown keys.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    bootstrap_servers: str | None = Field(default=None, min_length=1)
    """Comma-separated ``host:port`` list to find the cluster with."""
    client_id: str | None = None
    """Name in the brokers' logs and quotas; by default made of the pool, the instance, the process and the index."""
    client_rack: str | None = None
    client_dns_lookup: Literal["use_all_dns_ips", "resolve_canonical_bootstrap_servers_only"] | None = None

    acks: Acks | None = None
    enable_idempotence: bool | None = None
    max_in_flight_requests_per_connection: int | None = Field(default=None, ge=1, le=1_000_000)
    retries: int | None = Field(default=None, ge=0, le=_MAX_INT)
    retry_backoff_ms: int | None = Field(default=None, ge=1, le=300_000)
    retry_backoff_max_ms: int | None = Field(default=None, ge=1, le=300_000)
    partitioner: str | None = None

    linger_ms: float | None = Field(default=None, ge=0, le=900_000)
    """How long a batch may wait for more messages; fractions of a millisecond are allowed."""
    batch_size: int | None = Field(default=None, ge=1, le=_MAX_INT)
    batch_num_messages: int | None = Field(default=None, ge=1, le=1_000_000)
    compression_type: Compression | None = None
    compression_level: int | None = Field(default=None, ge=-1, le=12)
    message_max_bytes: int | None = Field(default=None, ge=1_000, le=1_000_000_000)
    queue_buffering_max_messages: int | None = Field(default=None, ge=0, le=_MAX_INT)
    queue_buffering_max_kbytes: int | None = Field(default=None, ge=1, le=_MAX_INT)

    message_timeout_ms: int | None = Field(default=None, ge=0, le=_MAX_INT)
    """How long a message may take to be delivered, retries included; 0 is without end. Also ``delivery.timeout.ms``."""
    request_timeout_ms: int | None = Field(default=None, ge=1, le=900_000)
    socket_timeout_ms: int | None = Field(default=None, ge=10, le=300_000)
    socket_connection_setup_timeout_ms: int | None = Field(default=None, ge=1_000, le=_MAX_INT)
    transaction_timeout_ms: int | None = Field(default=None, ge=1_000, le=_MAX_INT)
    """After this long the broker aborts an open transaction. Transactional pools set 15,000 (librdkafka: 60,000)."""
    reconnect_backoff_ms: int | None = Field(default=None, ge=0, le=3_600_000)
    reconnect_backoff_max_ms: int | None = Field(default=None, ge=0, le=3_600_000)
    connections_max_idle_ms: int | None = Field(default=None, ge=0, le=_MAX_INT)
    topic_metadata_propagation_max_ms: int | None = Field(default=None, ge=0, le=3_600_000)
    statistics_interval_ms: int | None = Field(default=None, ge=0, le=86_400_000)

    security_protocol: SecurityProtocol | None = None
    sasl_mechanism: SaslMechanism | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_oauthbearer_config: SecretStr | None = None
    sasl_oauthbearer_method: Literal["default", "oidc"] | None = None
    sasl_oauthbearer_client_id: str | None = None
    sasl_oauthbearer_client_secret: SecretStr | None = None
    sasl_oauthbearer_scope: str | None = None
    sasl_oauthbearer_extensions: str | None = None
    sasl_oauthbearer_token_endpoint_url: str | None = None
    sasl_oauthbearer_grant_type: str | None = None
    sasl_oauthbearer_assertion_private_key_file: str | None = None
    sasl_oauthbearer_assertion_private_key_passphrase: SecretStr | None = None
    sasl_oauthbearer_assertion_private_key_pem: SecretStr | None = None

    ssl_ca_location: str | None = None
    ssl_ca_pem: str | None = None
    ssl_certificate_location: str | None = None
    ssl_certificate_pem: str | None = None
    ssl_key_location: str | None = None
    ssl_key_pem: SecretStr | None = None
    ssl_key_password: SecretStr | None = None
    ssl_keystore_location: str | None = None
    ssl_keystore_password: SecretStr | None = None
    ssl_endpoint_identification_algorithm: Literal["none", "https"] | None = None
    enable_ssl_certificate_verification: bool | None = None

    test_mock_num_brokers: int | None = Field(default=None, ge=0, le=10_000)
    """Brokers of the in-process mock cluster that each producer starts for itself, instead of connecting to Kafka."""

    @classmethod
    def of(cls, settings: Mapping[str, object], /) -> Self:
        """Build from a mapping under librdkafka's own names.

        Args:
            settings: Dotted or underscored keys, typed or not; ``None`` means not set.

        Raises:
            pydantic.ValidationError: A value is wrong, a setting is given twice, or ``transactional.id`` is among them.
        """
        return cls.model_validate(settings)

    def librdkafka(self) -> dict[str, object]:
        """Return what was set, under librdkafka's names; secrets stay ``SecretStr``."""
        values = {dotted(name): getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if value is not None} | (self.model_extra or {})

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return shown(self.librdkafka()).items()

    @model_validator(mode="before")
    @classmethod
    def _one_name_each(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        values = under_names(data)
        if "transactional.id" in values:
            raise ValueError(
                "transactional.id can't be shared by the producers of a pool: set PoolSettings.transactional_id, "
                "for example 'shop-orders-{instance}-{index}'"
            )
        fields = cls._fields()
        others = {name: _passed_through(name, values[name], values, fields) for name in values.keys() - fields.keys()}
        return {fields.get(name, name): others.get(name, value) for name, value in values.items()}

    @field_validator("bootstrap_servers", mode="before")
    @classmethod
    def _no_list(cls, value: object) -> object:
        if isinstance(value, list | tuple | set | frozenset) or isinstance(_json(value), list):
            raise ValueError("it takes one text with commas in between, as 'one:9092,two:9092', not a list")  # noqa: TRY004  (pydantic passes ValueError on)
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _no_mask(cls, value: object, info: ValidationInfo) -> object:
        return _unmasked(dotted(str(info.field_name)), value)

    @classmethod
    def _fields(cls) -> dict[str, str]:
        return {dotted(name): name for name in cls.model_fields}

    @classmethod
    def knows(cls, name: str) -> bool:
        """Whether there is a setting of this name, in whatever spelling."""
        return dotted(name).replace(".", "_") in cls.model_fields or is_property(name)

    @classmethod
    def nearly(cls, name: str) -> str | None:
        """Return the setting that this name is nearly, unless it is one."""
        return None if cls.knows(name) else nearly(name, cls.model_fields, MISSPELT)

    @classmethod
    def _in_one_form(cls, given: dict[Any, Any]) -> dict[Any, Any]:
        return in_one_form(given, cls._fields())


Ms = Annotated[int, Field(ge=0, le=_MAX_INT)]
PositiveMs = Annotated[int, Field(ge=1, le=_MAX_INT)]


class PoolSettings(_Frozen):
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
    """How long to look for the outcome of a commit whose answer is missing; accepted, and without effect yet."""
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

    def on(self, kafka: KafkaSettings, /) -> Self:
        """Return these settings with what several pools have in common of Kafka's, such as addresses and SASL.

        Args:
            kafka: What is given once for all of them; what this pool says itself is stronger.
        """
        common, own = kafka.librdkafka(), self.kafka.librdkafka()
        return self.model_copy(update={"kafka": type(self.kafka).of({**common, **own})})

    @model_validator(mode="wrap")
    @classmethod
    def _with_near_names(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
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
        kafkas = [key for key in values if key not in cls.model_fields and _is_kafkas(key)]
        if kafkas and cls.model_config.get("extra") == "forbid":
            raise ValueError(f"{', '.join(kafkas)} is Kafka's own: it belongs into the field kafka")
        return values

    @classmethod
    def _in_one_form(cls, given: dict[Any, Any]) -> dict[Any, Any]:
        if "timeout" not in given or str(given.get("timeout_ms", given["timeout"])) != str(given["timeout"]):
            return given
        return {"timeout_ms": given["timeout"]} | {key: each for key, each in given.items() if key != "timeout"}


def _near_names(error: ValidationError, kind: type[PoolSettings]) -> ValidationError:
    problems = error.errors(include_url=False, include_context=False)
    if all(each["type"] != "extra_forbidden" for each in problems):
        return error
    details: list[InitErrorDetails] = []
    for each in problems:
        extra = each["type"] == "extra_forbidden" and len(each["loc"]) == 1
        text = _no_setting(each["loc"][0], kind) if extra else each["msg"]
        custom = PydanticCustomError(each["type"], "{text}", {"text": text})
        details.append(InitErrorDetails(type=custom, loc=each["loc"], input=each["input"]))
    return ValidationError.from_exception_data(error.title, details, hide_input=True)


def _is_kafkas(key: object) -> bool:
    if not isinstance(key, str):
        return False
    names = {dotted(name) for name in KafkaSettings.model_fields}
    # ORDERS__KAFKA_LINGER_MS lacks an underscore.
    own = dotted(key).removeprefix("kafka.")
    return own in UNTYPED or any(f"{name}.".startswith(f"{own}.") for name in names)


class Settings(BaseSettings):
    """Base of an application's settings: one field for each pool, from the environment.

    A dotenv file and a folder of secrets are read where a class names them: ``env_file`` and ``secrets_dir``.
    ``ORDERS__KAFKA__SASL_PASSWORD`` and a file ``orders__kafka__sasl_password`` in ``secrets_dir`` both fill
    ``orders.kafka.sasl_password``. Inputs are hidden in validation errors, since they hold passwords (but for
    ``ValidationError.errors()``, which isn't meant to be printed); a plain ``BaseSettings`` around pools prints them.

    The names of pools' and Kafka's settings are brought to one form in each source, also in those that a subclass adds
    by ``settings_customise_sources``. So the stronger source wins, whichever way each of them spells a setting.

    A variable changes one setting of a default and leaves the others. One that is near to a pool's or Kafka's, such as
    ``ORDER__SIZE``, is a warning; a validation error names the variable, or the file, that it is about.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_nested_delimiter="__",
        # Else ORDERS__SIZE=3 replaces a default as a whole, its transactional_id with it.
        nested_model_default_partial_update=True,
        # A dotenv file is often shared with other programs.
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    def __init__(self, **values: Any) -> None:
        with reading() as sources:
            try:
                super().__init__(**values)
            except ValidationError as error:
                told = _told(error, Given(type(self), sources, _kinds))
            else:
                given = Given(type(self), sources, _kinds)
                for remark in given.remarks(misspelt_arguments(type(self), values)):
                    warnings.warn(f"{type(self).__name__}: {remark}", SettingsWarning, outside())
                return
        raise told  # outside of the handler: the original may show inputs

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy with changes, as pydantic does; a name that is no field would be kept where nobody looks.

        Raises:
            SettingsError: Names what is no field.
        """
        kind = type(self)
        # What the class itself has, such as a cached property, may be set so.
        others = [name for name in update or () if name not in kind.model_fields and not hasattr(kind, str(name))]
        if others and kind.model_config.get("extra") != "allow":
            near = get_close_matches(str(others[0]).lower(), kind.model_fields, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise SettingsError(f"{kind.__name__}: model_copy was told of {others[0]!r}, which is no field{hint}")
        return super().model_copy(update=update, deep=deep)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  (pydantic-settings passes it by name)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the secrets folder with nested names too: pydantic-settings' own source fills top-level fields only."""
        return (init_settings, env_settings, dotenv_settings, NestedSecretsSettingsSource(file_secret_settings))

    def __init_subclass__(cls, **options: Any) -> None:
        """Have the sources of the class in one form, whoever chose them."""
        super().__init_subclass__(**options)
        _kinds.add(cls)
        chosen = cls.settings_customise_sources.__func__  # type: ignore[attr-defined]  # mypy: a bound method has one

        @wraps(chosen)
        def sources(cls: type[Settings], settings_cls: type[BaseSettings], *own: Any, **named: Any) -> tuple[Any, ...]:
            given = chosen(cls, settings_cls, *own, **named)
            others = tuple(each for each in given if not isinstance(each, _Defaults))  # a parent's wrapper adds one too
            return (*all_in_one_form(others, settings_cls), _Defaults(settings_cls))

        cls.settings_customise_sources = classmethod(sources)  # type: ignore[assignment,method-assign]


class _Defaults(PydanticBaseSettingsSource):
    """Defaults that are changed in part where pydantic-settings doesn't look: factories, mappings, parts of models."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002  (abstract)
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        if not self.config.get("nested_model_default_partial_update"):
            return {}
        arguments = self.settings_sources_data.get("InitSettingsSource")
        return beneath(self.settings_cls, self.current_state, dict, arguments, TypeAdapter(Any).dump_python)


_kinds: weakref.WeakSet[type[Settings]] = weakref.WeakSet()


def _told(error: ValidationError, given: Given) -> ValidationError:
    """Return the error with the variables that it is about."""
    details: list[InitErrorDetails] = []
    for each in error.errors(include_url=False, include_context=False):
        text = each["msg"] + given.hint(each["loc"], each["type"], each["msg"])
        custom = PydanticCustomError(each["type"], "{text}", {"text": text})
        details.append(InitErrorDetails(type=custom, loc=each["loc"], input=each["input"]))
    return ValidationError.from_exception_data(error.title, details, hide_input=True)


# -- for _plan and the pool, which don't know pydantic ---------------------------------------------


def checked_kafka(who: str, given: Mapping[str, object]) -> KafkaSettings:
    """Validate what ``configure`` left behind.

    Args:
        who: The pool and the slot, for the message.
        given: Keys and values, among them secrets: the error names the value's kind only.

    Raises:
        SettingsError: Names each key that is wrong.
    """
    try:
        return KafkaSettings.of(given)
    except ValidationError as error:
        problems = _problems(error)
    # Outside the handler: the original holds the values.
    raise SettingsError(f"{who}: {problems}")


def near_setting(name: str) -> str:
    """Return the setting of Kafka's that a name may mean which librdkafka doesn't know, as a question, or nothing."""
    near = nearly(name, KafkaSettings.model_fields, 0.75)
    return f", did you mean {near}?" if near else ""


def left_open(settings: PoolSettings, name: str) -> bool:
    """Whether nobody chose this setting: also where a default was updated in part, which sets every field."""
    chosen, fields = settings.model_fields_set, PoolSettings.model_fields
    return name not in chosen or (chosen >= fields.keys() and getattr(settings, name) == fields[name].default)


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
        raise SettingsError(f"the name of a pool is text that isn't empty, got {_kind(name)}")
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
        problems = _problems(error)
    else:
        return _unless_changed(given, checked) if isinstance(given, PoolSettings) else checked
    raise SettingsError(f"{name}: {problems}")


def _misplaced(given: PoolSettings) -> str:
    """Say what ``model_copy`` was told to update that is no field: pydantic keeps it where nobody looks for it."""
    names = _besides_fields(given)
    if type(given).model_config.get("extra") != "forbid":  # a subclass wants them, but for what it would have renamed
        names = {key: each for key, each in names.items() if key == "timeout"}
    return "; ".join(f"{key}: {_no_setting(key)}" for key in names)


def _besides_fields(given: BaseModel) -> dict[Any, object]:
    others = {**given.__dict__, **(given.model_extra or {})}
    return {key: others[key] for key in others if key in given.model_fields_set - type(given).model_fields.keys()}


def _no_setting(key: object, kind: type[PoolSettings] = PoolSettings) -> str:
    """Say what to write in place of a key that is no field of ``PoolSettings``, or of the class based on it."""
    if key == "timeout":
        return "model_copy takes the fields' own names only: it is timeout_ms"
    if _is_kafkas(key):
        return "it is Kafka's own: it belongs into the field kafka"
    like = str(key).lower().replace("-", "_").replace(".", "_")
    near = get_close_matches(like, kind.model_fields, n=1)
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
    text = f"the settings of a pool are a PoolSettings or a mapping of its fields, not {_kind(given)}"
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


def _problems(error: ValidationError) -> str:
    return "; ".join(_problem(each) for each in error.errors(include_url=False))


def _problem(error: Mapping[str, Any]) -> str:
    text = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return text
    first, *others = map(str, error["loc"])
    if error["type"] == "extra_forbidden" and not others:
        inner = isinstance(error["input"], Mapping | PoolSettings)
        alone = f"a pool has no such setting: if these are the pool's, pass them alone, as config.{first}"
        way = alone if inner else _no_setting(first)
        return f"{first or repr(first)}: {way}, got {type(error['input']).__name__}"
    if hasattr(type(error["input"]), "__IS_PROVIDER__"):
        text = "a provider in a plain mapping isn't asked: make the mapping a providers.Dict"
    where = [first, *map(dotted, others)] if first in PoolSettings.model_fields else [dotted(first)]
    return f"{'.'.join(where)}: {text}, got {type(error['input']).__name__}"
