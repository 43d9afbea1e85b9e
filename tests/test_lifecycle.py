from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from dependency_injector import containers, providers

from tests.standin import StandInPool
from wd_di.errors import PoolClosedError, ScopeError
from wd_di.lifecycle import close_pools, open_pools, running
from wd_di.providers import PoolResource
from wd_di.wiring import inject, injected

EVENTS: list[str] = []


@pytest.fixture(autouse=True)
def _no_events() -> None:
    EVENTS.clear()


class Noting(StandInPool):
    """Notes in the order of all pools."""

    def note(self, what: str) -> None:
        """Write it down among the others'."""
        EVENTS.append(f"{self.name}: {what}")


class Stuck(Noting):
    """Can't be closed."""

    def close(self) -> Any:
        """Raise an error."""
        super().close()
        raise OSError(f"{self.name} is stuck")


class Interrupted(Noting):
    """Is closed when somebody presses Ctrl-C."""

    def close(self) -> Any:
        """Raise what Ctrl-C raises."""
        raise KeyboardInterrupt


def refuse(_: object) -> None:
    """As settings: makes a stand-in fail to open."""
    raise OSError("no broker")


def resource(name: str, *dependencies: object) -> Iterator[str]:
    """A resource that notes when it is opened and closed."""
    EVENTS.append(f"{name}: open")
    yield name
    EVENTS.append(f"{name}: close")


class Billing(containers.DeclarativeContainer):
    """A container in a container."""

    invoices = PoolResource(0, provides=Noting)


class Container(containers.DeclarativeContainer):
    """Two pools."""

    orders = PoolResource(0, provides=Noting)
    billing = providers.Container(Billing)


@inject
def place(tx: Any = injected(Container.orders.transaction)) -> str:
    """A service."""
    return tx.kind


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of its own to wire, with one injected function."""
    module = ModuleType("lifecycle_services")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def fn(tx: Any = injected(Container.orders.transaction)) -> str:
        return tx.kind

    fn.__module__ = module.__name__
    module.place = inject(fn)
    return module


# -- running -------------------------------------------------------------------------------------


def test_running_wires_opens_closes_and_unwires():
    """Inside the block everything is wired and open; afterwards nothing is."""
    container = Container()
    with running(container, modules=[__name__]) as entered:
        assert container is entered
        assert {"orders: open", "invoices: open"} == set(EVENTS)
        assert "transaction" == place()

    assert {"orders: close", "invoices: close"} == set(EVENTS[-2:])
    with pytest.raises(ScopeError, match="wasn't called"):
        place()


def test_running_wires_what_the_container_names(module: ModuleType):
    """The modules of wiring_config are wired as well, also when the same container runs again."""

    class Configured(Container):
        wiring_config = containers.WiringConfiguration(modules=["lifecycle_services"])

    container = Configured()
    for _ in range(2):
        with running(container, modules=[__name__]):
            assert "transaction" == module.place()
            assert "transaction" == place()


def test_running_wires_without_auto_wiring(module: ModuleType):
    """A container that doesn't wire itself is wired from its wiring_config on entering."""

    class Configured(Container):
        wiring_config = containers.WiringConfiguration(modules=["lifecycle_services"], auto_wire=False)

    container = Configured()
    container.wire(modules=[__name__])
    with running(container):
        assert "transaction" == module.place()


def test_running_wires_what_came_after_the_container(monkeypatch: pytest.MonkeyPatch):
    """A module that makes the container in its first lines and its functions in its last ones is wired as a whole."""
    module = ModuleType("lifecycle_app")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    class Configured(Container):
        wiring_config = containers.WiringConfiguration(modules=["lifecycle_app"])

    container = Configured()

    def fn(tx: Any = injected(Container.orders.transaction)) -> str:
        return tx.kind

    fn.__module__ = module.__name__
    module.place = inject(fn)

    with running(container):
        assert "transaction" == module.place()
    with pytest.raises(ScopeError, match="wasn't called"):
        module.place()


def test_relative_modules_start_at_the_container(module: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """A relative module name means a neighbour of the container's own module."""
    package = ModuleType("lifecycle_shop")
    package.__path__ = []
    package.__package__ = "lifecycle_shop"
    monkeypatch.setitem(sys.modules, "lifecycle_shop", package)
    monkeypatch.setitem(sys.modules, "lifecycle_shop.services", module)
    shop = type("Shop", (Container,), {"__module__": "lifecycle_shop"})

    with running(shop(), modules=[".services"]):
        assert "transaction" == module.place()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, KeyError])
def test_running_closes_on_any_exit(error: type[BaseException]):
    """Ctrl-C and exceptions close the pools, too, and go on."""
    with pytest.raises(error), running(Container()):
        raise error

    assert {"orders: close", "invoices: close"} == set(EVENTS[-2:])


def test_a_failed_start_closes_what_was_opened():
    """If something can't be opened, what is open already is closed, and nothing stays wired."""

    def broken() -> Iterator[None]:
        raise OSError("no database")
        yield

    class Failing(Container):
        database = providers.Resource(broken)

    with pytest.raises(OSError, match="no database"), running(Failing(), modules=[__name__]):
        pass

    assert {"orders: close", "invoices: close"} == set(EVENTS[-2:])
    with pytest.raises(ScopeError, match="wasn't called"):
        place()


def test_running_under_an_override_opens_no_pool():
    """With a fake in the pool's place, the pool itself is never opened."""
    container = Container()
    with container.orders.override(StandInPool(name="fake")), running(container):
        assert "fake" == container.orders().name

    assert ["invoices: open", "invoices: close"] == EVENTS


def test_users_close_before_what_they_use():
    """Closing follows the dependencies, also where singletons and attributes stand between two resources."""

    class Layered(containers.DeclarativeContainer):
        settings = providers.Resource(resource, "settings")
        zero = PoolResource(settings.provided.upper.call(), provides=Noting)
        client = providers.Singleton(list, providers.List(zero.provided.name))
        consumer = providers.Resource(resource, "consumer", client)
        server = providers.Resource(resource, "server", providers.Factory(dict, deep=consumer))

    for _ in range(5):
        EVENTS.clear()
        with running(Layered()):
            pass

        closings = [event for event in EVENTS if event.endswith("close")]
        assert ["server: close", "consumer: close", "zero: close", "settings: close"] == closings


def test_errors_of_closing_come_together():
    """A shutdown that raises leaves nothing else open, and all errors come out as one group."""

    class Failing(Container):
        first = PoolResource(0, provides=Stuck)
        second = PoolResource(0, provides=Stuck)

    container = Failing()
    with pytest.raises(ExceptionGroup) as caught, running(container):
        pass

    assert {"first is stuck", "second is stuck"} == {str(error) for error in caught.value.exceptions}
    assert {"first", "second", "orders", "invoices"} == {e.partition(":")[0] for e in EVENTS if e.endswith("close")}
    assert not container.first.initialized


def test_errors_of_closing_are_notes_on_the_blocks_own():
    """The exception that ended the block isn't replaced by what goes wrong while closing."""

    class Failing(containers.DeclarativeContainer):
        first = PoolResource(0, provides=Stuck)

    with pytest.raises(KeyError) as caught, running(Failing()):
        raise KeyError

    assert ["While closing the container's resources: OSError('first is stuck')"] == caught.value.__notes__


def test_ctrl_c_while_closing_ends_the_wait():
    """Who interrupts the closing isn't kept waiting for the other pools, and nothing stays wired."""

    class Failing(containers.DeclarativeContainer):
        orders = PoolResource(0, provides=Interrupted)

    with pytest.raises(KeyboardInterrupt), running(Failing(), modules=[__name__]):
        pass

    with pytest.raises(ScopeError, match="wasn't called"):
        place()


# -- open_pools and close_pools ------------------------------------------------------------------


def test_pools_are_opened_and_reported():
    """Every pool is opened, also in nested containers, and its report comes under its attribute's path."""
    container = Container()
    open_pools(container)
    reports = close_pools(container)

    assert {"orders": "orders", "billing.invoices": "invoices"} == {path: r.pool for path, r in reports.items()}


def test_only_open_pools_report():
    """A pool that was never opened has nothing to report, nor has a second close_pools; it can't be opened any more."""
    container = Container()
    container.orders()

    assert ["orders"] == list(close_pools(container))
    assert {} == close_pools(container)
    with pytest.raises(PoolClosedError):
        container.billing.invoices()


def test_pools_open_again():
    """open_pools after close_pools opens new ones."""
    container = Container()
    open_pools(container)
    close_pools(container)
    open_pools(container)

    assert not container.orders().closed


def test_a_pool_that_fails_to_open_closes_the_others():
    """open_pools closes what it has opened itself, and only that; the failed one may be tried again."""

    class Failing(containers.DeclarativeContainer):
        early = PoolResource(0, provides=Noting)
        orders = PoolResource(0, provides=Stuck)
        broken = PoolResource(refuse, provides=Noting)

    container = Failing()
    container.early()
    with pytest.raises(OSError, match="no broker") as caught:
        open_pools(container)

    assert ["early: open", "orders: open", "orders: close"] == EVENTS
    assert ["While closing the container's resources: OSError('orders is stuck')"] == caught.value.__notes__
    with pytest.raises(OSError, match="no broker"):
        container.broken()


def test_closing_a_stuck_pool_leaves_the_others_reports():
    """The reports of the pools that did close stay on their resources."""

    class Failing(Container):
        first = PoolResource(0, provides=Stuck)

    container = Failing()
    open_pools(container)
    with pytest.raises(ExceptionGroup, match="while closing"):
        close_pools(container)

    assert "orders" == container.orders.report.pool
    assert container.first.report is None


def test_a_container_built_at_run_time_names_its_pools():
    """Pools set on a container one by one are named when they are opened together."""
    container = containers.DynamicContainer()
    container.orders = PoolResource(0, provides=Noting)
    open_pools(container)

    assert "orders" == container.orders().name
    assert ["orders"] == list(close_pools(container))


def test_pools_that_are_only_referred_to_are_closed():
    """A pool that overrides another one is opened and closed as well, and reported under a name of its own."""
    container = Container()
    with container.orders.override(PoolResource(0, name="orders", provides=Noting)):
        open_pools(container)

        assert {"orders#2", "billing.invoices"} == set(close_pools(container))
