"""Which of librdkafka's settings are typed here, and what becomes of all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from wd_di._settings.names import (
    OF_RECORDS,
    TOPIC_DEFAULTS,
    UNTYPED,
    dotted,
    in_one_form,
    is_property,
    looks_secret,
    nearly,
    under_names,
)
from wd_di._settings.passed import json_in, kind_of, refuse, topic_defaults
from wd_di._settings.problems import all_problems, problem
from wd_di._settings.shapes import Part
from wd_di.errors import SettingsError

MAX_INT = 2_147_483_647


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


class Frozen(BaseModel):
    """What both a pool's settings and Kafka's are."""

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

    @model_validator(mode="wrap")
    @classmethod
    def _of_the_defaults_class(cls, data: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        default = data.default if isinstance(data, Part) else None
        if not isinstance(data, Part) or not isinstance(default, cls) or type(default) is cls:
            return handler(data)
        # pydantic dumps a default within another model as what the field is typed as.
        own = {name: getattr(default, name) for name in default.model_fields_set - cls.model_fields.keys()}
        return type(default).model_validate(own | data)


class KafkaSettings(Frozen):
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
    retries: int | None = Field(default=None, ge=0, le=MAX_INT)
    retry_backoff_ms: int | None = Field(default=None, ge=1, le=300_000)
    retry_backoff_max_ms: int | None = Field(default=None, ge=1, le=300_000)
    partitioner: str | None = None

    linger_ms: float | None = Field(default=None, ge=0, le=900_000)
    """How long a batch may wait for more messages; fractions of a millisecond are allowed."""
    batch_size: int | None = Field(default=None, ge=1, le=MAX_INT)
    batch_num_messages: int | None = Field(default=None, ge=1, le=1_000_000)
    compression_type: Compression | None = None
    compression_level: int | None = Field(default=None, ge=-1, le=12)
    message_max_bytes: int | None = Field(default=None, ge=1_000, le=1_000_000_000)
    queue_buffering_max_messages: int | None = Field(default=None, ge=0, le=MAX_INT)
    queue_buffering_max_kbytes: int | None = Field(default=None, ge=1, le=MAX_INT)

    message_timeout_ms: int | None = Field(default=None, ge=0, le=MAX_INT)
    """How long a message may take to be delivered, retries included; 0 is without end. Also ``delivery.timeout.ms``."""
    request_timeout_ms: int | None = Field(default=None, ge=1, le=900_000)
    socket_timeout_ms: int | None = Field(default=None, ge=10, le=300_000)
    socket_connection_setup_timeout_ms: int | None = Field(default=None, ge=1_000, le=MAX_INT)
    transaction_timeout_ms: int | None = Field(default=None, ge=1_000, le=MAX_INT)
    """After this long the broker aborts an open transaction. Transactional pools set 15,000 (librdkafka: 60,000)."""
    reconnect_backoff_ms: int | None = Field(default=None, ge=0, le=3_600_000)
    reconnect_backoff_max_ms: int | None = Field(default=None, ge=0, le=3_600_000)
    connections_max_idle_ms: int | None = Field(default=None, ge=0, le=MAX_INT)
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

    def __repr_args__(self) -> Iterable[tuple[str | None, object]]:
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
        others = {name: _passed_through(name, values, fields) for name in values.keys() - fields.keys()}
        return {fields.get(name, name): others.get(name, value) for name, value in values.items()}

    @field_validator("bootstrap_servers", mode="before")
    @classmethod
    def _no_list(cls, value: object) -> object:
        if isinstance(value, list | tuple | set | frozenset) or isinstance(json_in(value), list):
            raise ValueError("it takes one text with commas in between, as 'one:9092,two:9092', not a list")
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
    def _in_one_form(cls, given: dict[str, object]) -> dict[str, object]:
        return in_one_form(given, cls._fields())


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


def _passed_through(name: str, beside: Mapping[str, object], fields: Iterable[str]) -> object:
    """Check a value without a typed field: librdkafka takes text, confluent-kafka also callables and a logger."""
    given, secret = beside[name], is_secret(name)
    refuse(name, given, fields, secret=secret)
    if name == TOPIC_DEFAULTS:
        return checked_kafka(TOPIC_DEFAULTS, topic_defaults(given, beside)).librdkafka()
    if name == "logger" or callable(given):
        return given
    value = given.value if isinstance(given, Enum) else given
    if not isinstance(value, _TEXT_LIKE):
        # Of others str() is no value: "b'...'", "['...']", "<object at 0x...>" or asterisks.
        raise ValueError(f"{name} takes a string, number, boolean or callable, not {kind_of(given)}")
    return _unmasked(name, value if isinstance(value, SecretStr) or not secret else SecretStr(str(value)))


def _unmasked(name: str, value: object) -> object:
    """Refuse a secret that was read back from a dump, before Kafka does: pydantic writes asterisks in its place."""
    if isinstance(value, SecretStr) and value.get_secret_value() == _MASK:
        raise ValueError(f"{name} is nothing but asterisks, as a dump in JSON shows a secret: its value is lost")
    return value


# -- for those who don't know pydantic -------------------------------------------------------------


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
        problems = all_problems(error, lambda each: problem(each, [dotted(str(key)) for key in each["loc"][:1]]))
    # Outside the handler: the original holds the values.
    raise SettingsError(f"{who}: {problems}")


def near_setting(name: str) -> str:
    """Return the setting of Kafka's that a name may mean which librdkafka doesn't know, as a question, or nothing."""
    near = nearly(name, KafkaSettings.model_fields, 0.75)
    return f", did you mean {near}?" if near else ""


def is_kafkas(key: object) -> bool:
    """Whether somebody may mean a setting of Kafka's by this key, which is none of a pool's."""
    if not isinstance(key, str) or key in OF_RECORDS:
        return False
    names = {dotted(name) for name in KafkaSettings.model_fields}
    # ORDERS__KAFKA_LINGER_MS lacks an underscore.
    own = dotted(key).removeprefix("kafka.")
    return own in UNTYPED or any(f"{name}.".startswith(f"{own}.") for name in names)
