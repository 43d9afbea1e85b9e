"""What is said when nothing was injected: the case at hand, and what to do about it."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import httpx
import pytest
from dependency_injector import containers, providers
from fastapi import FastAPI

from wd_di import PoolResource, PoolSettings, ScopeError, lifespan, running
from wd_di.wiring import diagnosis as _diagnosis

SETTINGS = PoolSettings(deliver=False, size=1, transactional_id="why-{index}", instance="tests")
MARKED = """
from dependency_injector.wiring import Closing, Provide, Provider
from wd_di import inject, injected

@inject
def place(tx=Provide[{marker}]):
    return tx
"""


class Shop(containers.DeclarativeContainer):
    """Has the pool that the functions want."""

    orders = PoolResource(SETTINGS)
    name = providers.Object("shop")


class Other(containers.DeclarativeContainer):
    """Has another one under the same name, and what isn't given to it."""

    orders = PoolResource(SETTINGS)
    billing = providers.DependenciesContainer()
    later = providers.Dependency()


class Group(containers.DeclarativeContainer):
    """Has containers in it, one of them only named."""

    shop = providers.Container(Shop)
    given = providers.DependenciesContainer(orders=providers.Dependency())


class Company(containers.DeclarativeContainer):
    """Has a container in it that has containers in it."""

    group = providers.Container(Group)


Make = Callable[..., ModuleType]


@pytest.fixture
def make(monkeypatch) -> Iterator[Make]:
    """Makes modules whose function ``place`` names the given marker."""
    gc.collect()  # the containers of earlier tests
    for noted in ("_stopped", "_running", "_asked"):
        monkeypatch.setattr(_diagnosis, noted, WeakKeyDictionary())
    made = []

    def module(name: str, marker: str = "Shop.orders.transaction", source: str = MARKED) -> ModuleType:
        made.append(name)
        sys.modules[name] = module = ModuleType(name)
        vars(module).update(Shop=Shop, Other=Other, Group=Group, Company=Company)
        exec(source.format(marker=marker), vars(module))  # noqa: S102  (a module for this test alone)
        return module

    yield module
    for name in made:
        del sys.modules[name]


def said(module: ModuleType, *given: Any) -> str:
    """What the failing call says after the name of the parameter."""
    with pytest.raises(ScopeError) as caught:
        module.place(*given)
    start, reason = str(caught.value).split(": nothing was injected for 'tx': ")
    assert "place" == start
    return reason


def test_nobody_wired(make):
    """Without a container at all, the call that is missing is named."""
    assert "container.wire(modules=['why.never']) wasn't called for the function's module" == said(make("why.never"))


@pytest.mark.parametrize(
    ("others", "listed"),
    [([], "none, or not any more"), (["why.api"], "'why.api'"), (["why.a", "why.b"], "'why.a', 'why.b'")],
)
def test_wired_elsewhere(make, others, listed):
    """A container that would do, and looks at other modules, is shown with those."""
    module = make("why.services")
    shop = Shop()
    shop.wire(modules=[make(other) for other in others])

    assert (
        "container.wire(modules=['why.services']) wasn't called for the function's module; there is a Shop, and it is "
        f"wired to {listed}" == said(module)
    )
    shop.unwire()


def test_another_class(make):
    """A container that has no such provider is named, and so is the class that the marker names."""
    module = make("why.services")
    other = Other()
    other.wire(modules=[module])

    assert (
        "the Other that is wired to 'why.services' isn't of the class that the marker names, Shop.orders: wire a "
        "container of that class, or name a provider of this one" == said(module)
    )
    other.unwire()


def test_a_package_counts_as_its_modules(make):
    """Who wired the package has wired the module."""
    module = make("why.services")
    other = Other()
    other.wired_to_packages.append(make("why"))

    assert "the Other that is wired to 'why.services' isn't of the class" in said(module)


@pytest.mark.parametrize(
    ("marker", "reason"),
    [
        ("'order.transaction'", "has no 'order.transaction'. Did you mean 'orders.transaction'?"),
        ("'zzz.transaction'", "has no 'zzz.transaction'; it has orders, billing, later"),
        ("'ordres.nothing'", "has no 'ordres.nothing'; it has orders, billing, later"),
        ("'later.transaction'", "has no 'later.transaction': 'later' is a placeholder that nothing was provided for"),
        ("'billing.orders.transaction'", ": 'billing.orders' is a placeholder that nothing was provided for"),
        ("'orders.transactoin'", "has no 'orders.transactoin'"),
        (
            "Other.billing.orders.provided.transaction.call()",
            "doesn't look behind those. Give the Other its billing, and mark by path: "  # noqa: ISC004  (one text)
            "Provide['billing.orders.transaction']",
        ),
        ("Shop", "the class that the marker names, Shop:"),
        ("Provider[Shop.name]", "the class that the marker names, Shop.name:"),
        ("Shop.name.provider", "the class that the marker names, Shop.name:"),
    ],
)
def test_what_the_container_lacks(make, marker, reason):
    """The wired container is named with what it hasn't, and the name that was meant, if there is one."""
    if marker.startswith("Provider"):
        module = make("why.services", source=MARKED.replace("Provide[{marker}]", marker))
    else:
        module = make("why.services", marker)
    other = Other()
    other.wire(modules=[module])

    assert said(module).endswith(reason) or reason in said(module)
    assert "Other" in said(module)
    other.unwire()


@pytest.mark.parametrize(
    ("marker", "named"),
    [
        ("Group.shop.orders.transaction", "Group.shop.orders"),
        ("Group.shop.name", "Group.shop.name"),
        ("Company.group.shop.orders.transaction", "Company.group.shop.orders"),
        ("Company.group.shop", "Company.group.shop"),
        ("Group.given.orders.provided.transaction.call()", "Group.given.orders"),
        ("Company.group.given.orders.provided.transaction.call()", "Company.group.given.orders"),
    ],
)
def test_a_container_within_another_class(make, marker, named):
    """A marker that leads into containers of a container is named by its whole path."""
    module = make("why.services", marker)
    other = Other()
    other.wire(modules=[module])

    assert f"isn't of the class that the marker names, {named}: wire a container" in said(module)
    other.unwire()


def test_a_container_within_another_is_not_shown(make):
    """Of containers within others, which nobody wires, the outermost is shown."""
    module = make("why.services", "Company.group.shop.orders.transaction")
    assert "container.wire(modules=['why.services']) wasn't called for the function's module" == said(module)
    company = Company()

    assert said(module).endswith("; there is a Company, and it is wired to none, or not any more")
    assert company.group is not None


def test_a_placeholder_within_a_container(make):
    """A placeholder of a container in the container is named by its path, and the advice holds."""
    module = make("why.services", "Company.group.given.orders.provided.transaction.call()")
    company = Company()
    company.wire(modules=[module])

    advice = "Give the Company its group.given, and mark by path: Provide['group.given.orders.transaction']"
    assert said(module).endswith(advice)
    company.unwire()
    by_path = make("why.paths", "'group.given.orders.transaction'")
    company.group.given.override(Shop())
    company.wire(modules=[by_path])
    assert by_path.place() is not None
    company.unwire()
    company.group.given.orders.shutdown()


def test_the_advice_for_placeholders_holds(make):
    """By its path, what a DependenciesContainer was given is injected."""
    module = make("why.services", "'billing.orders.transaction'")
    other = Other(billing=Shop())
    other.wire(modules=[module])

    assert module.place() is not None
    other.unwire()
    other.billing.orders.shutdown()


def test_after_the_end(make):
    """A container that was stopped has taken its wiring along, and works again when it starts again."""
    module = make("why.services")
    shop = Shop()
    for _ in range(2):
        with running(shop, modules=[module]):
            module.place()
        assert (
            "container.wire(modules=['why.services']) wasn't called again since its container was stopped, or "
            "unwire() has taken it back: call it while running(...) lasts" == said(module)
        )


def test_unwired_by_hand(make):
    """While its container runs, the unwire is the reason, and not an end that came before or didn't come."""
    module = make("why.services")
    shop = Shop()
    for _ in range(2):
        with running(shop, modules=[module]):
            shop.unwire()
            assert (
                "'why.services' was wired when its container was started, and unwire() has taken it back: leave that "
                "to running(...), or call container.wire(modules=['why.services']) again" == said(module)
            )
            shop.wire(modules=[module])
            module.place()
            shop.unwire()
        assert "again since its container was stopped, or unwire() has taken it back" in said(module)


def test_made_later(make):
    """A function that wasn't there when its module was wired says so."""
    module = make("why.services")
    shop = Shop()
    shop.wire(modules=[module])
    exec(MARKED.format(marker="Shop.orders.transaction"), vars(module))  # noqa: S102  (a function that comes later)

    reason = said(module)
    assert reason.startswith("'why.services' was wired before this function was made, or another container's unwire()")
    assert "call container.wire(modules=['why.services']) now, or use running(container), which does it" in reason
    shop.wire(modules=[module])
    assert module.place() is not None
    shop.unwire()
    shop.orders.shutdown()


def test_taken_back_by_another(make):
    """One container's unwire takes the module from the other, too."""
    module = make("why.services")
    shop, other = Shop(), Other()
    shop.wire(modules=[module])
    other.wire(modules=[module])
    other.unwire()

    assert "another container's unwire() has taken it back" in said(module)
    shop.unwire()


async def test_a_lifespan_that_never_ran(make):
    """An application that is only mounted, or called without being started, says so."""
    module = make("why.services")
    app, outer = FastAPI(lifespan=lifespan(Shop(), modules=["why.services"])), FastAPI()
    app.get("/place")(lambda: module.place() is not None)
    outer.mount("/shop", app)

    with pytest.raises(ScopeError, match=r"its container hasn't been entered\. An application that is mounted"):
        await get(app, "/place")
    async with outer.router.lifespan_context(outer):
        with pytest.raises(ScopeError, match=r"in the other's\. A test client .* only as 'with TestClient\(app\)'"):
            await get(outer, "/shop/place")
    async with app.router.lifespan_context(app):
        assert (await get(outer, "/shop/place")).json()
    assert "since its container was stopped" in said(module)


async def get(app: FastAPI, path: str) -> httpx.Response:
    """Ask the application as a client does, without starting it."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        return await client.get(path)


def test_another_modules_lifespan_explains_nothing(make):
    """A lifespan that won't wire the function's module is no reason."""
    module, elsewhere = make("why.services"), make("why.elsewhere")
    app = FastAPI(lifespan=lifespan(Shop(), modules=[elsewhere]))

    assert app
    assert "there is a Shop, and it is wired to none" in said(module)


def test_the_program_itself(make, tmp_path):
    """Functions of the running program have their own reason, unless it was wired with the wrong container."""
    script = tmp_path / "program.py"
    script.write_text(
        "from dependency_injector import containers, providers\n"
        "from wd_di import PoolResource, inject, injected\nfrom wd_di.wiring import diagnosis as _diagnosis\n"
        "class Shop(containers.DeclarativeContainer):\n    orders = PoolResource()\n"
        "class Other(containers.DeclarativeContainer):\n    orders = PoolResource()\n"
        "@inject\ndef place(tx=injected(Shop.orders.transaction)): ...\n"
        "other = Other()\n"
        "for wire in (lambda: None, lambda: other.wire(modules=['__main__'])):\n"
        "    wire()\n"
        "    try:\n        place()\n    except Exception as error:\n        print(error)\n"
    )
    command = [sys.executable, "-W", "error", str(script)]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True).stdout.splitlines()

    assert "it belongs to the running program" in lines[0]
    assert "the Other that is wired to '__main__' isn't of the class that the marker names, Shop.orders" in lines[1]


PROGRAM = """
import asyncio, sys
from dependency_injector import containers
from wd_di import PoolResource, inject, injected, running


class Shop(containers.DeclarativeContainer):
    wiring_config = containers.WiringConfiguration(modules={modules}, auto_wire=False)
    orders = PoolResource({{"deliver": False}})


@inject
def place(producer=injected(Shop.orders.producer)):
    pass


async def main():
    async with running(Shop()):
        await asyncio.to_thread(place)


if __name__ == "__main__":
    {use}
"""


@pytest.mark.parametrize(
    ("modules", "use", "reason"),
    [
        (
            [],
            "with running(Shop(), modules=[__name__]): pass\n    place()",
            (
                "container.wire(modules=['__main__']) wasn't called again since its container was stopped, or "
                "unwire() has taken it back: call it while running(...) lasts"
            ),
        ),
        (
            [],
            "running(Shop(), modules=[__name__])\n    place()",
            "running(...) was only called, which wires nothing yet: call it inside of 'with running(...):'",
        ),
        (
            [],
            "asyncio.run(main())",
            (
                "it belongs to the running program, which nobody has wired: call container.wire(modules=['__main__']), "
                "or use running(container, modules=['__main__']); there is a Shop, and it is wired to none, or not any "
                "more"
            ),
        ),
        (
            ["program"],
            "asyncio.run(main())",
            (
                "it belongs to the running program, and wiring imports a copy of that under its file's name. Move the "
                "function to a module of its own, or wire this one: container.wire(modules=['__main__'])"
            ),
        ),
    ],
)
def test_the_program_and_its_container(tmp_path, modules, use, reason):
    """In the running program, too, it is told whether its container has stopped, or wasn't started, or looks away."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(modules=modules, use=use))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=50, check=False)

    assert done.stderr.splitlines()[-1].endswith(f"nothing was injected for 'producer': {reason}")


def test_running_that_was_never_entered(make):
    """Who calls ``running`` without ``with`` is told so, until somebody enters it."""
    module = make("why.services")
    shop = Shop()
    started = running(shop, modules=[module])

    assert "running(...) was only called, which wires nothing yet: call it inside of 'with running(...):'" == said(
        module
    )
    with started:
        assert module.place() is not None
    assert "since its container was stopped" in said(module)


def test_a_container_need_not_be_kept(make):
    """A container that nobody holds any more goes on serving what it was wired to."""
    module = make("why.services")
    shop: Any = Shop()
    shop.wire(modules=[module])
    orders = shop.orders
    del shop
    gc.collect()

    assert module.place() is not None
    orders.shutdown()


def test_looking_changes_nothing(make):
    """Neither the containers that are looked at nor their classes get a provider by it."""
    looked_at = (Shop(), Other(), Shop, Other)
    before = [(dict(each.providers), dict(Other.billing.providers)) for each in looked_at]
    for marker in ("Shop.orders.transaction", "'billing.nothing.transaction'"):
        said(make(f"why.services{len(marker)}", marker))

    assert before == [(dict(each.providers), dict(Other.billing.providers)) for each in looked_at]
    assert "nothing" not in looked_at[1].billing.providers


def test_looking_may_fail(make, monkeypatch):
    """What goes wrong while looking for the reason doesn't hide that nothing was injected."""
    monkeypatch.setattr(gc, "get_objects", lambda: 1 / 0)

    assert "container.wire(modules=['why.services']) wasn't called for the function's module" == said(
        make("why.services")
    )
