from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Optional

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, Field, SecretStr, ValidationError, create_model
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from typing_extensions import TypeAliasType, TypedDict

from wd_di import SettingsError
from wd_di._settings.sources import in_one_form
from wd_di.settings import KafkaSettings, PoolSettings, Settings

SECRET = "s3cr3t-value"  # noqa: S105  (what must not be seen)
WEAK, STRONG = "weak:1", "strong:1"
SOURCES = ["default", "json file", "secrets", "dotenv", "environment", "arguments"]
SPELLINGS = ["bootstrap.servers", "bootstrap_servers", "metadata.broker.list", "metadata_broker_list"]

Give = Callable[[str, str], object]


class App(Settings):
    """An application's, which also reads a JSON file, the weakest of all sources but the defaults."""

    model_config = SettingsConfigDict(
        env_file="app.env", secrets_dir=".", json_file="app.json", nested_model_default_partial_update=True
    )
    orders: PoolSettings = PoolSettings()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add the file."""
        usual = super().settings_customise_sources(settings_cls, **sources)
        return (*usual, JsonConfigSettingsSource(settings_cls))


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> dict[str, Give]:
    """How each source gives one of Kafka's settings; arguments are returned, for the constructor."""

    def in_default(key: str, value: str) -> None:
        monkeypatch.setattr(App.model_fields["orders"], "default", PoolSettings(kafka=KafkaSettings.of({key: value})))

    return {
        "default": in_default,
        "json file": lambda key, value: Path("app.json").write_text(json.dumps({"orders": {"kafka": {key: value}}})),
        "secrets": lambda key, value: Path(f"orders__kafka__{key}").write_text(value),
        "dotenv": lambda key, value: Path("app.env").write_text(f"ORDERS__KAFKA__{key.upper()}={value}\n"),
        "environment": lambda key, value: monkeypatch.setenv("ORDERS", json.dumps({"kafka": {key: value}})),
        "arguments": lambda key, value: {"orders": {"kafka": {key: value}}},
    }


# -- the stronger source wins ------------------------------------------------------------------------


@pytest.mark.parametrize(("weak", "strong"), list(itertools.combinations(SOURCES, 2)))
@pytest.mark.parametrize(("one", "other"), list(itertools.pairwise([*SPELLINGS, SPELLINGS[0]])))
def test_the_stronger_source_wins(weak: str, strong: str, one: str, other: str, sources: dict[str, Give]) -> None:
    """Of one setting in two spellings from two sources the stronger one holds, as if it were spelled alike."""
    sources[weak](one, WEAK)
    given = sources[strong](other, STRONG)

    assert App(**(given if isinstance(given, dict) else {})).orders.kafka.bootstrap_servers == STRONG


@pytest.mark.parametrize(("one", "other"), [("socket.keepalive.enable", "SOCKET_KEEPALIVE_ENABLE"), ("x.y", "X__Y")])
def test_the_environment_wins_over_a_default_that_is_passed_through(
    one: str, other: str, sources: dict[str, Give], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key without a typed field is merged under its dotted name, also a nested one."""
    sources["default"](one, "false")
    monkeypatch.setenv(f"ORDERS__KAFKA__{other}", "true")

    assert {one: "true"} == App().orders.kafka.librdkafka()


def test_a_nested_secret_wins_over_a_flat_one(sources: dict[str, Give], monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret in nested spelling is merged with its flat one, and neither is shown."""
    sources["secrets"]("sasl_password", "weak")
    monkeypatch.setenv("ORDERS__KAFKA__SASL__PASSWORD", SECRET)

    app = App()

    assert SecretStr(SECRET) == app.orders.kafka.sasl_password
    assert not any(SECRET in text for text in (repr(app), str(app), repr(app.model_dump()), app.model_dump_json()))


def test_what_two_sources_give_beside_each_other_is_all_there(sources: dict[str, Give]) -> None:
    """Settings that only one source gives are kept from all of them."""
    keys = ["linger.ms", "retries", "batch_size", "client_rack", "debug", "x.y"]
    given = [sources[source](key, "7") for source, key in zip(SOURCES, keys, strict=True)]

    expected = {"linger.ms": 7, "retries": 7, "batch.size": 7, "client.rack": "7", "debug": "7", "x.y": "7"}
    assert expected == App(**given[-1]).orders.kafka.librdkafka()  # type: ignore[arg-type]


@pytest.mark.parametrize(("weak", "strong"), [("timeout", "timeout_ms"), ("timeout_ms", "timeout")])
def test_timeout_and_timeout_ms_are_one_name(weak: str, strong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool's own second name is no clash between sources either."""
    Path("app.env").write_text(f"ORDERS__{weak.upper()}=500\n")
    monkeypatch.setenv(f"ORDERS__{strong.upper()}", "700")

    assert 700 == App().orders.timeout_ms


def test_timeout_wins_over_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default ``timeout_ms`` gives way to a variable ``TIMEOUT``."""
    monkeypatch.setattr(App.model_fields["orders"], "default", PoolSettings(timeout_ms=500))
    monkeypatch.setenv("ORDERS__TIMEOUT", "700")

    assert 700 == App().orders.timeout_ms


def test_topic_defaults_are_merged(sources: dict[str, Give], monkeypatch: pytest.MonkeyPatch) -> None:
    """The one setting that is a mapping is merged by its own keys."""
    sources["default"]("default.topic.config", {"request.required.acks": 1, "partitioner": "random"})  # type: ignore[arg-type]
    monkeypatch.setenv("ORDERS__KAFKA__DEFAULT__TOPIC__CONFIG__ACKS", "0")

    expected = {"default.topic.config": {"acks": 0, "partitioner": "random"}}
    assert expected == App().orders.kafka.librdkafka()


def test_unset_in_the_stronger_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """None unsets what a weaker source gave in another spelling, and gives way within one source."""
    monkeypatch.setenv("ORDERS__KAFKA__LINGER_MS", "7")

    assert App(orders={"kafka": {"linger.ms": None}}).orders.kafka.linger_ms is None  # type: ignore[arg-type]
    assert 5 == App(orders={"kafka": {"linger.ms": None, "linger_ms": 5}}).orders.kafka.linger_ms  # type: ignore[arg-type]


# -- twice in one source is a mistake ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"), list(itertools.combinations(["sasl.password", "sasl_password", "sasl__password"], 2))
)
def test_twice_in_one_source(one: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two spellings with two values in one source are refused, with both spellings and no value."""
    monkeypatch.setenv(f"ORDERS__KAFKA__{one}", SECRET)
    monkeypatch.setenv(f"ORDERS__KAFKA__{other}", SECRET + "2")

    with pytest.raises(ValidationError, match=r"sasl\.password is given twice") as caught:
        App()

    text = str(caught.value)
    assert all(repr(part) in text for spelling in (one, other) for part in spelling.split("__"))
    assert SECRET not in text


def test_twice_in_a_source_that_is_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stronger source doesn't hide the mistake of a weaker one."""
    Path("app.json").write_text('{"orders": {"kafka": {"linger.ms": 1, "queue.buffering.max.ms": 2}}}')
    monkeypatch.setenv("ORDERS__KAFKA__LINGER_MS", "7")

    with pytest.raises(ValidationError, match=r"linger\.ms is given twice .*'queue\.buffering\.max\.ms'"):
        App()


def test_a_plain_base_class_says_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """pydantic-settings' own class can't know that two spellings are one setting; the error says which class does."""

    class Plain(BaseSettings):
        model_config = SettingsConfigDict(env_nested_delimiter="__")
        orders: PoolSettings

    monkeypatch.setenv("ORDERS__KAFKA__LINGER_MS", "7")

    with pytest.raises(ValidationError, match=r"'linger_ms' and 'linger\.ms'.*based on wd_di\.Settings"):
        Plain(orders={"kafka": {"linger.ms": 1}})  # type: ignore[arg-type]


def test_keys_that_are_no_strings_are_refused_as_ever() -> None:
    """A source with an odd key is passed on, and the validation says what is wrong."""
    with pytest.raises(ValidationError, match="keys are strings, not int"):
        App(orders={"kafka": {1: "x"}})  # type: ignore[arg-type]


# -- JSON -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "given", "named"),
    [
        ("SSL", {"key": {"password": SECRET}}, "ssl .*ORDERS__KAFKA__SSL_KEY_PASSWORD"),
        ("SSL", {"key": SECRET}, "ssl .*ORDERS__KAFKA__SSL_CA_LOCATION, .*"),
        ("SSL", {}, "ssl .*ORDERS__KAFKA__SSL_CA_LOCATION, .*"),
        ("SSL__KEY", {"password": SECRET, "pem": SECRET}, "ssl_key .*__SSL_KEY_PASSWORD, ORDERS__KAFKA__SSL_KEY_PEM"),
        ("SSL_CA", {"pem": SECRET}, "ssl_ca .*ORDERS__KAFKA__SSL_CA_PEM"),
        ("SASL", {"password": SECRET, SECRET: 1}, "sasl .*ORDERS__KAFKA__SASL_PASSWORD"),
        ("SASL__OAUTHBEARER", {"client": {"secret": SECRET}}, r"sasl\.oauthbearer .*__SASL_OAUTHBEARER_CLIENT_SECRET"),
        ("LINGER", {"ms": 5}, "linger .*ORDERS__KAFKA__LINGER_MS"),
        ("QUEUE", {"buffering.max.ms": 5}, "queue .*ORDERS__KAFKA__LINGER_MS"),
        ("ENABLED", {"events": 1}, "enabled .*ORDERS__KAFKA__ENABLED_EVENTS"),
        ("X", {}, "x .*ORDERS__KAFKA__X"),
        ("DEFAULT__TOPIC__CONFIG", {"acks": 1}, r"default\.topic\.config .*ORDERS__KAFKA__DEFAULT_TOPIC_CONFIG__ACKS"),
    ],
)
@pytest.mark.parametrize("source", ["environment", "dotenv", "secrets"])
def test_json_for_a_part_of_kafka(
    source: str, part: str, given: object, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON below the field says that it isn't read there, with the variables in its place, and is never shown."""
    variable = f"ORDERS__KAFKA__{part}"
    if source == "environment":
        monkeypatch.setenv(variable, json.dumps(given))
    else:
        name, text = (variable.lower(), "") if source == "secrets" else ("app.env", f"{variable}=")
        Path(name).write_text(text + json.dumps(given))
    with pytest.raises(ValidationError, match=f"orders.kafka\n .*{named}[ ]\\[") as caught:
        App()

    assert "is given JSON, which is read for the whole of the field kafka and not for a part of it" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "named"),
    [
        ("SHOP_CLUSTER.SSL", "of its own, SHOP_CLUSTER.SSL_KEY_PASSWORD"),
        ("shop_cluster.ssl", "of its own, shop_cluster.SSL_KEY_PASSWORD"),
        ("SHOP_CLUSTER.SSL.KEY", "of its own, SHOP_CLUSTER.SSL_KEY_PASSWORD"),
    ],
)
def test_the_variables_in_place_of_json_by_their_own_names(
    variable: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another prefix, delimiter or field, the variables are those of this application."""

    class Other(Settings, env_prefix="SHOP_", env_nested_delimiter="."):
        cluster: KafkaSettings = KafkaSettings()

    inner = {"password": SECRET} if variable.endswith("KEY") else {"key": {"password": SECRET}}
    monkeypatch.setenv(variable, json.dumps(inner))
    with pytest.raises(ValidationError, match=named) as caught:
        Other()

    assert SECRET not in str(caught.value)


def test_the_variables_in_place_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the error about JSON advises works, and so does JSON for the whole of Kafka's settings."""
    monkeypatch.setenv("ORDERS__KAFKA", json.dumps({"ssl": {"ca": {"pem": "x"}}}))
    monkeypatch.setenv("ORDERS__KAFKA__SSL_KEY_PASSWORD", SECRET)
    monkeypatch.setenv("ORDERS__KAFKA__DEFAULT_TOPIC_CONFIG__ACKS", "1")

    expected = {"ssl.ca.pem": "x", "ssl.key.password": SecretStr(SECRET), "default.topic.config": {"acks": 1}}
    assert expected == App().orders.kafka.librdkafka()


@pytest.mark.parametrize("text", ['{"a": 1}', "[1]", "{", "[::1]:9092"])
def test_a_value_that_looks_like_json(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password may look like JSON, and an address begin like it."""
    monkeypatch.setenv("ORDERS__KAFKA__SASL_PASSWORD", text)
    monkeypatch.setenv("ORDERS__KAFKA__X_PASSWORD", text)
    monkeypatch.setenv("ORDERS__KAFKA__BOOTSTRAP_SERVERS", "[::1]:9092")

    expected = {"sasl.password": SecretStr(text), "x.password": SecretStr(text), "bootstrap.servers": "[::1]:9092"}
    assert expected == App().orders.kafka.librdkafka()


@pytest.mark.parametrize("name", ["ORDERS__KAFKA_SASL_PASSWORD", "ORDERS__SASL_PASSWORD", "ORDERS__SASL__PASSWORD"])
def test_a_setting_beside_kafka(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that misses the field kafka by an underscore or a word is told where it belongs."""
    monkeypatch.setenv(name, SECRET)
    with pytest.raises(ValidationError, match="is Kafka's own: it belongs into the field kafka") as caught:
        App()

    assert SECRET not in str(caught.value)


def test_a_variable_that_ends_with_the_delimiter(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no setting, and its value isn't shown."""
    monkeypatch.setenv("ORDERS__KAFKA__", SECRET)
    with pytest.raises(ValidationError, match="a key is empty, or a name in the environment ends with the delimiter"):
        App()


# -- wherever the pools are --------------------------------------------------------------------------


class Billing(BaseModel):
    """A part of the settings."""

    pool: PoolSettings


class Named(BaseModel):
    """A part whose field has other names."""

    pool: PoolSettings = Field(validation_alias=AliasChoices("queue", AliasPath("deep", "queue")))


class Own(PoolSettings):
    """A pool with settings of its own."""

    region: str = "here"


class Typed(TypedDict):
    """A pool in a typed dict."""

    pool: PoolSettings


@dataclass
class Data:
    """A pool in a dataclass."""

    pool: PoolSettings


@pydantic_dataclass
class Checked:
    """A pool in pydantic's dataclass."""

    pool: PoolSettings


class Other(BaseModel):
    """No pool, and yet with a timeout."""

    timeout: int


Alias = TypeAliasType("Alias", PoolSettings)

PLACES: list[tuple[Any, tuple[str, ...]]] = [
    (PoolSettings, ()),
    (Own, ()),
    (Optional[PoolSettings], ()),  # noqa: UP045  (as many write it)
    (PoolSettings | None, ()),
    (PoolSettings | str, ()),
    (Own | PoolSettings, ()),
    (Annotated[PoolSettings, Field(description="x")], ()),
    (Annotated[PoolSettings, Field(description="x")] | None, ()),
    (Alias, ()),
    (Billing, ("pool",)),
    (Billing | None, ("pool",)),
    (Named, ("queue",)),
    (Named, ("deep", "queue")),
    (Typed, ("pool",)),
    (Data, ("pool",)),
    (Checked, ("pool",)),
    (dict[str, PoolSettings], ("a",)),
    (Mapping[str, PoolSettings], ("a",)),
    (dict[str, Billing], ("a", "pool")),
    (dict[str, dict[str, PoolSettings | None]], ("a", "b")),
]


def _within(path: tuple[str, ...], value: object) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


@pytest.mark.parametrize(("annotation", "path"), PLACES, ids=str)
def test_pools_anywhere(annotation: Any, path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are brought to one form in pools of every kind of place."""
    settings = type("App", (Settings,), {"__annotations__": {"part": annotation}, "__module__": __name__})
    weak = {"kafka": {"socket_keepalive_enable": "false", "sasl": {"username": "me"}}, "timeout": 700}
    monkeypatch.setenv("PART", json.dumps(_within(path, weak)))

    part = settings(part=_within(path, {"kafka": {"socket.keepalive.enable": True}, "timeout_ms": 9})).part
    for key in ("a", "pool", "b"):
        if key in path:
            part = part[key] if isinstance(part, Mapping) else getattr(part, key)
    pool = part.pool if isinstance(part, Named) else part

    expected = {"socket.keepalive.enable": True, "sasl.username": "me"}
    assert (9, expected) == (pool.timeout_ms, pool.kafka.librdkafka())


def test_what_may_be_something_else_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a union leaves open whether there's a pool, nobody's names are changed."""

    class Open(Settings):
        anything: dict[str, Any]

    monkeypatch.setenv("ANYTHING", '{"timeout": 500, "kafka": {"linger.ms": 5}}')
    open_ = {"timeout": 500, "kafka": {"linger.ms": 5}}

    assert open_ == Open().anything  # type: ignore[call-arg]
    for annotation in (PoolSettings | Other, PoolSettings | dict[str, Any], PoolSettings | None | Any, str, list[Any]):
        assert open_ == in_one_form(annotation, open_)


def test_an_alias_at_the_top(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that is read under another name has its names in one form too."""

    class Aliased(Settings):
        model_config = SettingsConfigDict(populate_by_name=True)
        orders: PoolSettings = Field(validation_alias="ORDER_POOL")

    monkeypatch.setenv("order_pool__kafka__linger_ms", "7")

    assert 5 == Aliased(orders={"kafka": {"linger.ms": 5}}).orders.kafka.linger_ms  # type: ignore[call-arg]


def test_sensitive_to_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """With names as they are written, it's the same."""

    class Sensitive(Settings):
        model_config = SettingsConfigDict(case_sensitive=True)
        orders: PoolSettings

    monkeypatch.setenv("orders__kafka__linger_ms", "7")

    assert 5 == Sensitive(orders={"kafka": {"linger.ms": 5}}).orders.kafka.linger_ms  # type: ignore[arg-type]


# -- defaults that are changed in part ---------------------------------------------------------------

TEMPLATE = "a-{instance}-{index}"


def _pool(**others: Any) -> PoolSettings:
    return PoolSettings(transactional_id=TEMPLATE, kafka=KafkaSettings(retries=9), **others)


class Parted(BaseModel):
    """A part whose pool has a default."""

    pool: PoolSettings = _pool()


class Made(BaseModel):
    """A part whose pool is made anew each time."""

    pool: PoolSettings = Field(default_factory=_pool)


@dataclass
class PartedData:
    """A dataclass whose pool has a default."""

    pool: PoolSettings = field(default_factory=_pool)


class Fixed(PoolSettings):
    """A pool with defaults of its own."""

    transactional_id: str | None = TEMPLATE
    kafka: KafkaSettings = KafkaSettings(retries=9)


DEFAULTS: list[tuple[Any, Any, tuple[str, ...]]] = [
    (PoolSettings, _pool(), ()),
    (PoolSettings, Field(default_factory=_pool), ()),
    (PoolSettings | None, Field(default_factory=_pool), ()),
    (Annotated[PoolSettings, Field(default_factory=_pool)], ..., ()),
    (PoolSettings, {"transactional_id": TEMPLATE, "kafka": {"message.send.max.retries": 9}}, ()),
    (PoolSettings, Field(default_factory=_pool, validation_alias="other"), ()),
    (Fixed, ..., ()),
    (Parted, ..., ("pool",)),
    (Parted | None, None, ("pool",)),
    (Made, ..., ("pool",)),
    (Made, Made(), ("pool",)),
    (Made, Field(default_factory=Made), ("pool",)),
    (PartedData, ..., ("pool",)),
    (PartedData, PartedData(), ("pool",)),
    (Data, Data(_pool()), ("pool",)),
    (Checked, Checked(_pool()), ("pool",)),
    (Typed, {"pool": _pool()}, ("pool",)),
    (dict[str, PoolSettings], {"a": _pool(), "b": _pool(size=2)}, ("a",)),
    (dict[str, PoolSettings], Field(default_factory=lambda: {"a": _pool(), "b": _pool(size=2)}), ("a",)),
    (Mapping[str, Parted], {"a": Parted()}, ("a", "pool")),
    (dict[str, Parted], ..., ("a", "pool")),
    (dict[str, Fixed], ..., ("a",)),
]


@pytest.mark.parametrize(("annotation", "default", "path"), DEFAULTS, ids=str)
@pytest.mark.parametrize("source", ["environment", "json", "arguments"])
def test_a_default_that_is_changed_in_part(
    source: str, annotation: Any, default: Any, path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever gives one setting of a default leaves the others, wherever the default stands."""
    top = getattr(default, "validation_alias", None) or "part"
    made: Any = create_model("Made", __base__=Settings, part=(annotation, default))
    change = _within(path, {"size": "3", "kafka": {"linger.ms": "5"}})
    if source == "environment":
        monkeypatch.setenv("__".join((top, *path, "size")).upper(), "3")
        monkeypatch.setenv("__".join((top, *path, "kafka", "queue_buffering_max_ms")).upper(), "5")
    elif source == "json":
        monkeypatch.setenv(top.upper(), json.dumps(change))
    part = made(**({top: change} if source == "arguments" else {})).part
    for key in path:
        part = part[key] if isinstance(part, Mapping) else getattr(part, key)

    assert (3, TEMPLATE, {"linger.ms": 5, "retries": 9}) == (
        part.size,
        part.transactional_id,
        part.kafka.librdkafka(),
    )


def test_a_mapping_of_pools_that_is_changed_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables leave the other pools and add new ones; arguments say which pools there are."""

    class Many(Settings):
        part: dict[str, PoolSettings] = {"a": _pool(), "b": _pool(size=2)}  # noqa: RUF012  (pydantic copies it)

    monkeypatch.setenv("PART__A__SIZE", "3")
    monkeypatch.setenv("PART__C__SIZE", "4")
    given = Many(part={"b": {"size": 7}})  # type: ignore[dict-item]

    assert {"a": (3, TEMPLATE), "b": (2, TEMPLATE), "c": (4, None)} == {
        key: (each.size, each.transactional_id) for key, each in Many().part.items()
    }
    assert {"a": 3, "b": 7, "c": 4} == {key: each.size for key, each in given.part.items()}
    monkeypatch.delenv("PART__A__SIZE")
    monkeypatch.delenv("PART__C__SIZE")
    assert {"b": _pool(size=7)} == Many(part={"b": {"size": 7}}).part  # type: ignore[dict-item]


def test_a_block_of_kafkas_that_is_changed_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is for a block that pools share."""

    class Shared(Settings):
        kafka: KafkaSettings = Field(default_factory=lambda: KafkaSettings(retries=9))

    monkeypatch.setenv("KAFKA__LINGER_MS", "5")

    assert {"linger.ms": 5, "retries": 9} == Shared().kafka.librdkafka()


def test_a_default_that_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A factory is asked once, a mapping without pools is replaced, and an instance is taken as it is."""
    asked: list[int] = []

    class Lone(Settings):
        part: PoolSettings = Field(default_factory=lambda: asked.append(1) or _pool())  # type: ignore[func-returns-value]
        tags: dict[str, str] = {"a": "1"}  # noqa: RUF012  (pydantic copies it)
        other: PoolSettings = Field(default_factory=lambda data: PoolSettings(size=data["part"].size))

    monkeypatch.setenv("TAGS__B", "2")

    assert (TEMPLATE, {"b": "2"}) == (Lone().part.transactional_id, Lone().tags)
    assert 2 == len(asked)
    assert (None, 1) == (
        Lone(part=PoolSettings(size=1)).part.transactional_id,
        Lone(part=PoolSettings(size=1)).part.size,
    )
    assert 7 == Lone(other=PoolSettings(size=7)).other.size


def test_a_default_that_is_made_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can't be made before the others are known, so it can't be changed in part: that is told."""

    class Following(Settings):
        part: PoolSettings = PoolSettings()
        other: PoolSettings = Field(default_factory=lambda data: data["part"])

    monkeypatch.setenv("OTHER__SIZE", "3")
    with pytest.raises(SettingsError, match="other: a default that is made from other settings can't be changed in"):
        Following()


def test_defaults_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a class switches pydantic-settings' partial updates off, none of ours is made."""

    class Whole(Settings, nested_model_default_partial_update=False):
        part: PoolSettings = Field(default_factory=_pool)

    monkeypatch.setenv("PART__SIZE", "3")

    assert Whole().part.transactional_id is None


# -- sources are what they were ----------------------------------------------------------------------


def test_a_toml_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """TOML nests dotted keys, and so says what librdkafka's documentation does."""

    class Toml(Settings):
        model_config = SettingsConfigDict(toml_file="app.toml")
        orders: PoolSettings

        @classmethod
        def settings_customise_sources(cls, settings_cls: type[BaseSettings], **_: Any) -> tuple[Any, ...]:
            return (TomlConfigSettingsSource(settings_cls),)

    Path("app.toml").write_text(f'[orders.kafka]\nlinger.ms = 5\nsasl.password = "{SECRET}"\nlog_level = 3\n')
    kafka = Toml().orders.kafka  # type: ignore[call-arg]

    assert {"linger.ms": 5, "sasl.password": SecretStr(SECRET), "log_level": 3} == kafka.librdkafka()


def test_a_source_that_looks_at_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source of one's own still knows what the sources before it gave, and is asked for by its class."""
    seen: list[dict[str, Any]] = []

    class Looking(PydanticBaseSettingsSource):
        def get_field_value(self, _: Any, field_name: str) -> tuple[Any, str, bool]:
            return None, field_name, False

        def __call__(self) -> dict[str, Any]:
            seen.append(self.current_state)
            assert {"EnvSettingsSource"} == set(self.settings_sources_data)
            return {"orders": {"kafka": {"linger_ms": 1, "retries": 3}}}

    class Custom(Settings):
        orders: PoolSettings

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *, env_settings: Any, **_: Any
        ) -> tuple[Any, ...]:
            return (env_settings, Looking(settings_cls))

    monkeypatch.setenv("ORDERS__KAFKA__LINGER.MS", "7")
    kafka = Custom().orders.kafka  # type: ignore[call-arg]

    assert {"linger.ms": 7, "retries": 3} == kafka.librdkafka()
    assert [{"orders": {"kafka": {"linger_ms": "7"}}}] == seen


def test_a_mixin_that_chooses_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources are in one form whoever chose them, also a class that knows nothing of pools."""

    class Mixin:
        @classmethod
        def settings_customise_sources(
            cls, _: type[BaseSettings], *, init_settings: Any, env_settings: Any, **__: Any
        ) -> tuple[Any, ...]:
            return (env_settings, init_settings)

    class Mixed(Mixin, Settings):
        orders: PoolSettings

    monkeypatch.setenv("ORDERS__KAFKA__LINGER_MS", "7")

    assert 7 == Mixed(orders={"kafka": {"linger.ms": 5}}).orders.kafka.linger_ms  # type: ignore[arg-type]


def test_a_subclass_of_an_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an application's class chose holds for its subclasses, with positional arguments too."""

    class Test(App):
        model_config = SettingsConfigDict(json_file=None)
        clicks: PoolSettings = PoolSettings()

        @classmethod
        def settings_customise_sources(  # type: ignore[override]
            cls, settings_cls: type[BaseSettings], init_settings: Any, *others: Any, **named: Any
        ) -> tuple[Any, ...]:
            return Settings.settings_customise_sources(settings_cls, init_settings, *others, **named)

    monkeypatch.setenv("CLICKS__KAFKA__LINGER_MS", "7")

    assert 5 == Test(clicks={"kafka": {"linger.ms": 5}}).clicks.kafka.linger_ms  # type: ignore[arg-type]


def test_settings_made_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that are made by a function, or configured by keywords, are like others, and so are their copies."""
    made: Any = create_model("Made", __base__=Settings, orders=(PoolSettings, ...))

    class Prefixed(Settings, env_prefix="SHOP_"):
        kafka: KafkaSettings = KafkaSettings()

    monkeypatch.setenv("ORDERS__KAFKA__LINGER_MS", "7")
    monkeypatch.setenv("SHOP_KAFKA__QUEUE__BUFFERING__MAX__MS", "7")

    assert 5 == made(orders={"kafka": {"linger.ms": 5}}).orders.kafka.linger_ms
    assert (5, 7) == (Prefixed(kafka={"linger_ms": 5}).kafka.linger_ms, Prefixed().kafka.linger_ms)  # type: ignore[arg-type]
    assert Prefixed() == copy.deepcopy(Prefixed())
