"""What is said of variables that reach no pool, and of which variable a wrong value came."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from traceback import format_exception
from typing import Any, ClassVar

import pytest
from pydantic import AliasChoices, BaseModel, Field, ValidationError, model_validator
from pydantic_settings import EnvSettingsSource, SettingsConfigDict

import wd_di
from wd_di import KafkaSettings, PoolSettings, ProducerPool, Settings, SettingsError, SettingsWarning

TEMPLATE = "bills-{instance}-{index}"


class Bills(Settings):
    """A pool with defaults."""

    bills: PoolSettings = PoolSettings(transactional_id=TEMPLATE, kafka=KafkaSettings(linger_ms=7))


class Wanted(Settings):
    """A pool that must be given."""

    parcels: PoolSettings


class Prefixed(Settings):
    """The same under a prefix."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(env_prefix="DEPOT_")

    letters: PoolSettings


class Depot(Settings):
    """A block of Kafka's settings beside a pool, as pools of one cluster share it."""

    cluster: KafkaSettings = KafkaSettings(bootstrap_servers="one:9092")
    crates: PoolSettings = PoolSettings()


class Docked(Settings):
    """The same under a prefix, with another name for the pool."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(env_prefix="DOCK_", populate_by_name=True)

    harbour: KafkaSettings = KafkaSettings()
    barrels: PoolSettings = Field(default=PoolSettings(), validation_alias=AliasChoices("casks", "barrels"))


class Pools(BaseModel):
    """Pools within the settings."""

    sacks: PoolSettings = PoolSettings()


class Nested(Settings):
    """Pools that are one level down."""

    yard: Pools = Pools()
    sheds: dict[str, PoolSettings] = {"left": PoolSettings()}  # noqa: RUF012  (pydantic copies it)


def _told(kind: type[Settings], **arguments: Any) -> str:
    """All that is said when the settings are made: warnings, then the error."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            kind(**arguments)
        except ValidationError as error:
            return "\n".join([*(str(each.message) for each in seen), str(error)])
    assert {__file__} >= {each.filename for each in seen}
    return "\n".join(str(each.message) for each in seen)


# -- what reaches a pool -----------------------------------------------------------------------------


def test_a_variable_leaves_the_rest_of_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable changes one setting, of the pool or of Kafka, and a transactional pool stays one."""
    monkeypatch.setenv("BILLS__SIZE", "3")
    monkeypatch.setenv("BILLS__KAFKA__RETRIES", "9")
    bills = Bills().bills

    assert (3, TEMPLATE, {"linger.ms": 7.0, "retries": 9}) == (
        bills.size,
        bills.transactional_id,
        bills.kafka.librdkafka(),
    )


def test_the_global_pool_still_connects_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setup from the environment, or from a default that was updated in part, doesn't wait for brokers."""
    monkeypatch.setenv("WD_DI__KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("BILLS__KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    for settings in (None, Bills(bills={"instance": "0"}).bills):
        wd_di.setup(settings=settings)
        wd_di.close(timeout_ms=0, force=True)


class Tuned(KafkaSettings):
    """Kafka's settings with one more."""

    owner: str = "nobody"


class Topical(PoolSettings):
    """A pool's settings with some of the program's own."""

    topic: str = "nowhere"
    note: str = "none"


class Market(BaseModel):
    """The same one level down."""

    stalls: PoolSettings = Topical(topic="stalls", note="own", kafka=Tuned(owner="me"))


class Town(Settings):
    """Fields that are typed as the base of what their defaults are."""

    stalls: PoolSettings = Topical(topic="stalls", note="own", kafka=Tuned(owner="me"))
    made: PoolSettings = Field(default_factory=lambda: Market().stalls)
    market: Market = Market()
    several: dict[str, PoolSettings] = {"stalls": Market().stalls}  # noqa: RUF012  (pydantic copies it)


@pytest.mark.parametrize(
    ("variable", "pool"),
    [
        ("STALLS", lambda town: town.stalls),
        ("MADE", lambda town: town.made),
        ("MARKET__STALLS", lambda town: town.market.stalls),
        ("SEVERAL__STALLS", lambda town: town.several["stalls"]),
    ],
)
def test_a_variable_leaves_a_default_its_class(
    variable: str, pool: Callable[[Town], Topical], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is changed in part stays of the default's class, with the fields that only this has."""
    monkeypatch.setenv(f"{variable}__SIZE", "3")
    monkeypatch.setenv(f"{variable}__KAFKA__RETRIES", "9")
    monkeypatch.setenv(f"{variable}__NOTE", "new")
    changed = pool(Town())

    assert (3, "stalls", "new", Topical) == (changed.size, changed.topic, changed.note, type(changed))
    assert (Tuned, {"owner": "me", "retries": 9}) == (type(changed.kafka), changed.kafka.librdkafka())
    monkeypatch.setenv(f"{variable}__SIZE", "many")
    assert f"(variable {variable}__SIZE)" in _told(Town)


@pytest.mark.parametrize("variable", ["BILLS__TOPIC", "BILLS__KAFKA__TOPIC"])
def test_a_topic(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic is no setting, of a pool or of Kafka: it is told where it goes."""
    monkeypatch.setenv(variable, "parcels")

    said = _told(Bills)

    assert (
        f"belongs to a record: pass it to produce_sync(topic=..., value=...) and the like (variable {variable})" in said
    )


@pytest.mark.parametrize("common", [{"sasl.password": "hunter2", "linger.ms": 1}, {}])
def test_a_common_block(common: dict[str, object]) -> None:
    """What pools have in common is under what each of them says; secrets stay hidden, and all else stays as it is."""
    own = PoolSettings(size=2, transactional_id=TEMPLATE, kafka=KafkaSettings(linger_ms=7))
    pool = own.on(KafkaSettings.of(common))

    assert {**{key: str(KafkaSettings.of(common).librdkafka()[key]) for key in common}, "linger.ms": "7.0"} == {
        key: str(value) for key, value in pool.kafka.librdkafka().items()
    }
    assert "hunter2" not in repr(pool)
    assert (2, TEMPLATE) == (pool.size, pool.transactional_id)


# -- what reaches none -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BILL__SIZE", "BILLS__SIZE"),
        ("BILLS_SIZE", "BILLS__SIZE"),
        ("bilsl__timeout_ms", "BILLS__TIMEOUT_MS"),
        ("SHOP_BILLS__KAFKA__LINGER_MS", "BILLS__KAFKA__LINGER_MS"),
        ("BLLS__TRANSACTIONAL_ID", "BILLS__TRANSACTIONAL_ID"),
        ("SHOPBILLS__SIZE", "BILLS__SIZE"),
        ("APP_BILLS__SIEZ", "BILLS__SIZE"),
        ("BILSL__SIEZ", "BILLS__SIZE"),
        ("BILLS_KAFKA_BOOTSTRAP_SERVERS", "BILLS__KAFKA__BOOTSTRAP_SERVERS"),
        ("BILLS_KAFKA__LINGER_MS", "BILLS__KAFKA__LINGER_MS"),
        ("APP_BILLS__KAFKA__BOOTSTRAP_SEVERS", "BILLS__KAFKA__BOOTSTRAP_SERVERS"),
    ],
)
def test_a_variable_that_reaches_no_pool(name: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt pool, a prefix that the class hasn't, and a single underscore are told with what was meant."""
    monkeypatch.setenv(name, "3")
    with pytest.warns(
        SettingsWarning, match=f"^Bills: {name} is set, and no setting takes it: did you mean {meant}\\?$"
    ):
        Bills()


@pytest.mark.parametrize("extra", ["allow", "forbid"])
def test_a_variable_that_reaches_no_pool_of_a_class_with_extras(extra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a class says of extras concerns no environment: it is told of a misspelt pool, and others beside it are."""

    class Chests(Settings):
        model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(extra=extra)
        chests: PoolSettings = PoolSettings()

    monkeypatch.setenv("CHEST__SIZE", "3")
    monkeypatch.setenv("BILL__SIZE", "3")
    with pytest.warns(SettingsWarning, match="^Chests: CHEST__SIZE is set.* did you mean CHESTS__SIZE"):
        Chests()
    with pytest.warns(SettingsWarning, match="^Bills: BILL__SIZE is set.* did you mean BILLS__SIZE"):
        Bills()


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        (Depot, "CLUSTER__BOOTSTRAP_SEVERS", "CLUSTER__BOOTSTRAP_SERVERS"),
        (Depot, "CLUSTRE__BOOTSTRAP_SERVERS", "CLUSTER__BOOTSTRAP_SERVERS"),
        (Depot, "CLUSTER_BOOTSTRAP_SERVERS", "CLUSTER__BOOTSTRAP_SERVERS"),
        (Depot, "SHIP_CLUSTER__BOOTSTRAP_SERVERS", "CLUSTER__BOOTSTRAP_SERVERS"),
        (Depot, "CLUSTER__SASL_PASWORD", "CLUSTER__SASL_PASSWORD"),
        (Depot, "CLUSTER__LINGER__M", "CLUSTER__LINGER_MS"),
        (Docked, "HARBOUR__BOOTSTRAP_SERVERS", "DOCK_HARBOUR__BOOTSTRAP_SERVERS"),
        (Docked, "DOCK_HARBUOR__BOOTSTRAP_SERVERS", "DOCK_HARBOUR__BOOTSTRAP_SERVERS"),
        (Docked, "DOCK_HARBOUR__BOOTSTRAP_SEVERS", "DOCK_HARBOUR__BOOTSTRAP_SERVERS"),
        (Nested, "YARD__SACK__SIZE", "YARD__SACKS__SIZE"),
        (Nested, "YRAD__SACKS__SIZE", "YARD__SACKS__SIZE"),
        (Nested, "SACKS__SIZE", "YARD__SACKS__SIZE"),
        (Nested, "YARD_SACKS_SIZE", "YARD__SACKS__SIZE"),
        (Nested, "YARD__SACKS__KAFKA__BOOTSTRAP_SEVERS", "YARD__SACKS__KAFKA__BOOTSTRAP_SERVERS"),
        (Nested, "SHEDS__RIGHT__KAFKA__BOOTSTRAP_SEVERS", "SHEDS__RIGHT__KAFKA__BOOTSTRAP_SERVERS"),
        (Nested, "SHEDS_LEFT__SIZE", "SHEDS__LEFT__SIZE"),
    ],
)
def test_a_variable_that_reaches_no_pool_wherever_it_is(
    kind: type[Settings], name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that pools share are helped like pools, and so are pools in a model and in a mapping."""
    monkeypatch.setenv(name, "3")

    assert f"{kind.__name__}: {name} is set, and no setting takes it: did you mean {meant}?" == _told(kind)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Depot, "CLUSTER__SASL_PASSWORD"),
        (Depot, "CLUSTER__QUEUE__BUFFERING__MAX__MS"),
        (Depot, "CLUSTER__X"),
        (Depot, "CLUSTER_SERVICE_HOST"),
        (Depot, "CLUSTER_PORT"),
        (Depot, "OTHER_CLUSTER_BOOTSTRAP_SERVERS"),
        (Depot, "BOATS__CLUSTER__BOOTSTRAP_SERVERS"),
        (Depot, "DOCK_HARBOUR__BOOTSTRAP_SERVERS"),
        (Docked, "CASKS__SIZE"),
        (Docked, "DOCK_BARRELS__SIZE"),
        (Nested, "SHEDS__RIGHT__SIZE"),
    ],
)
def test_a_variable_that_is_right(kind: type[Settings], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said of what is taken, nor of what isn't like it."""
    monkeypatch.setenv(name, "3")

    assert not _told(kind)


def test_a_variable_beside_the_right_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that other programs read too is no mistake where ours is set as well."""
    monkeypatch.setenv("CLUSTER_BOOTSTRAP_SERVERS", "one:9092")
    (tmp_path / "shop.env").write_text("CLUSTER__METADATA_BROKER_LIST=one:9092")

    assert not _told(Depot, _env_file=tmp_path / "shop.env")


def test_names_in_files(tmp_path: Path) -> None:
    """What stands in a dotenv file, a secrets folder, JSON or the arguments is told with that, as it's spelt there."""
    file, folder = tmp_path / "shop.env", tmp_path / "secrets"
    folder.mkdir()
    file.write_text("BILL__SIZE=3\nbills__kafka__bootstrap_severs=one:9092\nBILLS__TIMEOUT=5\nPATHS=1\n")
    (folder / "bill__size").write_text("3")
    (folder / "bills").write_text('{"kafka": {"linger_m": 5}}')
    short = "timeout=5 is milliseconds, as in WaterDrop, and very short: say timeout_ms=5 if that is meant, timeout_ms="
    unheard = "is set, and no setting takes it: did you mean"

    assert [
        f"Bills: BILL__SIZE in {file} {unheard} BILLS__SIZE?",
        f"Bills: bill__size in {folder} {unheard} bills__size?",
        f"Bills: bills.kafka.bootstrap_severs {unheard} bills.kafka.bootstrap_servers?",
        f"Bills: BILLS__KAFKA__BOOTSTRAP_SEVERS in {file} {unheard} BILLS__KAFKA__BOOTSTRAP_SERVERS?",
        f"Bills: kafka.linger_m in bills in {folder} {unheard} kafka.linger_ms?",
        f"Bills: BILLS__TIMEOUT in {file}: {short}5000 for seconds",
    ] == _told(Bills, _env_file=file, _secrets_dir=folder, bills={"kafka": {"bootstrap_severs": "a"}}).splitlines()


@pytest.mark.parametrize(
    "name",
    ["PARCELS__SIZE", "DEPOT_LETTERS__SIZE", "ACCOUNTS__SIZE", "TEXT_SIZE", "BILLS__SIZE", "BILLS", "BILL_ORDER"],
)
def test_other_variables_are_nobodys_business(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another class of settings reads, or another program, is no mistake."""
    monkeypatch.setenv(name, "{}" if name == "BILLS" else "3")

    assert Bills().bills.transactional_id == TEMPLATE


def test_a_pool_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which variables fill the pool, and which one was near."""
    monkeypatch.setenv("PARCEL__SIZE", "3")
    with pytest.raises(ValidationError, match="set PARCELS__KAFKA__BOOTSTRAP_SERVERS and so on") as caught:
        Wanted()
    with pytest.raises(ValidationError, match="set DEPOT_LETTERS__KAFKA__BOOTSTRAP_SERVERS and so on"):
        Prefixed()

    assert "PARCEL__SIZE is set, did you mean PARCELS__SIZE?" in str(caught.value)
    assert "missing" == caught.value.errors()[0]["type"]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("PARCELS__SIZE", "hunter2", r"unable to parse string as an integer \(variable PARCELS__SIZE\)"),
        ("parcels__kafka__security_protocol", "SALS", r"\(variable parcels__kafka__security_protocol\)"),
        ("PARCELS__KAFKA__LINGER__MS", "soon", r"\(variable PARCELS__KAFKA__LINGER__MS\)"),
        ("PARCELS__SIZ", "3", r"did you mean size\? \(variable PARCELS__SIZ\)"),
        ("DEPOT_LETTERS__SIZE", "hunter2", r"\(variable DEPOT_LETTERS__SIZE\)"),
    ],
)
def test_a_wrong_value(name: str, value: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable that the value came from, and never the value."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=text) as caught:
        (Prefixed if name.startswith("DEPOT") else Wanted)()

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("PARCELS__KAFKA_BOOTSTRAP_SERVERS", "hunter2", ", did you mean PARCELS__KAFKA__BOOTSTRAP_SERVERS?"),
        ("PARCELS__BOOTSTRAP_SERVERS", "hunter2", ", did you mean PARCELS__KAFKA__BOOTSTRAP_SERVERS?"),
        ("PARCELS__SASL__PASSWORD", "hunter2", ", did you mean PARCELS__KAFKA__SASL_PASSWORD?"),
        ("PARCELS__KFKA__LINGER_MS", "5", ""),
        ("PARCELS", '{"siez": 3}', ""),
        ("PARCELS", '{"size": "hunter2"}', ""),
        ("PARCELS", '{"kafka": {"linger.ms": "hunter2"}}', ""),
        ("PARCELS", "3", ""),
        ("PARCELS__KAFKA__TRANSACTIONAL_ID", "hunter2", ""),
        ("PARCELS__KAFKA__ON_DELIVERY", "hunter2", ""),
        ("PARCELS__KAFKA__LINGER", "5", ""),
        ("PARCELS__KAFKA__", "5", ""),
        ("PARCELS__KAFKA__DEFAULT_TOPIC_CONFIG__LINGER_MS", "5", ""),
        ("PARCELS__KAFKA__QUEUE_BUFFERING_MAX_MS", "hunter2", ""),
        ("PARCELS__TIMEOUT", "hunter2", ""),
    ],
)
def test_the_name_of_what_is_wrong(name: str, value: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named also where the error is about the pool as a whole, with what it should have been."""
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("PARCELS__KAFKA__RETRIES", "3")
    said = _told(Wanted)

    assert f"(variable {name}{text})" in said
    assert 1 == said.count("variable ")
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("kind", "name"), [(Depot, "CLUSTER__TRANSACTIONAL_ID"), (Nested, "YARD__SACKS__SIEZ"), (Docked, "CASKS__SIEZ")]
)
def test_the_name_of_what_is_wrong_elsewhere(kind: type[Settings], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is in a block of Kafka's settings, in a model, and under another name."""
    monkeypatch.setenv(name, "3")

    assert f"(variable {name})" in _told(kind)


def test_the_file_of_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value is told with the file it stands in, and only with the source that won."""
    (tmp_path / "shop.env").write_text("PARCELS__SIZE=hunter2\nPARCELS__SIEZ=3\n")
    (tmp_path / "parcels__warm").write_text("hunter2")
    monkeypatch.setenv("PARCELS__SIZE", "hunter2")
    said = _told(Wanted, _env_file=tmp_path / "shop.env", _secrets_dir=tmp_path)

    assert "(variable PARCELS__SIZE)" in said
    assert f"(variable PARCELS__SIEZ in {tmp_path / 'shop.env'})" in said
    assert f"(file parcels__warm in {tmp_path})" in said
    assert "hunter2" not in said
    assert "variable" not in _told(Wanted, parcels={"size": "hunter2"})


def test_what_is_like_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that only pretends to be the environment, as of a vault, has no variables: its settings are told."""

    class Vault(EnvSettingsSource):
        def _load_env_vars(self) -> dict[str, str | None]:
            return {"bills__timeout": "5", "bill__size": "3", "bills__kafka__linger_m": "3"}

    class Vaulted(Bills):
        @classmethod
        def settings_customise_sources(cls, settings_cls: Any, **_: Any) -> Any:  # type: ignore[override]
            return (Vault(settings_cls),)

    assert [
        "Vaulted: bills.kafka.linger_m is set, and no setting takes it: did you mean bills.kafka.linger_ms?",
        "Vaulted: bills.timeout: timeout=5 is milliseconds, as in WaterDrop, and very short",
    ] == [each.partition(": say")[0] for each in _told(Vaulted).splitlines()]


def test_an_error_of_the_class_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a class checks as a whole is told as it is."""

    class Whole(Bills):
        @model_validator(mode="after")
        def _refuse(self) -> Whole:
            raise ValueError("nothing will do")

    monkeypatch.setenv("BILLS__SIZE", "3")

    assert "Value error, nothing will do [type=value_error]" in _told(Whole)


def test_both_names_of_what_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two spellings in one source are both named."""
    monkeypatch.setenv("PARCELS__KAFKA__LINGER_MS", "1")
    monkeypatch.setenv("PARCELS__KAFKA__LINGER.MS", "2")

    assert "(variables PARCELS__KAFKA__LINGER_MS, PARCELS__KAFKA__LINGER.MS)" in _told(Wanted)


# -- Kafka's names -----------------------------------------------------------------------------------


def test_a_misspelt_name_of_kafkas(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable for a setting that is nearly one of Kafka's is told at once, and the pool names both."""
    monkeypatch.setenv("BILLS__KAFKA__BOOTSTRAP_SEVERS", "one:9092")
    meant = (
        "BILLS__KAFKA__BOOTSTRAP_SEVERS is set, and no setting takes it: did you mean BILLS__KAFKA__BOOTSTRAP_SERVERS"
    )
    with pytest.warns(SettingsWarning, match=meant):
        bills = Bills().bills
    with pytest.raises(SettingsError, match=r"bootstrap\.servers is missing \(bootstrap\.severs is set, and is no"):
        ProducerPool(bills.model_copy(update={"instance": "0"}), name="bills")
    with pytest.raises(SettingsError, match=r'property: "linger\.m", did you mean linger\.ms\?'):
        ProducerPool({"kafka": {"bootstrap.servers": "one:9092", "linger.m": 5}}, name="bills")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("debugg", "debug"),
        ("socket_keepalive_enabl", "socket.keepalive.enable"),
        ("broker_address_famly", "broker.address.family"),
        ("queue_buffering_backpressure_thresold", "queue.buffering.backpressure.threshold"),
        ("log_connection_clos", "log.connection.close"),
        ("socket.nagle.disabl", "socket.nagle.disable"),
        ("sasl_kerberos_service_nam", "sasl.kerberos.service.name"),
        ("metadata_broker_lists", "metadata.broker.list"),
        ("max_in_flight_request", "max.in.flight.requests.per.connection"),
        ("enabled_event", "enabled_events"),
        ("linger_m", "linger.ms"),
        ("bootstrap_severs", "bootstrap.servers"),
    ],
)
def test_a_near_name_of_kafkas(name: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names without a typed field and second names are told too, by the settings and by the pool."""
    monkeypatch.setenv(f"BILLS__KAFKA__{name.upper()}", "1")
    other = f"BILLS__KAFKA__{meant.upper().replace('.', '_')}"
    given = {"bootstrap.servers": "one:9092", name: "1"}
    with pytest.raises(SettingsError, match=f'property: ".*", did you mean {re.escape(meant)}\\?$'):
        ProducerPool({"kafka": given}, name="bills")

    assert _told(Bills).endswith(f"BILLS__KAFKA__{name.upper()} is set, and no setting takes it: did you mean {other}?")


@pytest.mark.parametrize(
    "name", ["FETCH_MESSAGE_MAX_BYTES", "SOCKET_NAGLE_DISABLE", "SSL_KEY", "WHATEVER", "LOG.QUEUE"]
)
def test_a_name_of_kafkas_that_is_right_or_nobodys(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said of a name that is known, or like none."""
    monkeypatch.setenv(f"BILLS__KAFKA__{name}", "1")

    assert not _told(Bills)


def test_one_of_kafkas_without_a_field_among_the_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told where it belongs, as one with a field is."""
    monkeypatch.setenv("PARCELS__SOCKET_NAGLE_DISABLE", "true")

    assert (
        "socket_nagle_disable is Kafka's own: it belongs into the field kafka (variable PARCELS__SOCKET_NAGLE_DISABLE, "
        "did you mean PARCELS__KAFKA__SOCKET_NAGLE_DISABLE?)"
    ) in _told(Wanted)


@pytest.mark.parametrize(
    ("given", "warned"),
    [(5, True), ("5", True), (5.0, True), ("5.0", True), (49, True), (50, False), (50.0, False), (0, False)],
)
def test_a_timeout_without_a_unit(given: object, warned: bool) -> None:  # noqa: FBT001  (a table)
    """The alias counts milliseconds, as in Ruby; what looks like seconds is told, with both ways out."""
    said = "is milliseconds, as in WaterDrop, and very short: say timeout_ms="
    told = f"timeout={given} {said}{float(str(given)):g} if that is meant"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        timeout_ms = PoolSettings.model_validate({"timeout": given}).timeout_ms
        PoolSettings(timeout_ms=5)

    assert float(str(given)) == timeout_ms
    assert [warned] * len(seen) == [told in str(each.message) for each in seen]
    assert warned == bool(seen)


def test_each_pool_with_a_short_timeout_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning stands at the line that made the settings, so Python's own filter shows it once for each line."""
    monkeypatch.setenv("BILLS__TIMEOUT", "5.0")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        PoolSettings.model_validate({"timeout": 5})
        PoolSettings(timeout=5)  # type: ignore[call-arg]
        ProducerPool({"timeout": 5, "deliver": False}).close()
        Bills()

    assert {__file__} == {each.filename for each in seen}
    assert 4 == len({each.lineno for each in seen})
    assert str(seen[-1].message).startswith("Bills: BILLS__TIMEOUT: timeout=5.0 is milliseconds")


# -- what can't be read ------------------------------------------------------------------------------


class Flock(Settings):
    """Pools by whatever name, and a list."""

    flock: dict[str, PoolSettings] = {}  # noqa: RUF012  (pydantic copies it)
    tags: list[str] = []  # noqa: RUF012  (pydantic copies it)


@pytest.mark.parametrize(
    ("kind", "variable", "value", "said"),
    [
        (Bills, "BILLS__KAFKA", "hunter2:9092", "holds no JSON; for one setting: BILLS__KAFKA__BOOTSTRAP_SERVERS"),
        (Bills, "BILLS", "{hunter2}", "holds no JSON; for one setting: BILLS__SIZE, BILLS__KAFKA__BOOTSTRAP_SERVERS"),
        (Bills, "BILLS", "", "is empty, and takes JSON: unset it; for one setting: BILLS__SIZE"),
        (Depot, "CLUSTER", "hunter2", "holds no JSON; for one setting: CLUSTER__BOOTSTRAP_SERVERS"),
        (Prefixed, "DEPOT_LETTERS", "hunter2", "holds no JSON; for one setting: DEPOT_LETTERS__SIZE"),
        (Nested, "YARD__SACKS", "hunter2", "holds no JSON; for one setting: YARD__SACKS__SIZE"),
        (Nested, "SHEDS", "hunter2", "holds no JSON; for one setting: SHEDS__LEFT__SIZE"),
        (Flock, "FLOCK", "hunter2", "holds no JSON; for one setting: FLOCK__ORDERS__SIZE of a pool 'orders'"),
        (Flock, "TAGS", "hunter2", "holds no JSON"),
    ],
)
def test_text_in_place_of_json(
    kind: type[Settings], variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that holds no JSON where it should is named, with those of single settings; its value isn't shown."""
    monkeypatch.setenv("ANOTHER", value)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as raised:
        kind()

    assert str(raised.value).startswith(f"{kind.__name__}: variable {variable} {said}")
    assert "hunter2" not in "".join(format_exception(raised.value))


def test_text_in_place_of_json_in_files(tmp_path: Path) -> None:
    """A dotenv file and a folder of secrets are named as well."""
    (tmp_path / "env").write_text("BILLS__KAFKA=hunter2\n", "utf-8")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "bills__kafka").write_text("hunter2", "utf-8")
    for given, said in (
        ({"_env_file": tmp_path / "env"}, f"variable BILLS__KAFKA in {tmp_path / 'env'} holds no JSON"),
        ({"_secrets_dir": tmp_path / "secrets"}, f"file bills__kafka in {tmp_path / 'secrets'} holds no JSON"),
    ):
        with pytest.raises(SettingsError, match=re.escape(f"Bills: {said}; for one setting: ")):
            Bills(**given)


def test_the_global_pools_variable_without_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable of the global pool is named likewise, and its setup can be tried again."""
    monkeypatch.setenv("WD_DI", "127.0.0.1:9092")
    for _ in range(2):
        with pytest.raises(SettingsError, match=r"variable WD_DI holds no JSON; .*WD_DI__KAFKA__BOOTSTRAP_SERVERS"):
            wd_di.setup()


# -- where the brokers are ---------------------------------------------------------------------------


def _unreachable(pool: PoolSettings) -> str:
    with pytest.raises(SettingsError, match="bootstrap_servers") as raised:
        ProducerPool(pool)
    return str(raised.value)


def test_missing_brokers_are_told_with_their_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool without brokers names the variable that would give them, wherever it is, and what is set in its place."""
    monkeypatch.setenv("PARCELS__SIZE", "5")
    monkeypatch.setenv("DEPOT_LETTERS__SIZE", "5")
    for pool, variable in (
        (Wanted().parcels, "PARCELS__KAFKA__BOOTSTRAP_SERVERS"),  # type: ignore[call-arg]
        (Prefixed().letters, "DEPOT_LETTERS__KAFKA__BOOTSTRAP_SERVERS"),  # type: ignore[call-arg]
        (Docked().barrels.on(KafkaSettings(linger_ms=3)), "DOCK_CASKS__KAFKA__BOOTSTRAP_SERVERS"),
        (Nested().yard.sacks, "YARD__SACKS__KAFKA__BOOTSTRAP_SERVERS"),
        (Nested().sheds["left"].model_copy(update={"size": 2}), "SHEDS__LEFT__KAFKA__BOOTSTRAP_SERVERS"),
    ):
        assert f"(variable {variable})" in _unreachable(pool)
    monkeypatch.setenv("PARCELS_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    with pytest.warns(SettingsWarning, match="did you mean PARCELS__KAFKA__BOOTSTRAP_SERVERS"):
        pool = Wanted().parcels  # type: ignore[call-arg]
    said = _unreachable(pool)
    assert "; PARCELS_BOOTSTRAP_SERVERS is set, and no setting takes it)" in said


def test_the_global_pools_missing_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The global pool names its variable, and the one that other programs take; what isn't of the environment, none."""
    with pytest.raises(SettingsError, match=re.escape("(variable WD_DI__KAFKA__BOOTSTRAP_SERVERS), or deliver")):
        wd_di.setup()
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    with pytest.raises(SettingsError, match="; KAFKA_BOOTSTRAP_SERVERS is set, and no setting takes it"):
        wd_di.setup()
    with pytest.raises(SettingsError) as raised:
        wd_di.setup(settings=PoolSettings())
    assert "variable" not in str(raised.value)


def test_a_required_pool_and_brokers_of_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing pool is told with the variable that was set in place of its own."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")

    assert "or give the field a default; KAFKA_BOOTSTRAP_SERVERS is set, and no setting takes it" in _told(Wanted)


def test_what_is_known_of_the_variable_is_no_setting() -> None:
    """Settings with a known variable are equal to others, hash and dump alike, and a shared default isn't touched."""
    own, other = PoolSettings(), Depot().crates

    assert (own, hash(own), own.model_dump(), dict(own), repr(own)) == (
        other,
        hash(other),
        other.model_dump(),
        dict(other),
        repr(other),
    )
    assert "variable" not in _unreachable(Depot.model_fields["crates"].default)


# -- pools by whatever key ---------------------------------------------------------------------------


class Boats(BaseModel):
    """Pools by their names, one level down."""

    boats: dict[str, PoolSettings] = {}


class Fleet(Settings):
    """The same with names from everywhere that a default comes from."""

    ships: dict[str, PoolSettings] = {"ferries": PoolSettings(), "eu_tugs": PoolSettings()}  # noqa: RUF012
    made: dict[str, PoolSettings] = Field(default_factory=lambda: {"yachts1": PoolSettings(), "Canoes": PoolSettings()})
    port: Boats = Boats(boats={"rowing": PoolSettings()})
    barges: dict[str, PoolSettings] = {}  # noqa: RUF012  (pydantic copies it)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("SHIPS__FERRY_S__SIZE", ""),
        ("SHIPS__FERRIE__SIZE", "'ferrie' beside 'ferries': did you mean SHIPS__FERRIES__SIZE?"),
        ("SHIPS__FERIRES__SIZE", "'ferires' beside 'ferries': did you mean SHIPS__FERRIES__SIZE?"),
        ("SHIPS__FERRIE__KAFKA__RETRIES", "'ferrie' beside 'ferries': did you mean SHIPS__FERRIES__KAFKA__RETRIES?"),
        ("SHIPS__FERRIES__SIZE", ""),
        ("SHIPS__US_TUGS__SIZE", ""),
        ("SHIPS__ROWING__SIZE", ""),
        ("MADE__YACHTS2__SIZE", ""),
        ("MADE__YACHT__SIZE", "'yacht' beside 'yachts1': did you mean MADE__YACHTS1__SIZE?"),
        ("MADE__CANOES__SIZE", "'canoes' beside 'Canoes'"),
        ("PORT__BOATS__ROWNG__SIZE", "'rowng' beside 'rowing': did you mean PORT__BOATS__ROWING__SIZE?"),
        ("BARGES__ANY__SIZE", ""),
    ],
)
def test_a_further_pool_near_to_one_of_the_default(variable: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping takes further pools; one whose name is near to another's, not in a series with it, is a warning."""
    monkeypatch.setenv(variable, "3")

    assert _told(Fleet) == (f"Fleet: {variable} makes a further pool {said}" if said else "")


def test_a_further_pool_of_the_programs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that the program itself gives is no mistake; several variables of one further pool are one warning."""
    monkeypatch.setenv("SHIPS__FERRIE__SIZE", "3")
    monkeypatch.setenv("SHIPS__FERRIE__KAFKA__RETRIES", "3")

    assert _told(Fleet, ships={"ferrie": {"share": 2}}) == ""
    assert _told(Fleet).count("makes a further pool") == 1


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("BARGE__ANY__SIZE", "BARGES__ANY__SIZE"),
        ("BARGES_ANY__SIZE", "BARGES__ANY__SIZE"),
        ("BARGES_ANY__KAFKA__RETRIES", "BARGES__ANY__KAFKA__RETRIES"),
        ("PORT_BOATS__ANY__SIZE", "PORT__BOATS__ANY__SIZE"),
        ("PARTS__ANY__SIZE", ""),
        ("BARGE_MAX_SIZE", ""),
        ("BARGE__ANY__COLOUR", ""),
    ],
)
def test_a_name_near_to_a_mapping(variable: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that would be of a pool by whatever key, but for how it begins, is a warning."""
    monkeypatch.setenv(variable, "3")

    said = f"Fleet: {variable} is set, and no setting takes it: did you mean {meant}?"
    assert _told(Fleet) == (said if meant else "")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("CLUSTER_BOOTSTRAP_SEVERS", "CLUSTER__BOOTSTRAP_SERVERS"),
        ("CLUSTER__BROKERS", "CLUSTER__BOOTSTRAP_SERVERS"),
        ("CRATES__KAFKA__HOST", "CRATES__KAFKA__BOOTSTRAP_SERVERS"),
        ("CRATES_BOOTSTRAP_SERVERS", "CRATES__KAFKA__BOOTSTRAP_SERVERS"),
        ("CLUSTER_HOST", ""),
        ("CLUSTER_HEAP_OPTS", ""),
        ("CLUSTER_CLIENTID", ""),
        ("CRATES_CLIENT_ID", ""),
    ],
)
def test_other_names_of_the_brokers(variable: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written for the brokers is a warning with their setting; what other programs have so often is none."""
    monkeypatch.setenv(variable, "127.0.0.1:1")

    said = f"Depot: {variable} is set, and no setting takes it: did you mean {meant}?"
    assert _told(Depot) == (said if meant else "")


@pytest.mark.parametrize("name", ["brokers", "broker", "host", "servers"])
def test_other_names_of_the_brokers_in_a_pool(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among a pool's settings they are refused with the right one, and among Kafka's told where that is missing."""
    assert f"missing ({name} is set, and is no setting)" in _unreachable(
        PoolSettings(kafka=KafkaSettings.of({name: "x"}))
    )
    monkeypatch.setenv(f"CRATES__{name.upper()}", "127.0.0.1:1")
    assert "did you mean kafka.bootstrap_servers?" in _told(Depot)


class Stack(Settings):
    """Pools that are a list."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(env_prefix="STACK_")

    plates: list[PoolSettings] = []  # noqa: RUF012  (pydantic copies it)


def test_a_list_of_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a list can't be set: the variable is named, with that of the whole and with a mapping as the way."""
    monkeypatch.setenv("STACK_PLATES__0__SIZE", "3")
    said = _told(Stack)
    assert "(variable STACK_PLATES__0__SIZE): a list is given as a whole, as JSON in STACK_PLATES; " in said
    assert "dict[str, PoolSettings]" in said
    monkeypatch.delenv("STACK_PLATES__0__SIZE")
    monkeypatch.setenv("STACK_PLATES", '[{"size": 3}, {"size": "many"}]')
    assert "(variable STACK_PLATES)" in _told(Stack)
    monkeypatch.setenv("STACK_PLATES", '[{"size": 3}]')
    assert [3] == [each.size for each in Stack().plates]
