from __future__ import annotations

import copy
import os
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from dependency_injector import containers, providers

from tests.standin import StandInPool, at_once
from wd_di import ProducerPool, running
from wd_di.errors import PoolClosedError, ScopeError, SettingsError
from wd_di.providers import PoolResource
from wd_di.settings import PoolSettings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Settings:
    """Can't be copied, as many real settings and observers can't."""

    def __deepcopy__(self, memo: object) -> None:
        raise AssertionError("was copied")

    def configure(self, config: object, index: int) -> None:
        """Change nothing."""


SETTINGS = Settings()
OBSERVER = Settings()


class Container(containers.DeclarativeContainer):
    """Two pools."""

    orders = PoolResource(SETTINGS, configure=SETTINGS.configure, observer=OBSERVER, provides=StandInPool)
    clicks = PoolResource(SETTINGS, name="page-views", provides=StandInPool)


class Sub(Container):
    """Inherits two and adds one."""

    audit = PoolResource(SETTINGS, provides=StandInPool)


class Root(containers.DeclarativeContainer):
    """Has a container in it."""

    settings = providers.Object(SETTINGS)
    sub = providers.Container(Sub)
    pool = PoolResource(settings, observer=settings.provided, provides=StandInPool)


def failing(error: Exception) -> Any:
    """Settings with which a stand-in can't be opened."""

    def refuse(_: object) -> None:
        raise error

    return refuse


# -- arguments -----------------------------------------------------------------------------------


def test_plain_arguments_keep_their_identity():
    """Settings, configure and observer reach the pool as they are, though containers copy their providers."""
    pool = Container().orders()

    assert SETTINGS is pool.settings
    assert SETTINGS.configure == pool.configure
    assert OBSERVER is pool.observer


def test_providers_are_resolved():
    """A provider in place of an argument is asked when the pool is opened."""
    pool = Root().pool()

    assert SETTINGS is pool.settings
    assert SETTINGS is pool.observer


def test_each_container_opens_a_pool_of_its_own():
    """Two containers of one class share nothing."""
    assert Container().orders() is not Container().orders()


def test_a_copy_shares_its_dependencies_through_the_memo():
    """Within one deep copy, the copied provider is the same one wherever it is referred to."""
    pool = PoolResource(SETTINGS, name="n", provides=StandInPool)
    first, second, user = copy.deepcopy([pool, pool, providers.Factory(list, pool)])

    assert first is second
    assert first is user.args[0]
    assert first is not pool
    assert "n" == first.name


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "name"),
    [
        (lambda: Container().orders(), "orders"),
        (lambda: Container().clicks(), "page-views"),
        (lambda: Sub().orders(), "orders"),
        (lambda: Sub().audit(), "audit"),
        (Root().sub.audit, "audit"),
        (lambda: Root().sub().orders(), "orders"),
        (PoolResource(SETTINGS, provides=StandInPool), "default"),
        (PoolResource(SETTINGS, name="x", provides=StandInPool), "x"),
    ],
)
def test_the_name_is_the_attributes(pool: Any, name: str):
    """A pool is named after its attribute, wherever its container stands, unless it was given a name."""
    assert name == pool().name


def test_the_attribute_of_another_class_gives_no_name():
    """Only a container's attribute names a pool, and only there is it a mere declaration."""

    class Service:
        pool = PoolResource(SETTINGS, provides=StandInPool)

    assert "default" == Service.pool().name


def test_the_first_of_two_attributes_names_the_pool():
    """An alias doesn't rename a pool."""

    class Aliased(containers.DeclarativeContainer):
        orders = PoolResource(SETTINGS, provides=StandInPool)
        alias = orders

    assert "orders" == Aliased().alias().name


def test_a_name_can_be_adopted_once():
    """The second name, or one after the opening, is too late."""
    resource = PoolResource(SETTINGS, provides=StandInPool)
    resource.adopt("first")
    resource.adopt("second")

    assert "first" == resource.name


# -- opening and closing -------------------------------------------------------------------------


def test_threads_that_ask_first_open_one_pool():
    """Eight threads that ask at the same moment get one pool, opened once."""
    container = Container()
    results = at_once(8, container.orders)

    assert {container.orders()} == set(results)
    assert ["orders: open"] == container.orders().log


def test_shutdown_closes_and_keeps_the_report():
    """The pool is closed once, and its report stays readable on the resource."""
    container = Container()
    pool = container.orders()
    container.orders.shutdown()
    container.orders.shutdown()

    assert ["orders: open", "orders: close"] == pool.log
    assert "orders" == container.orders.report.pool
    assert not container.orders.initialized


def test_a_late_call_does_not_reopen_the_pool():
    """After shutdown the provider refuses to open another pool, and says how to."""
    container = Container()
    container.orders.shutdown()

    with pytest.raises(PoolClosedError, match=r"orders: the pool was shut down. Call init\(\)"):
        container.orders()


def test_init_reopens_after_shutdown():
    """An explicit init opens a new pool, which calls then get."""
    container = Container()
    old = container.orders()
    container.orders.shutdown()
    new = container.orders.init()

    assert old is not new
    assert new is container.orders()


def test_the_pool_is_provided_while_it_drains():
    """A function that is inside a transaction during the shutdown still reaches its pool."""
    seen = []

    class Draining(StandInPool):
        def close(self) -> Any:
            seen.append(resource())
            return super().close()

    resource = PoolResource(SETTINGS, provides=Draining)
    pool = resource()
    resource.shutdown()

    assert [pool] == seen


def test_a_failed_opening_is_retried():
    """A pool that can't be opened leaves nothing behind; the next call tries again."""
    settings = providers.Object(failing(OSError("no broker")))
    resource = PoolResource(settings, provides=StandInPool)
    with pytest.raises(OSError, match="no broker"):
        resource()
    settings.set_provides(SETTINGS)

    assert "default" == resource().name


def test_a_failed_shutdown_counts_as_closed():
    """A pool whose close raises isn't provided any more."""

    class Broken(StandInPool):
        def close(self) -> Any:
            raise OSError("stuck")

    resource = PoolResource(SETTINGS, provides=Broken)
    resource()
    with pytest.raises(OSError, match="stuck"):
        resource.shutdown()

    assert not resource.initialized
    with pytest.raises(PoolClosedError):
        resource()


def test_waiting_threads_share_one_failure():
    """Threads that wait for an opening that fails don't try one after the other, a deadline each."""
    attempts = []
    started, asked = threading.Event(), threading.Event()

    def refuse(_: object) -> None:
        attempts.append(1)
        started.set()
        asked.wait(10)
        raise OSError("no broker")

    resource = PoolResource(refuse, provides=StandInPool)
    real = resource._lock

    class Lock:
        def __enter__(self) -> None:
            if started.is_set():
                asked.set()
            real.__enter__()

        def __exit__(self, *error: object) -> None:
            real.__exit__(*error)

    resource._lock = Lock()
    results: list[object] = []
    first = threading.Thread(target=lambda: results.extend(at_once(1, resource)))
    first.start()
    started.wait(10)
    with pytest.raises(OSError, match="no broker") as waited:
        resource()
    first.join(10)

    assert [waited.value] == results
    assert [1] == attempts


def test_a_pool_that_asks_for_itself_is_refused():
    """A listener or a setting that calls for the pool that is being opened gets an error, not another pool."""
    resource: Any = PoolResource(lambda _: resource(), provides=StandInPool)

    with pytest.raises(ScopeError, match="asked for by its own opening"):
        resource()


def test_a_fork_leaves_no_lock_behind():
    """A child forked while another thread holds the provider's lock can still open its pool."""
    resource = PoolResource(SETTINGS, provides=StandInPool)
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with resource._lock:
            held.set()
            forked.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn about threads at every fork
        child = os.fork()
    if child == 0:
        opened = resource._lock.acquire(timeout=5) and resource().name == "default"
        os._exit(0 if opened else 1)
    forked.set()
    holder.join(10)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# -- misuse --------------------------------------------------------------------------------------


def test_a_declaration_is_not_a_pool():
    """Calling the provider on the container's class is refused, and leaves the class usable."""
    with pytest.raises(ScopeError, match=r"Container.orders only declares.*container = Container\(\)"):
        Container.orders()

    assert "orders" == Container().orders().name


def test_an_open_resource_is_not_copied():
    """A container made after its pool was opened is refused with what to do, where only the copy can tell."""

    class Late(containers.DeclarativeContainer): ...

    Late.orders = PoolResource(SETTINGS, provides=StandInPool)
    Late.orders()

    with pytest.raises(ScopeError, match=r"opened before a container was made.*container = Container\(\)"):
        Late()


async def _load() -> PoolSettings:
    return PoolSettings(deliver=False)


async def _lend() -> AsyncGenerator[PoolSettings]:
    yield PoolSettings(deliver=False)


class Awaiting(containers.DeclarativeContainer):
    """A pool whose settings come from a coroutine function."""

    orders = PoolResource(providers.Coroutine(_load))


def test_settings_from_a_coroutine_are_refused() -> None:
    """A pool has nobody to await its settings: it says so, and the container closes as ever."""
    container = Awaiting()
    for _ in range(2):
        with pytest.raises(SettingsError, match=r"^orders: .* not coroutine: await it before"):
            container.orders()

    assert not container.orders.initialized
    container.shutdown_resources()


@pytest.mark.parametrize("made", [providers.Coroutine(_load), providers.Callable(_load), providers.Resource(_lend)])
async def test_a_task_is_no_settings(made: providers.Provider[Any]) -> None:
    """On an event loop no future takes the pool's place, which nobody could close."""

    class Shop(containers.DeclarativeContainer):
        settings = made
        orders = PoolResource(settings, provides=ProducerPool)

    container = Shop()
    with pytest.raises(SettingsError, match=r"^orders: .* not (coroutine|Task): await it before"):
        container.orders()
    container = Shop(settings=providers.Object(await _load()))
    async with running(container):
        assert isinstance(container.orders(), ProducerPool)
    assert container.orders.report is not None


@pytest.mark.parametrize("provides", [3, None, PoolSettings()])
def test_what_cannot_provide_a_pool(provides: Any) -> None:
    """What can't be called is refused where it is declared."""
    with pytest.raises(TypeError, match=f"^provides is a class .* not {type(provides).__name__}$"):
        PoolResource(SETTINGS, provides=provides)


@pytest.mark.parametrize("made", [3, PoolSettings(), None])
def test_what_is_no_pool(made: object) -> None:
    """Something else than a pool is refused when it is made, not when it should close."""

    class Shop(containers.DeclarativeContainer):
        orders = PoolResource(SETTINGS, provides=lambda *_, **__: made)  # type: ignore[arg-type,return-value]

    container = Shop()
    with pytest.raises(SettingsError, match=f"^orders: .* made none, but {type(made).__name__}$"):
        container.orders()
    assert not container.orders.initialized
    container.shutdown_resources()


# -- scopes --------------------------------------------------------------------------------------


def test_scopes_are_unopened_recipes():
    """Asking for a transaction takes nothing from the pool."""
    container = Container()
    recipe = container.orders.transaction()

    assert ["orders: open"] == container.orders().log
    with recipe as tx:
        assert "transaction" == tx.kind
    assert ["orders: open", "orders: begin transaction", "orders: commit"] == container.orders().log


def test_transaction_options_reach_the_pool():
    """transaction_with gives its options to the pool's transaction, also in a copied container."""

    class Audit(containers.DeclarativeContainer):
        orders = PoolResource(SETTINGS, provides=StandInPool)
        service = providers.Factory(dict, tx=orders.transaction_with(propagation="new", commit_on=(KeyError,)))

    recipe = Audit().service()["tx"]

    assert {"propagation": "new", "commit_on": (KeyError,)} == recipe.options


def test_scopes_follow_an_override():
    """A scope asks whatever overrides the pool, and the pool itself again afterwards."""
    container = Container()
    fake = StandInPool(name="fake")
    with container.orders.override(fake):
        inside = container.orders.producer()

    assert fake is inside.pool
    assert "orders" == container.orders.producer().pool.name


def test_an_override_before_opening_spares_the_real_pool():
    """init_resources opens what overrides the pool instead of the pool."""
    container = Container()
    with container.orders.override(StandInPool(name="fake")):
        container.init_resources()

    assert not container.orders.initialized
    assert container.clicks.initialized


def test_a_class_override_reaches_new_containers():
    """A pool overridden on the class is overridden in containers made from then on."""
    fake = StandInPool(name="fake")
    with Container.orders.override(fake):
        container = Container()

        assert fake is Container.orders()
    assert fake is container.orders()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"propagation": "nest"}, ValueError, "propagation is one of join, new, mandatory, never, not 'nest'"),
        ({"timeout_ms": -1}, ValueError, "timeout_ms is -1"),
        ({"retry": 3}, TypeError, "retry is a wd_di.Retry, not int"),
        ({"commit_on": (SystemExit,)}, TypeError, "commit_on is a tuple of Exception classes"),
        ({"attempts": 3}, TypeError, "unexpected keyword argument 'attempts'"),
    ],
)
def test_wrong_options_are_refused_where_they_are_given(options: dict[str, Any], error: type, text: str) -> None:
    """Not by the first call of the function that wants the transaction; a provider's value is known only then."""
    pool = PoolResource(PoolSettings(deliver=False))
    for declare in (pool.transaction_with, pool.async_transaction_with):
        with pytest.raises(error, match=text):
            declare(**options)
        declare(timeout_ms=providers.Object(-1))  # type: ignore[typeddict-item]
