from __future__ import annotations

import copy
import enum
import functools
import json
import logging
import pickle
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import annotated_types
import pytest
from confluent_kafka import KafkaException, Producer
from pydantic import SecretBytes, SecretStr, ValidationError

from tests.librdkafka import properties
from wd_di._settings.kafka import checked_kafka, is_secret, shown
from wd_di._settings.names import UNTYPED, dotted
from wd_di.errors import SettingsError
from wd_di.settings import KafkaSettings, PoolSettings, Settings

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


async def _token(_: object) -> None:
    """Never be called."""


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
        ("log.level", "log_level"),
        ("ssl.key", "ssl_key"),
        ("on.delivery", "on_delivery"),
        ("error.cb", "error_cb"),
        ("on_commit", "on_commit"),
    ],
)
def test_a_key_has_one_name_however_it_is_written(written: str, name: str) -> None:
    """Dotted, underscored and second names of a key lead to librdkafka's own."""
    assert name == dotted(written)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("linger", "ms"), "linger.ms"),
        (("sasl", "oauthbearer_client", "secret"), "sasl.oauthbearer.client.secret"),
        (("ssl.key", "password"), "ssl.key.password"),
        (("ssl", "certificate", "verify_cb"), "ssl.certificate.verify_cb"),
        (("log", "level"), "log_level"),
        (("max", "in", "flight"), "max.in.flight.requests.per.connection"),
        (("max.in.flight", "requests", "per", "connection"), "max.in.flight.requests.per.connection"),
        (("queue", "buffering", "max", "ms"), "linger.ms"),
    ],
)
def test_keys_within_keys_have_one_name(path: tuple[str, ...], name: str) -> None:
    """The keys of nested mappings lead to librdkafka's name, wherever they are split."""
    assert name == dotted(*path)


@pytest.mark.parametrize("field", KafkaSettings.model_fields)
def test_librdkafka_knows_every_typed_field(field: str) -> None:
    """Each typed field is a property that librdkafka has."""
    try:
        Producer({dotted(field): "?"})
    except KafkaException as error:
        assert "No such configuration property" not in str(error)  # noqa: PT017  (a wrong value is fine here)


@pytest.mark.parametrize("name", sorted(UNTYPED))
def test_librdkafka_knows_every_name_without_a_field(name: str) -> None:
    """Each name that a misspelt one is compared with is a property of a producer."""
    try:
        Producer({name: "?"})
    except KafkaException as error:
        assert "No such configuration property" not in str(error)  # noqa: PT017  (a wrong value is fine here)


def test_all_that_a_producer_takes_is_known() -> None:
    """No property of a producer is missing among the names, but for those that only C can set."""
    only_c = {"interceptors", "internal.termination.signal", "opaque"}
    names = {name for name, of in properties().items() if of != "C" and not name.endswith("_cb")}

    assert len(names) > 100
    assert only_c == {name for name in names if not KafkaSettings.knows(name)}


def test_what_consumers_take_is_like_nothing_of_a_producers() -> None:
    """A consumer's setting is told as one by librdkafka: it isn't misspelt."""
    assert not [name for name, of in properties().items() if of == "C" and KafkaSettings.nearly(name)]


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


@pytest.mark.parametrize(
    ("given", "spellings"),
    [
        ({"sasl.password": SECRET, "sasl": {"password": "other"}}, ["'sasl.password'", "['sasl']['password']"]),
        ({"log": {"queue": True}, "log.queue": False}, ["['log']['queue']", "'log.queue'"]),
        (
            {"ssl": {"key": {"password": SECRET}, "key_password": "b"}},
            ["['ssl']['key']['password']", "['key_password']"],
        ),
    ],
)
def test_nested_and_flat_given_twice(given: dict[str, object], spellings: list[str]) -> None:
    """A nested spelling is told as such."""
    with pytest.raises(ValidationError, match="is given twice with different values") as caught:
        KafkaSettings.of(given)

    assert all(spelling in str(caught.value) for spelling in spellings)
    assert SECRET not in str(caught.value)


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
        ("plugin.conf", KafkaSettings(), "not KafkaSettings"),
        ("plugin.conf", object(), "not object"),
        ("sasl", "x", r"sasl is no setting, only the beginning of some: sasl\.mechanism, .*sasl\.password"),
        ("bootstrap.servers", ["a:1", "b:1"], "it takes one text with commas in between, .*, not a list"),
        ("bootstrap.servers", '["a:1", "b:1"]', "it takes one text with commas in between, .*, not a list"),
        ("debug", ' ["msg"]', "debug takes text, not a JSON list: separate its values by commas"),
        ("", "x", "a key is empty, or a name in the environment ends with the delimiter"),
        ("sasl", {" ": "x"}, "a key is empty"),
        ("ssl", {"keystore": "x"}, r"ssl\.keystore is no setting, .*ssl\.keystore\.password"),
        ("oauth_cb", "my.module.token", "oauth_cb takes a plain function, not str"),
        ("oauth_cb", _token, "oauth_cb takes a plain function, not a coroutine function"),
        ("throttle_cb", 3, "throttle_cb takes a plain function, not int"),
        ("logger", "shop", "logger takes a logging.Logger, not str"),
        ("logger", logging.Logger, "logger takes a logging.Logger, not the class Logger"),
        ("default.topic.config", "acks=1", "default.topic.config takes a mapping, not str"),
        ("default.topic.config", {"acks": 7}, r"default\.topic\.config: acks: .*'all', -1, 0 or 1, got int"),
        ("default.topic.config", {"sasl.password": "x"}, r"sasl\.password can't stand in default\.topic\.config"),
        ("default.topic.config", {"error_cb": print}, r"error_cb can't stand in default\.topic\.config"),
        ("default.topic.config", {"transactional.id": "x"}, r"transactional\.id can't stand in default\.topic"),
    ],
)
def test_wrong_values_are_refused(key: str, value: object, text: str) -> None:
    """A value that librdkafka would refuse or misread is a validation error that says what is taken."""
    with pytest.raises(ValidationError, match=text):
        KafkaSettings.of({key: value})


@pytest.mark.parametrize(
    ("key", "way_out"),
    [
        ("error_cb", 'subscribe("error.occurred"'),
        ("stats_cb", 'subscribe("statistics.emitted"'),
        ("on_delivery", "Delivery.add_done_callback"),
        ("dr_cb", 'subscribe("message.acknowledged"'),
        ("dr_msg_cb", "Delivery.add_done_callback"),
        ("log_cb", "logger"),
        ("default_topic_conf", "beside the others"),
        ("on_commit", "belongs to consumers"),
        ("rebalance_cb", "belongs to consumers"),
        ("delivery.report.only.error", "must be told of every record"),
    ],
)
@pytest.mark.parametrize("value", [print, "x", True, 0.5])
def test_what_the_pool_needs_for_itself_is_refused(key: str, way_out: str, value: object) -> None:
    """A callback that nobody would call is refused by its name, in every spelling, with what to use in its place."""
    first, _, rest = key.replace(".", "_").partition("_")
    for given in ({key: value}, {key.replace("_", "."): value}, {first: {rest: value}}):
        with pytest.raises(ValidationError, match=re.escape(way_out)) as caught:
            KafkaSettings.of(given)

        assert f"{key} can't be set for a pool's producers" in str(caught.value)


def test_a_report_of_errors_only_may_be_off() -> None:
    """The one value that changes nothing is allowed."""
    assert {"delivery.report.only.error": False} == KafkaSettings.of({"delivery_report_only_error": False}).librdkafka()


def test_what_is_like_text_is_passed_on() -> None:
    """A path, a decimal number and a member of an enumeration stand for their text, which confluent-kafka sends."""
    queue = enum.Enum("queue", {"LIFO": "lifo"})  # type: ignore[misc]  # mypy wants another name
    given = {"plugin.path": Path("/a"), "plugin.share": Decimal("0.5"), "queuing.strategy": queue.LIFO}
    expected = {"plugin.path": "/a", "plugin.share": "0.5", "queuing.strategy": "lifo"}

    assert expected == {key: str(value) for key, value in KafkaSettings.of(given).librdkafka().items()}


def test_a_callback_that_is_none_is_none() -> None:
    """None is as if not given, for callbacks too."""
    assert {} == KafkaSettings.of({"error_cb": None, "oauth_cb": None, "logger": None}).librdkafka()


def test_topic_defaults_are_checked_and_kept() -> None:
    """confluent-kafka's mapping of topic settings keeps its place, under librdkafka's names and with typed values."""
    given = {"request.required.acks": "1", "message_timeout_ms": "5000", "queuing.strategy": "lifo"}
    expected = {"default.topic.config": {"acks": 1, "message.timeout.ms": 5_000, "queuing.strategy": "lifo"}}

    assert expected == KafkaSettings.of({"default.topic.config": given}).librdkafka()
    assert expected == KafkaSettings.of({"default": {"topic": {"config": given}}}).librdkafka()
    assert Producer(expected).flush(1) == 0


def test_topic_defaults_that_contradict() -> None:
    """A topic setting in both places with two values is refused: confluent-kafka would take the inner one."""
    with pytest.raises(ValidationError, match=r"acks is given twice .*, in default\.topic\.config"):
        KafkaSettings.of({"acks": "all", "default.topic.config": {"acks": 0}})


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
    ("nested", "name"),
    [
        ({"sasl": {"password": SECRET}}, "sasl.password"),
        ({"ssl": {"key": {"password": SECRET}}}, "ssl.key.password"),
        ({"ssl.key": {"password": SECRET}}, "ssl.key.password"),
        ({"ssl": {"key_password": SECRET}}, "ssl.key.password"),
        ({"ssl": {"key": {"pem": SECRET}}}, "ssl.key.pem"),
        ({"ssl": {"key": SECRET}}, "ssl_key"),
        ({"sasl": {"oauthbearer": {"config": SECRET}}}, "sasl.oauthbearer.config"),
        ({"sasl_oauthbearer": {"client": {"secret": SECRET}}}, "sasl.oauthbearer.client.secret"),
        ({"plugin": {"auth": {"token": {"value": SECRET}}}}, "plugin.auth.token.value"),
        ({"Sasl": {"Password": SECRET}}, "Sasl.Password"),
        ({"sasl.oauthbearer.config": {"scope": {"x": SECRET}}}, "sasl.oauthbearer.config.scope.x"),
    ],
)
def test_nested_secrets_are_the_same_secrets(nested: dict[str, Any], name: str) -> None:
    """A mapping within the settings is taken apart, and what is secret under its whole name is never shown."""
    kafka = KafkaSettings.of(nested)
    pool = PoolSettings.model_validate({"kafka": nested})
    texts = [f(each) for each in (kafka, pool) for f in (repr, str, lambda each: repr(each.model_dump()))]

    assert {name: SecretStr(SECRET)} == kafka.librdkafka() == pool.kafka.librdkafka()
    assert not any(
        SECRET in text for text in (*texts, pool.model_dump_json(), repr(nested and shown(kafka.librdkafka())))
    )


def test_what_is_not_checked_yet_is_not_shown_either() -> None:
    """Also before the validation, as in configure, a nested secret and an odd object are hidden."""
    text = repr(
        shown({"ssl": {"key": {"password": SECRET}}, "sasl": {"password": [SECRET]}, "x": [SECRET], "y": "seen"})
    )

    assert SECRET not in text
    assert "seen" in text


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("ORDERS__SASL", "sasl"),
        ("ORDERS__SASL__PASSWORD", "sasl"),
        ("ORDERS__SSL.KEY.PASSWORD", "ssl.key.password"),
        ("ORDERS__BOOTSTRAP_SERVERS", "bootstrap_servers"),
    ],
)
def test_kafkas_settings_in_the_wrong_place(variable: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of Kafka's settings among the pool's is refused with its name and the place, and isn't shown."""
    monkeypatch.setenv(variable, SECRET)

    with pytest.raises(ValidationError, match=f"{key} is Kafka's own: it belongs into the field kafka") as caught:
        App()  # type: ignore[call-arg]

    assert SECRET not in str(caught.value)


def test_a_dump_can_be_read_back() -> None:
    """Copies, pickles and dumps of settings are equal to them, secrets included."""
    kafka = {"sasl.password": SECRET, "my.token": SECRET, "linger.ms": 5, "default.topic.config": {"acks": "all"}}
    pool = PoolSettings(size=3, kafka=KafkaSettings.of(kafka))

    for again in (
        pickle.loads(pickle.dumps(pool)),  # noqa: S301  (our own)
        copy.copy(pool),
        copy.deepcopy(pool),
        PoolSettings.model_validate(pool.model_dump()),
        PoolSettings(**pool.model_dump()),
        PoolSettings.model_validate(pool.model_dump(exclude_unset=True)),
    ):
        assert pool == again
        assert pool.kafka.librdkafka() == again.kafka.librdkafka()


@pytest.mark.parametrize("key", ["sasl.password", "my.token"])
def test_json_has_lost_its_secrets(key: str) -> None:
    """JSON holds asterisks in place of a secret, and settings read from it say so at once."""
    pool = PoolSettings(kafka=KafkaSettings.of({key: SECRET, "linger.ms": 5}))
    with pytest.raises(ValidationError, match=f"{re.escape(key)} is nothing but asterisks"):
        PoolSettings.model_validate_json(pool.model_dump_json())

    harmless = PoolSettings(kafka=KafkaSettings(linger_ms=5))
    assert harmless == PoolSettings.model_validate_json(harmless.model_dump_json())


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


@pytest.mark.parametrize(
    "key",
    ["sasl.pasword", "sasl_passwd", "sasl.pasward", "ssl.key.pasword", "ssl.key.pen", "sasl.oauthbearer.client.secrt"],
)
def test_misspelt_secrets_are_hidden(key: str) -> None:
    """A name that nearly is a secret's is more likely that than anything else."""
    kafka = KafkaSettings.of({key: SECRET})

    assert is_secret(key)
    assert SECRET not in f"{kafka!r} {kafka} {PoolSettings(kafka=kafka)!r} {kafka.model_dump_json()}"


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

    with pytest.raises(SettingsError, match="variable ORDERS holds no JSON") as caught:
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
        "ids_held_elsewhere": "warn",
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
        PoolSettings.model_validate({"timeout": 500, "timeout_ms": 5_000})


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


@pytest.mark.parametrize("place", ["variable", "dotenv", "folder", "json"])
def test_a_nested_password_from_anywhere(place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One underscore too many in a name is forgiven: the password is the password, and isn't shown."""
    name = "ORDERS__KAFKA__SASL__PASSWORD"
    if place == "variable":
        monkeypatch.setenv(name, SECRET)
    elif place == "dotenv":
        (tmp_path / "app.env").write_text(f"{name}={SECRET}\n")
    elif place == "folder":
        (tmp_path / name.lower()).write_text(SECRET)
    else:
        monkeypatch.setenv("ORDERS", json.dumps({"kafka": {"sasl": {"password": SECRET}}}))

    app = App(_env_file=tmp_path / "app.env", _secrets_dir=tmp_path)  # type: ignore[call-arg]

    assert SecretStr(SECRET) == app.orders.kafka.sasl_password
    assert not any(SECRET in text for text in (repr(app), repr(app.model_dump()), app.model_dump_json()))


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
