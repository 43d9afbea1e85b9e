"""What a pool takes as its settings, wherever it is given them, and what it says to all else."""

from __future__ import annotations

import json
import warnings
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from dependency_injector import containers, providers
from pydantic import BaseModel, ConfigDict, SecretStr
from pydantic_settings import SettingsConfigDict

import wd_di
from tests import internals
from wd_di import KafkaSettings, Observer, PoolResource, PoolSettings, ProducerPool, SettingsError
from wd_di.settings import SettingsWarning
from wd_di.testing import FakePool, faked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "s3cr3t-value"  # noqa: S105  (what must not be seen)
MEMORY = PoolSettings(deliver=False, size=2)


class App(wd_di.Settings):
    """An application's settings, with two pools."""

    token: str = SECRET
    orders: PoolSettings = MEMORY
    clicks: PoolSettings = MEMORY


class Lonely(BaseModel):
    """A model without a pool."""

    token: str = SECRET


class Own(PoolSettings):
    """Settings with a field of an application's own."""

    region: str


class Named(PoolSettings):
    """Settings that take whatever an application puts there."""

    model_config = ConfigDict(extra="allow")


class Strict(KafkaSettings):
    """Kafka's settings, but for those that have no field."""

    model_config = ConfigDict(extra="forbid")


def _with_kafka(kafka: KafkaSettings, **update: object) -> PoolSettings:
    return PoolSettings(deliver=False, size=2, kafka=kafka.model_copy(update=update))


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    wd_di.close(timeout_ms=0, force=True)


def _by_resource(given: object) -> PoolSettings:
    class Container(containers.DeclarativeContainer):
        orders = PoolResource(given)  # type: ignore[arg-type]

    return _settled(Container().orders())


def _by_provider(given: object) -> PoolSettings:
    class Container(containers.DeclarativeContainer):
        orders = PoolResource(providers.Callable(lambda: given))

    return _settled(Container().orders())


def _by_pool(given: Any) -> PoolSettings:
    return _settled(ProducerPool(given, name="orders"))


def _by_reload(given: Any) -> PoolSettings:
    pool = ProducerPool(MEMORY, name="orders")
    try:
        pool.reload(given)
    finally:
        settings = _settled(pool)
    return settings


def _by_fake(given: Any) -> PoolSettings:
    return _settled(FakePool("orders", settings=given))


def _by_faked(given: Any) -> PoolSettings:
    class Container(containers.DeclarativeContainer):
        orders = PoolResource(MEMORY)

    with faked(Container(), "orders", settings=given) as fake:
        return internals.settings(fake)


def _by_setup(given: Any) -> PoolSettings:
    wd_di.setup(settings=given)
    return _settled(wd_di.default.container.pool())


def _settled(pool: ProducerPool) -> PoolSettings:
    pool.close()
    return internals.settings(pool)


WAYS: dict[str, Callable[[object], PoolSettings]] = {
    "PoolResource": _by_resource,
    "a provider": _by_provider,
    "ProducerPool": _by_pool,
    "reload": _by_reload,
    "FakePool": _by_fake,
    "faked": _by_faked,
    "setup": _by_setup,
}
everywhere = pytest.mark.parametrize("build", WAYS.values(), ids=WAYS)


# -- settings ----------------------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("kind", [dict, MappingProxyType])
def test_a_mapping_is_validated(build: Callable[[object], PoolSettings], kind: Any) -> None:
    """A mapping gives the fields, as text too; None is as if not given."""
    given = {"size": "2", "deliver": "false", "timeout": "70", "order": None, "kafka": {"sasl": {"password": SECRET}}}
    settings = build(kind(given))

    expected = (2, False, 70, {"sasl.password"})
    assert expected == (settings.size, settings.deliver, settings.timeout_ms, set(settings.kafka.librdkafka()))


@everywhere
@pytest.mark.parametrize(
    ("given", "text"),
    [
        (App(), r"not App: pass one of its pools \(orders, clicks\), in a container settings\.provided\.orders"),
        (Lonely(), "not Lonely$"),
        (KafkaSettings(linger_ms=5), r"not KafkaSettings: pass PoolSettings\(kafka=\.\.\.\)"),
        (PoolSettings, "not the class PoolSettings: pass an instance"),
        (App, "not the class App: pass an instance"),
        (SECRET, r"not str: a pool's name is passed as name=\.\.\.$"),
        (5_000, "not int$"),
        ([("size", 2)], "not list$"),
        (object(), "not object$"),
        ({"size": 0, "deliver": False}, "size: Input should be greater than or equal to 1, got int$"),
        ({"size": SECRET}, "size: .*got str$"),
        ({"siz": SECRET}, r"siz: a pool has no such setting, did you mean size\?, got str$"),
        ({"Max-Waiting": SECRET}, r"Max-Waiting: .*, did you mean max_waiting\?, got str$"),
        ({"own_region": SECRET}, "own_region: a pool has no such setting, got str$"),
        ({"": SECRET}, "'': a pool has no such setting, got str$"),
        (
            {"orders": {"size": 2}},
            r"orders: a pool has no such setting: if .* pass them alone, as config\.orders, got dict$",
        ),
        (
            {"orders": MEMORY, "size": 2},
            r"orders: .*: if these are the pool's, pass them alone, as config\.orders, got PoolSettings$",
        ),
        (
            {"size": providers.Object(2)},
            r"size: a provider in a plain mapping isn't asked: .* providers\.Dict, got Object$",
        ),
        (
            {"kafka": {"linger.ms": providers.Object(2)}},
            r"kafka\.linger\.ms: a provider in a plain mapping isn't asked",
        ),
        (json.dumps({"sasl": SECRET}), r"not str: JSON is read before, as by json\.loads$"),
        ({"kafka": {"linger.ms": SECRET}}, r"kafka\.linger\.ms: .*, got str$"),
        ({"kafka": {"sasl.password": [SECRET]}}, r"kafka\.sasl\.password: .*, got list$"),
        ({"kafka": {"error_cb": print}}, r"kafka: error_cb can't be set .*error\.occurred"),
        ({"kafka": SECRET}, "kafka: .*, got str$"),
        ({"sasl": {"password": SECRET}}, "sasl is Kafka's own: it belongs into the field kafka$"),
        (MEMORY.model_copy(update={"size": 0}), "size: Input should be greater than or equal to 1, got int$"),
        (MEMORY.model_copy(update={"size": None}), "size: .*, got NoneType$"),
        (MEMORY.model_copy(update={"timeout_ms": -1}), "timeout_ms: .*, got int$"),
        (MEMORY.model_copy(update={"kafka": None}), "kafka: .*, got NoneType$"),
        (MEMORY.model_copy(update={"timeout": 7}), "timeout: model_copy .* own names only: it is timeout_ms$"),
        (MEMORY.model_copy(update={"siez": SECRET}), r"siez: a pool has no such setting, did you mean size\?$"),
        (MEMORY.model_copy(update={3: SECRET}), "3: a pool has no such setting$"),
        (MEMORY.model_copy(update={"linger_ms": 7}), "linger_ms: it is Kafka's own: it belongs into the field kafka$"),
        (MEMORY.model_copy(update={"sasl.password": SECRET}), r"sasl\.password: it is Kafka's own"),
        (Named(deliver=False).model_copy(update={"timeout": 7}), "timeout: .*: it is timeout_ms$"),
        (_with_kafka(KafkaSettings(), **{"transactional.id": "x"}), r"kafka: transactional\.id can't be shared"),
        (_with_kafka(KafkaSettings(), error_cb=print), r"kafka: error_cb can't be set .*error\.occurred"),
        (_with_kafka(KafkaSettings(), linger_ms=SECRET), r"kafka\.linger\.ms: .*, got str$"),
        (_with_kafka(KafkaSettings(linger_ms=3), metadata_broker_list=[SECRET]), r"kafka\.bootstrap\.servers: .*list$"),
        (_with_kafka(KafkaSettings(linger_ms=3), **{"queue.buffering.max.ms": 5}), "kafka: .* is given twice .*"),
        (_with_kafka(Strict(), debug=SECRET), "debug: .*got str$"),
        (PoolSettings.model_construct(deliver=False, order=SECRET), "order: .*, got str$"),  # type: ignore[arg-type]
    ],
)
def test_all_else_is_told_by_its_kind(build: Callable[[object], PoolSettings], given: object, text: str) -> None:
    """The error names the pool, what it got and the way out, and shows no value, nor has a cause that does."""
    name = "default" if build is _by_setup else "orders"
    with pytest.raises(SettingsError, match=f"^{name}: .*{text}") as caught:
        build(given)

    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not wd_di.is_active()


@everywhere
def test_what_model_copy_made_is_made_good(build: Callable[[object], PoolSettings]) -> None:
    """A copy with text in place of a number, or a dict in place of settings, is validated; the rest stays as it is."""
    given = Own(deliver=False, region="north").model_copy(update={"size": "2", "kafka": {"linger.ms": "5"}})
    settings = build(given)

    assert isinstance(settings, Own)
    assert (2, 5, "north") == (settings.size, settings.kafka.linger_ms, settings.region)


@everywhere
@pytest.mark.parametrize(
    ("update", "key", "value"),
    [
        ({"linger_ms": "5"}, "linger_ms", 5),
        ({"linger.ms": 5}, "linger_ms", 5),
        ({"linger.ms": 5.0}, "linger_ms", 5),
        ({"metadata_broker_list": "a:1"}, "bootstrap_servers", "a:1"),
        ({"sasl_password": SECRET}, "sasl_password", SecretStr(SECRET)),
        ({"sasl": {"password": SECRET}}, "sasl_password", SecretStr(SECRET)),
    ],
)
def test_what_model_copy_made_of_kafka_is_made_good(
    build: Callable[[object], PoolSettings], update: dict[str, object], key: str, value: object
) -> None:
    """What a copy was told under any of a setting's names is found in its field, over what was there, and hidden."""
    kafka = build(_with_kafka(Strict(linger_ms=3), **update)).kafka

    assert isinstance(kafka, Strict)
    assert value == getattr(kafka, key)
    assert SECRET not in f"{kafka!r} {kafka.model_dump()}"


@everywhere
def test_good_settings_are_kept(build: Callable[[object], PoolSettings]) -> None:
    """Settings of a subclass reach the pool with all that they have."""
    kafka = Strict(linger_ms=5)
    settings = build(Own(deliver=False, size=2, region="north", kafka=kafka))

    assert isinstance(settings, Own)
    assert ("north", 2) == (settings.region, settings.size)
    assert kafka is settings.kafka


@everywhere
def test_what_a_subclass_allows(build: Callable[[object], PoolSettings]) -> None:
    """Names that are no fields are no mistake where the class of the settings takes them."""
    settings = build(Named(deliver=False, size=2).model_copy(update={"region": "north"}))

    assert "north" == settings.region  # type: ignore[attr-defined]


@everywhere
def test_settings_that_must_be_awaited(build: Callable[[object], PoolSettings]) -> None:
    """A coroutine in place of settings is refused at once, and nobody complains that it was never awaited."""

    async def load() -> PoolSettings:
        return MEMORY

    with pytest.raises(SettingsError, match="not coroutine: await it before, and pass what it returns"):
        build(load())


@pytest.mark.parametrize(
    ("update", "text"),
    [
        ({"ordres": MEMORY}, "'ordres', which is no field, did you mean orders"),
        ({"ORDERS": MEMORY}, "'ORDERS', which is no field, did you mean orders"),
        ({"orders": MEMORY, "zzz": SECRET}, "'zzz', which is no field$"),
        ({3: SECRET}, "3, which is no field$"),
    ],
)
def test_a_copy_of_an_applications_settings(update: dict[str, Any], text: str) -> None:
    """A pool under a misspelt name is refused, where pydantic keeps it for nobody."""
    with pytest.raises(SettingsError, match=f"^App: model_copy was told of {text}") as caught:
        App().model_copy(update=update)

    assert SECRET not in str(caught.value)


def test_what_a_copy_of_an_applications_settings_takes() -> None:
    """Fields, what the class has computed, and whatever it allows are taken."""

    class Open(App):
        model_config = SettingsConfigDict(extra="allow")

        @cached_property
        def region(self) -> str:
            return "north"

    class Closed(Open):
        model_config = SettingsConfigDict(extra="forbid")

    assert 3 == App().model_copy(update={"orders": PoolSettings(size=3)}).orders.size
    assert "x" == Open().model_copy(update={"other": "x"}).other  # type: ignore[attr-defined]
    assert "x" == Closed().model_copy(update={"region": "x"}, deep=True).region
    assert App() == App().model_copy()


# -- containers --------------------------------------------------------------------------------------


class Configured(containers.DeclarativeContainer):
    """Pools that are configured by dependency-injector's own means, and one that isn't."""

    config = providers.Configuration()
    orders = PoolResource(config.orders)
    bare = PoolResource()
    none = PoolResource(None)


def test_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool can be configured by providers.Configuration, from text too."""
    monkeypatch.setenv("ORDERS_SIZE", "3")
    container = Configured()
    container.config.from_dict({"orders": {"deliver": False, "kafka": {"linger.ms": "5"}}})
    container.config.orders.size.from_env("ORDERS_SIZE")
    container.config.orders.max_waiting.from_env("ORDERS_MAX_WAITING")

    assert (3, 5, None) == (
        (settings := _settled(container.orders())).size,
        settings.kafka.linger_ms,
        settings.max_waiting,
    )


def test_a_configuration_of_settings() -> None:
    """A configuration that was made of the application's settings keeps its secrets."""
    settings = App(orders=PoolSettings(deliver=False, kafka=KafkaSettings.of({"sasl.password": SECRET})))
    container = Configured()
    container.config.from_pydantic(settings)

    assert settings.orders == _settled(container.orders())


OPTION = r"the configuration option config\.orders isn't defined, or not loaded yet: .* config\.from_dict for example"


def _overridden(config: Any) -> Any:
    other = providers.Dependency()
    other.override(config.orders)
    return other


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "option",
    [
        lambda config: config.orders,
        lambda config: config.orders.required(),
        lambda config: config.orders.as_(dict),
        _overridden,
    ],
)
def test_a_configuration_without_the_pool(option: Callable[[Any], Any], *, strict: bool) -> None:
    """An option that nobody has set is named, with the pool and the way out, wherever settings come from a provider."""
    config = providers.Configuration(strict=strict)
    for name, ask in (
        ("orders", PoolResource(option(config), name="orders")),
        ("clicks", PoolResource(name="clicks")),
        ("default", wd_di.setup),
    ):
        if name == "clicks":
            ask.add_kwargs(settings=option(config))
        with (
            wd_di.default.container.settings.override(option(config)),
            pytest.raises(SettingsError, match=f"^{name}: the pool has no settings: {OPTION}$"),
        ):
            ask()

    assert not wd_di.is_active()


def test_a_configuration_that_is_a_pools_own() -> None:
    """A whole configuration that was never loaded is told; an option that is an empty mapping is one."""
    config = providers.Configuration("mine")
    resource = PoolResource(config, name="orders")
    with pytest.raises(SettingsError, match=r"^orders: .* the configuration option mine isn't defined, or not loaded"):
        resource()
    config.from_dict({"deliver": False, "nothing": {}})

    with pytest.raises(SettingsError, match=r"^orders: nothing: a pool has no such setting"):
        resource()
    with pytest.raises(SettingsError, match=r"^orders\[0\]: bootstrap\.servers is missing"):
        PoolResource(config.nothing, name="orders")()


@pytest.mark.parametrize("build", [_by_pool, _by_reload, _by_fake, _by_faked, _by_setup])
@pytest.mark.parametrize("strict", [False, True])
def test_an_option_in_place_of_its_value(build: Callable[[object], PoolSettings], *, strict: bool) -> None:
    """Where a value is wanted, the option itself is told by its kind, and whether there is a value."""
    config = providers.Configuration(strict=strict)
    with pytest.raises(SettingsError, match=f"not ConfigurationOption: {OPTION}, and pass what it returns then$"):
        build(config.orders)
    config.from_dict({"orders": {"deliver": False}})
    with pytest.raises(SettingsError, match=r"not ConfigurationOption: pass what it returns$"):
        build(config.orders)


@pytest.mark.parametrize("name", ["bare", "none"])
def test_no_settings_at_all(name: str) -> None:
    """A pool without settings says so by its name, and how to give them, each time it is asked for."""
    pool = getattr(Configured(), name)
    for _ in range(2):
        with pytest.raises(SettingsError, match=rf"^{name}: .*PoolResource\(settings\.provided\.{name}\)"):
            pool()


def test_settings_that_come_later() -> None:
    """A pool that was declared without settings can be given them by dependency-injector's own means."""
    container = Configured()
    container.bare.set_args(MEMORY)
    container.none.set_kwargs(settings=MEMORY)

    assert (2, 2) == (_settled(container.bare()).size, _settled(container.none()).size)


def test_a_pool_that_needs_no_settings() -> None:
    """What provides the pool may do without settings, as a fake does."""
    fake = PoolResource(name="orders", provides=FakePool)()

    assert (2, "orders") == (fake.stats().size, fake.name)


# -- other arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [lambda **given: ProducerPool(MEMORY, **given), FakePool])
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"name": 3}, "the name of a pool is text that isn't empty, got int"),
        ({"name": None}, "the name of a pool is text that isn't empty, got NoneType"),
        ({"name": ""}, "the name of a pool is text that isn't empty, got str"),
        ({"name": MEMORY}, "the name of a pool is text that isn't empty, got PoolSettings"),
        ({"observer": Observer}, "observer must be an Observer, not the class Observer"),
        ({"observer": print}, "observer must be an Observer, not builtin_function_or_method"),
    ],
)
def test_arguments_of_the_wrong_kind(build: Callable[..., object], given: dict[str, object], text: str) -> None:
    """A name that is no text and an observer that is none are told by their kind."""
    with pytest.raises(SettingsError, match=text):
        build(**given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"size": 0}, "size: .*greater than or equal to 1, got int"),
        ({"size": True}, "size: a boolean isn't a value of this setting"),
        ({"size": "many"}, "size: .*, got str"),
        ({"timeout_ms": 1.5}, "timeout_ms: .*, got float"),
        ({"timeout_ms": True}, "timeout_ms: a boolean isn't"),
        ({"timeout_ms": -1}, "timeout_ms: .*, got int"),
    ],
)
def test_arguments_of_setup(given: dict[str, Any], text: str) -> None:
    """What ``setup`` is given beside the settings is told by the pool's name, and nothing is set up."""
    with pytest.raises(SettingsError, match=f"^default: {text}"):
        wd_di.setup(settings=MEMORY, **given)

    assert not wd_di.is_active()


def test_setup_takes_numbers_as_text() -> None:
    """As settings do."""
    wd_di.setup(settings=MEMORY, size="3", timeout_ms="70")  # type: ignore[arg-type]

    assert 3 == getattr(wd_di.stats(), "size", None)


def test_a_refused_pool_can_be_shown() -> None:
    """A debugger may look at a pool whose settings were refused, and it is collected in silence."""
    pool = ProducerPool.__new__(ProducerPool)
    with pytest.raises(SettingsError):
        pool.__init__(None, name="orders")  # type: ignore[arg-type,misc]

    assert "<ProducerPool 'orders', not made>" == repr(pool)


def test_the_warning_of_consumer_settings_is_at_the_right_line() -> None:
    """A setting of consumers is told where the pool is made."""
    kafka = {"bootstrap.servers": "127.0.0.1:1", "group.id": "g"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ProducerPool({"kafka": kafka}, name="orders").close()

    assert [(SettingsWarning, __file__)] == [(each.category, each.filename) for each in caught]


@everywhere
def test_names_are_checked_where_nothing_is_sent(build: Callable[[object], PoolSettings]) -> None:
    """A name that librdkafka hasn't got is refused in tests too."""
    with pytest.raises(SettingsError, match=r'property: "linger\.m", did you mean linger\.ms\?'):
        build({"deliver": False, "size": 2, "kafka": {"linger.m": SECRET}})


@pytest.mark.parametrize(
    "kafka",
    [
        {"ssl.ca.location": "/nowhere/ca.pem", "socket.nagle.disable": "maybe", "session.timeout.ms": "x"},
        {"plugin.library.paths": "monitoring", "monitoring.intervall": "1"},
    ],
)
def test_values_are_not_judged_where_nothing_is_sent(kafka: dict[str, Any]) -> None:
    """Values may be right on another machine, and a plugin brings names of its own."""
    assert kafka == _by_pool({"deliver": False, "kafka": kafka}).kafka.librdkafka()


def test_consumer_settings_where_nothing_is_sent() -> None:
    """They are told as they are elsewhere, at the line where the pool is made."""
    with pytest.warns(SettingsWarning, match=r"ignores group\.id") as caught:
        ProducerPool({"deliver": False, "kafka": {"group.id": "g"}}, name="orders").close()

    assert __file__ == caught[0].filename
