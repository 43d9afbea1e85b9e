"""Which settings there are, what they mean, and which values each of them takes.

Clashes between settings are found in ``_plan``: they need the pool's name and what ``configure`` made of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Secret,
    SecretBytes,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from wd_di.errors import SettingsError

_MAX_INT = 2_147_483_647


class SettingsWarning(UserWarning):
    """Settings that work on one machine and surprise on the second."""


# -- how librdkafka spells its keys --------------------------------------------------------------

# These keep their underscores, as every callback does; all other keys are dotted (librdkafka 2.16, CONFIGURATION.md).
_UNDERSCORED = frozenset(
    {
        "default_topic_conf",
        "enabled_events",
        "log_level",
        "msg_order_cmp",
        "on_delivery",
        "ssl_ca",
        "ssl_certificate",
        "ssl_engine_callback_data",
        "ssl_key",
    }
)

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
    "ssl_certificate_verify_cb": "ssl.certificate.verify_cb",
}

_LOOKS_SECRET = re.compile(
    r"passw(or)?d|passphrase|secret|private|token|credential|jaas|^ssl_key$|(^|\.)key\.pem$|keystore\.key$|api\.?key",
    re.IGNORECASE,
)


def dotted(key: str) -> str:
    """Return librdkafka's name for a key, whichever way it is written.

    Args:
        key: ``"linger.ms"``, ``"linger_ms"`` or a second name such as ``"queue.buffering.max.ms"``.
    """
    kept = "." in key or key in _UNDERSCORED or key.endswith("_cb")
    name = key if kept else key.replace("_", ".")
    return _SECOND_NAMES.get(name, name)


def is_secret(key: str) -> bool:
    """Return whether the value of this key must never be shown, judging unknown keys by their name."""
    name = dotted(key)
    field = KafkaSettings.model_fields.get(name.replace(".", "_"))
    if field is not None:
        return SecretStr in get_args(field.annotation)
    return _LOOKS_SECRET.search(name) is not None


def shown(values: Mapping[str, object]) -> dict[str, object]:
    """Return what may be printed of these keys: no secrets, and callables by name (a partial shows its arguments)."""
    return {key: _shown(key, value) for key, value in values.items()}


def _shown(key: str, value: object) -> object:
    if callable(value):
        return f"<{getattr(value, '__qualname__', type(value).__name__)}>"
    return SecretStr("hidden") if is_secret(key) else value


def _plain(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _under_dotted_names(given: Mapping[Any, Any]) -> dict[str, Any]:
    """Bring all keys to librdkafka's names, so that a setting which is given twice shows."""
    values: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for key, value in given.items():
        if not isinstance(key, str):
            raise ValueError(f"keys are strings, not {type(key).__name__}")  # noqa: TRY004  (pydantic passes ValueError on)
        if value is None:
            continue
        name = dotted(key)
        if str(_plain(values.get(name, value))) != str(_plain(value)):
            raise ValueError(f"{name} is given twice with different values, as {spelled[name]!r} and {key!r}")
        values[name], spelled[name] = value, key
    return values


def _passed_through(name: str, value: object) -> object:
    """Check a value without a typed field: librdkafka takes text, confluent-kafka also callables and a few objects."""
    if isinstance(value, bytes | bytearray | list | tuple | set | frozenset | Secret | SecretBytes):
        # confluent-kafka would send str(value): "b'...'", "['...']" or asterisks.
        raise ValueError(f"{name} takes a string, number, boolean or callable, not {type(value).__name__}")  # noqa: TRY004  (pydantic passes ValueError on)
    if is_secret(name) and not callable(value) and not isinstance(value, SecretStr):
        return SecretStr(str(value))
    return value


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
        values = _under_dotted_names(data)
        if "transactional.id" in values:
            raise ValueError(
                "transactional.id can't be shared by the producers of a pool: set PoolSettings.transactional_id, "
                "for example 'shop-orders-{instance}-{index}'"
            )
        fields = {dotted(name): name for name in cls.model_fields}
        return {fields.get(n, n): v if n in fields else _passed_through(n, v) for n, v in values.items()}


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
    """How long to look for the outcome of a commit whose answer is missing."""
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

    A producer that was idle for 80 % of it is initialised again before it is used.
    """

    implicit_transactions: bool = True
    """Whether producing outside a transaction on a transactional pool opens one around the call."""
    allow_blocking_in_loop: bool = False
    """Whether blocking calls are allowed on a thread with a running event loop, as in notebooks."""
    fenced_retries: int = Field(default=3, ge=0)
    """How many times per ten minutes a fenced producer is initialised again."""

    @model_validator(mode="before")
    @classmethod
    def _timeout_is_timeout_ms(cls, data: object) -> object:
        if not isinstance(data, Mapping) or "timeout" not in data:
            return data
        values = dict(data)
        timeout = values.pop("timeout")
        if str(values.setdefault("timeout_ms", timeout)) != str(timeout):
            raise ValueError(
                "timeout and timeout_ms are one setting (in milliseconds), given twice with different values"
            )
        return values


class Settings(BaseSettings):
    """Base of an application's settings: one field for each pool, from the environment, a dotenv file or secrets.

    ``ORDERS__KAFKA__SASL_PASSWORD`` and a file ``orders__kafka__sasl_password`` in ``secrets_dir`` both fill
    ``orders.kafka.sasl_password``. Inputs are hidden in validation errors, since they hold passwords (but for
    ``ValidationError.errors()``, which isn't meant to be printed); a plain ``BaseSettings`` around pools prints them.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_nested_delimiter="__",
        # A dotenv file is often shared with other programs.
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

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


# -- for _plan, which doesn't know pydantic --------------------------------------------------------


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
        problems = "; ".join(_problem(each) for each in error.errors(include_url=False))
    # Outside the handler: the original holds the values.
    raise SettingsError(f"{who}: {problems}")


def _problem(error: Mapping[str, Any]) -> str:
    text = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return text
    return f"{dotted(str(error['loc'][0]))}: {text}, got {type(error['input']).__name__}"
