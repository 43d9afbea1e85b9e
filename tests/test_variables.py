"""What is said of variables that reach no pool, and of which variable a wrong value came."""

from __future__ import annotations

import warnings
from typing import ClassVar

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

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
    ],
)
def test_a_variable_that_reaches_no_pool(name: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt pool, a prefix that the class hasn't, and a single underscore are told with what was meant."""
    monkeypatch.setenv(name, "3")
    with pytest.warns(
        SettingsWarning, match=f"^Bills: {name} is set, and no setting takes it: did you mean {meant}\\?$"
    ):
        Bills()


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


@pytest.mark.parametrize(("given", "warned"), [(5, True), ("5", True), (49, True), (50, False), (0, False)])
def test_a_timeout_without_a_unit(given: object, warned: bool) -> None:  # noqa: FBT001  (a table)
    """The alias counts milliseconds, as in Ruby; what looks like seconds is told, with both ways out."""
    told = f"timeout={given} is milliseconds, as in WaterDrop, and very short: say timeout_ms={given} if that is meant"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        timeout_ms = PoolSettings.model_validate({"timeout": given}).timeout_ms
        PoolSettings(timeout_ms=5)

    assert int(str(given)) == timeout_ms
    assert [warned] * len(seen) == [told in str(each.message) for each in seen]
    assert warned == bool(seen)
