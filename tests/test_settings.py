from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import annotated_types
import pytest
from confluent_kafka import KafkaException, Producer
from pydantic import SecretBytes, SecretStr, ValidationError
from pydantic_settings import SettingsError as SourceError

from wd_di.errors import SettingsError
from wd_di.settings import KafkaSettings, PoolSettings, Settings, checked_kafka, dotted, is_secret

SECRET = "s3cr3t-value"  # noqa: S105  (what must not be seen)
SECRET_KEYS = [
    "sasl.password",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl_key",
    "ssl.keystore.password",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.client.credentials.client.secret",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.jaas.config",
    "plugin.password",
    "my_api_token",
    "Plugin.Password",
]


class App(Settings):
    """An application's."""

    orders: PoolSettings
    clicks: PoolSettings = PoolSettings(size=2)


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("linger.ms", "linger.ms"),
        ("linger_ms", "linger.ms"),
        ("queue.buffering.max.ms", "linger.ms"),
        ("delivery_timeout_ms", "message.timeout.ms"),
        ("max.in.flight", "max.in.flight.requests.per.connection"),
        ("socket_nagle_disable", "socket.nagle.disable"),
        ("log_level", "log_level"),
        ("ssl_ca", "ssl_ca"),
        ("ssl_ca_location", "ssl.ca.location"),
        ("ssl_certificate_verify_cb", "ssl.certificate.verify_cb"),
        ("oauth_cb", "oauth_cb"),
    ],
)
def test_a_key_has_one_name_however_it_is_written(written: str, name: str) -> None:
    """Dotted, underscored and second names of a key lead to librdkafka's own."""
    assert name == dotted(written)


@pytest.mark.parametrize("field", KafkaSettings.model_fields)
def test_librdkafka_knows_every_typed_field(field: str) -> None:
    """Each typed field is a property that librdkafka has."""
    try:
        Producer({dotted(field): "?"})
    except KafkaException as error:
        assert "No such configuration property" not in str(error)  # noqa: PT017  (a wrong value is fine here)


def _bounds() -> list[tuple[str, float]]:
    return [
        (name, float(str(part.ge if isinstance(part, annotated_types.Ge) else part.le)))
        for name, field in KafkaSettings.model_fields.items()
        for part in field.metadata
        if isinstance(part, annotated_types.Ge | annotated_types.Le) and name != "test_mock_num_brokers"
    ]


def test_the_bounds_are_read_from_the_fields() -> None:
    """The next test has all numeric fields before it."""
    assert len(_bounds()) > 40


@pytest.mark.parametrize(("field", "bound"), _bounds())
def test_bounds_are_librdkafkas(field: str, bound: float) -> None:
    """Each numeric field allows its bound, as librdkafka does, and nothing past it, as librdkafka."""
    step = 1 if bound == max(b for name, b in _bounds() if name == field) else -1
    outside = int(bound) + step

    KafkaSettings.of({field: bound})
    with pytest.raises(ValidationError):
        KafkaSettings.of({field: outside})
    assert "outside allowed range" not in _complaint(field, int(bound))
    assert _complaint(field, outside)


def _complaint(field: str, value: int) -> str:
    try:
        Producer({dotted(field): str(value)})
    except KafkaException as error:
        return str(error)
    return ""


def test_only_what_was_set_is_passed_on() -> None:
    """The client gets the set keys under dotted names, typed and others, and nothing else."""
    kafka = KafkaSettings.of(
        {"bootstrap.servers": "x:1", "linger_ms": "5", "acks": "1", "socket_nagle_disable": "false", "client.id": None}
    )

    expected = {"bootstrap.servers": "x:1", "linger.ms": 5, "acks": 1, "socket.nagle.disable": "false"}
    assert expected == kafka.librdkafka()


def test_callables_and_objects_pass_through() -> None:
    """A callback or a logger reaches librdkafka as the same object."""

    def callback(_: str) -> tuple[str, float]:
        return "token", 0.0

    kafka = KafkaSettings.of({"oauth_cb": callback, "oauthbearer_token_refresh_cb": callback})

    assert {"oauth_cb": callback, "oauthbearer_token_refresh_cb": callback} == kafka.librdkafka()


def test_real_producer_takes_what_the_environment_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strings of the environment are accepted by librdkafka, typed and passed through."""
    for name, value in {
        "LINGER_MS": "0.5",
        "ENABLE_IDEMPOTENCE": "true",
        "SOCKET_NAGLE_DISABLE": "False",
        "LOG_LEVEL": "3",
        "SECURITY_PROTOCOL": "PLAINTEXT",
        "ACKS": "ALL",
        "TEST_MOCK_NUM_BROKERS": "1",
    }.items():
        monkeypatch.setenv(f"ORDERS__KAFKA__{name}", value)

    producer = Producer(App().orders.kafka.librdkafka())  # type: ignore[call-arg]

    assert producer.flush(5) == 0


@pytest.mark.parametrize(
    "given",
    [
        {"linger.ms": 1, "linger_ms": 2},
        {"linger.ms": 1, "queue.buffering.max.ms": 2},
        {"log.queue": "true", "log_queue": "false"},
        {"sasl.password": SECRET, "sasl_password": SecretStr("other")},
    ],
)
def test_a_setting_given_twice_differently_is_refused(given: dict[str, object]) -> None:
    """Two spellings with two values are an error that names both spellings and no value."""
    with pytest.raises(ValidationError, match="is given twice with different values") as caught:
        KafkaSettings.of(given)

    assert all(repr(key) in str(caught.value) for key in given)
    assert SECRET not in str(caught.value)


def test_a_setting_given_twice_alike_is_fine() -> None:
    """Two spellings with the same value are one setting."""
    kafka = KafkaSettings.of({"linger.ms": 1, "linger_ms": "1", "sasl.password": "a", "sasl_password": SecretStr("a")})

    assert kafka.linger_ms == 1


@pytest.mark.parametrize("key", ["transactional.id", "transactional_id"])
def test_transactional_id_belongs_to_the_pool(key: str) -> None:
    """A transactional id among the shared keys is refused with the setting that takes it."""
    with pytest.raises(ValidationError, match=r"PoolSettings\.transactional_id"):
        KafkaSettings.of({key: "orders"})


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("linger.ms", True, "a boolean isn't a value"),
        ("retries", -1, "greater than or equal to 0"),
        ("acks", 2, "'all', -1, 0 or 1"),
        ("acks", [1], "'all', -1, 0 or 1"),
        ("compression.type", "brotli", "'none', 'gzip'"),
        ("bootstrap.servers", "", "at least 1 character"),
        ("client.rack", ["a"], "valid string"),
        ("debug", ["msg"], "debug takes a string, number, boolean or callable, not list"),
        ("plugin.library.paths", b"a", "not bytes"),
        ("plugin.password", SecretBytes(b"a"), "not SecretBytes"),
    ],
)
def test_wrong_values_are_refused(key: str, value: object, text: str) -> None:
    """A value that librdkafka would refuse or misread is a validation error that says what is taken."""
    with pytest.raises(ValidationError, match=text):
        KafkaSettings.of({key: value})


def test_keys_are_strings() -> None:
    """A key of another kind is refused."""
    with pytest.raises(ValidationError, match="keys are strings, not int"):
        KafkaSettings.of({1: "x"})  # type: ignore[dict-item]


# -- secrets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_secrets_are_wrapped_and_never_shown(key: str) -> None:
    """Every secret key is a SecretStr for librdkafka and hidden in every text."""
    kafka = KafkaSettings.of({key: SECRET})
    pool = PoolSettings(kafka=kafka)

    (value,) = kafka.librdkafka().values()
    assert isinstance(value, SecretStr)
    assert SecretStr(SECRET) == value
    assert is_secret(key)
    assert not any(SECRET in text for text in (repr(kafka), str(kafka), repr(pool), str(pool), pool.model_dump_json()))


@pytest.mark.parametrize(
    "key",
    [
        "bootstrap.servers",
        "sasl.username",
        "ssl.key.location",
        "sasl.oauthbearer.token.endpoint.url",
        "sasl.oauthbearer.client.credentials.client.id",
        "sasl.oauthbearer.assertion.private.key.file",
    ],
)
def test_addresses_names_and_paths_are_shown(key: str) -> None:
    """What is no secret stays readable, since it is needed to find a mistake."""
    assert not is_secret(key)
    assert "needed" in repr(KafkaSettings.of({key: "needed"}))


def test_the_arguments_of_a_callback_are_not_shown() -> None:
    """A partial that holds a secret is shown by its kind only."""
    kafka = KafkaSettings.of({"oauth_cb": functools.partial(print, SECRET)})

    expected = "KafkaSettings(oauth_cb='<partial>')"
    assert expected == repr(kafka)


def test_validation_errors_hide_their_input() -> None:
    """A wrong or missing field next to a password doesn't print it."""
    pool: dict[str, Any] = {"size": 0, "kafka": {"sasl.password": SECRET, "retries": SECRET, "ssl.key.pem": [SECRET]}}

    for build in (
        lambda: App(orders=pool),  # type: ignore[arg-type]
        lambda: PoolSettings.model_validate(pool),
        lambda: KafkaSettings.of(pool["kafka"]),
        lambda: App.model_validate({"order": pool, "password": SECRET}),
    ):
        with pytest.raises(ValidationError) as caught:
            build()

        assert SECRET not in str(caught.value)
        assert SECRET not in repr(caught.value)


def test_broken_json_in_a_variable_hides_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that should be JSON and isn't is named without its value."""
    monkeypatch.setenv("ORDERS", f'{{"kafka": {{"sasl_password": "{SECRET}"')

    with pytest.raises(SourceError, match="orders") as caught:
        App()  # type: ignore[call-arg]

    assert SECRET not in str(caught.value)


def test_what_configure_left_is_checked_by_name_and_kind() -> None:
    """The error names each wrong key and the kind of its value, holds no value, and has no chain that does."""
    with pytest.raises(SettingsError) as caught:
        checked_kafka("orders[1]", {"sasl.password": [SECRET], "retries": SECRET})

    text = str(caught.value)
    assert text.startswith("orders[1]: ")
    assert "sasl.password: Input should be a valid string, got list" in text
    assert "retries: " in text
    assert SECRET not in text
    assert caught.value.__cause__ is caught.value.__context__ is None


# -- the pool --------------------------------------------------------------------------------------


def test_defaults() -> None:
    """An empty PoolSettings has the documented defaults."""
    expected = {
        "size": 5,
        "timeout_ms": 5_000,
        "kafka": {},
        "transactional_id": None,
        "instance": None,
        "deliver": True,
        "order": None,
        "warm": None,
        "share": 1,
        "max_waiting": None,
        "produce_timeout_ms": 30_000,
        "commit_timeout_ms": 10_000,
        "abort_timeout_ms": 3_000,
        "resolve_timeout_ms": 10_000,
        "open_timeout_ms": 30_000,
        "close_timeout_ms": 30_000,
        "open_policy": "fail",
        "max_lifetime_ms": None,
        "idle_timeout_ms": None,
        "leak_after_ms": None,
        "transactional_id_expiry_ms": 604_800_000,
        "implicit_transactions": True,
        "allow_blocking_in_loop": False,
        "fenced_retries": 3,
    }

    assert expected == PoolSettings().model_dump(exclude={"kafka"}) | {"kafka": PoolSettings().kafka.librdkafka()}


@pytest.mark.parametrize(
    "given",
    [
        {"size": 0},
        {"size": True},
        {"timeout_ms": -1},
        {"commit_timeout_ms": 0},
        {"share": 0},
        {"max_waiting": -1},
        {"order": "random"},
        {"open_policy": "never"},
        {"transactional_id": ""},
        {"siz": 3},
    ],
)
def test_pool_settings_out_of_bounds_are_refused(given: dict[str, object]) -> None:
    """A wrong value or an unknown field is pydantic's error, which names the field."""
    with pytest.raises(ValidationError, match=next(iter(given))):
        PoolSettings.model_validate(given)


def test_timeout_is_another_name_of_timeout_ms() -> None:
    """``timeout`` is taken as milliseconds, alone or with the same value."""
    assert PoolSettings.model_validate({"timeout": 70}).timeout_ms == 70
    assert PoolSettings.model_validate({"timeout": "70", "timeout_ms": 70}).timeout_ms == 70


def test_timeout_given_twice_differently_is_refused() -> None:
    """``timeout`` and ``timeout_ms`` with two values are an error."""
    with pytest.raises(ValidationError, match="timeout and timeout_ms are one setting"):
        PoolSettings.model_validate({"timeout": 5, "timeout_ms": 5_000})


def test_settings_are_frozen() -> None:
    """A field can't be changed after the fact."""
    with pytest.raises(ValidationError, match="frozen"):
        PoolSettings().size = 3


def test_numbers_are_taken_as_text() -> None:
    """An ordinal or a password made of digits may be a number, as JSON gives it."""
    pool = PoolSettings.model_validate({"instance": 0, "kafka": {"sasl.password": 123456}})

    assert PoolSettings(instance="0", kafka=KafkaSettings(sasl_password=SecretStr("123456"))) == pool


# -- where they come from --------------------------------------------------------------------------


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested names in the environment fill the pool and librdkafka's keys, also dotted ones."""
    monkeypatch.setenv("ORDERS__SIZE", "3")
    monkeypatch.setenv("ORDERS__TIMEOUT", "250")
    monkeypatch.setenv("ORDERS__WARM", "false")
    monkeypatch.setenv("ORDERS__KAFKA__BOOTSTRAP_SERVERS", "a:1,b:2")
    monkeypatch.setenv("ORDERS__KAFKA__CLIENT.RACK", "r1")
    monkeypatch.setenv("ORDERS__KAFKA__SASL_PASSWORD", SECRET)

    app = App()  # type: ignore[call-arg]

    kafka = {"bootstrap.servers": "a:1,b:2", "client.rack": "r1", "sasl.password": SecretStr(SECRET)}
    assert PoolSettings(size=3, timeout_ms=250, warm=False, kafka=KafkaSettings.of(kafka)) == app.orders
    assert SECRET not in repr(app)


def test_json_in_one_variable_and_a_nested_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One variable may hold a whole pool as JSON, which nested variables complete."""
    monkeypatch.setenv("ORDERS", '{"size": 3, "kafka": {"bootstrap.servers": "x:1", "socket.nagle.disable": false}}')
    monkeypatch.setenv("ORDERS__KAFKA__LINGER_MS", "7")

    orders = App().orders  # type: ignore[call-arg]

    kafka = {"bootstrap.servers": "x:1", "socket.nagle.disable": False, "linger.ms": 7}
    assert PoolSettings(size=3, kafka=KafkaSettings.of(kafka)) == orders


def test_dotenv_shared_with_other_programs(tmp_path: Path) -> None:
    """A dotenv file fills nested fields, and names of others in it do no harm."""
    file = tmp_path / "shared.env"
    file.write_text("ORDERS__SIZE=4\nORDERS__KAFKA__LINGER_MS=9\nPOSTGRES_USER=somebody\n")

    orders = App(_env_file=file).orders  # type: ignore[call-arg]

    assert PoolSettings(size=4, kafka=KafkaSettings(linger_ms=9)) == orders


def test_secrets_folder_fills_nested_fields(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file named after a nested field fills it, beside what the environment gives."""
    (tmp_path / "orders__kafka__sasl_password").write_text(f"{SECRET}\n")
    monkeypatch.setenv("ORDERS__KAFKA__SASL_USERNAME", "me")

    kafka = App(_secrets_dir=tmp_path).orders.kafka  # type: ignore[call-arg]

    assert {"sasl.username": "me", "sasl.password": SecretStr(SECRET)} == kafka.librdkafka()


def test_python_values_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings given in Python replace those of the environment."""
    monkeypatch.setenv("ORDERS__SIZE", "3")

    assert App(orders=PoolSettings(size=9)).orders.size == 9
