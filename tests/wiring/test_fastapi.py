"""What FastAPI calls: endpoints, dependencies and background tasks, each with a transaction of its own or none."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import httpx
import pytest
from dependency_injector import containers
from dependency_injector.wiring import Provide
from fastapi import BackgroundTasks, Depends, FastAPI

from wd_di import AsyncTransaction, PoolResource, PoolSettings, ScopeError, Transaction, inject, injected, lifespan
from wd_di.testing import FakePool


class Container(containers.DeclarativeContainer):
    """A pool, which the tests override with a fake."""

    orders = PoolResource(PoolSettings(deliver=False, transactional_id="fastapi-{index}", instance="tests"))


@inject
async def on_the_loop(
    tx: AsyncTransaction = injected(Container.orders.async_transaction),
) -> AsyncIterator[AsyncTransaction]:
    """A dependency of the loop, whose transaction lasts as long as FastAPI lets it."""
    yield tx


@inject
def on_a_thread(tx: Transaction = injected(Container.orders.transaction)) -> Iterator[Transaction]:
    """The same on a thread; what follows the yield may run on another one."""
    yield tx


@inject
def name_of_its_own(tx: Transaction = injected(Container.orders.transaction)) -> str:
    """A plain dependency, whose transaction is over when the endpoint begins."""
    return tx.id


@inject
async def later(seen: list[str], tx: AsyncTransaction = injected(Container.orders.async_transaction)) -> None:
    """A background task."""
    seen.append(tx.id)


app = FastAPI()
seen_later: list[str] = []


@app.post("/request/loop")
async def _request_loop(tx: Annotated[AsyncTransaction, Depends(on_the_loop)]) -> None:
    tx.produce_async("orders", "tea")


@app.post("/function/loop")
async def _function_loop(tx: Annotated[AsyncTransaction, Depends(on_the_loop, scope="function")]) -> None:
    tx.produce_async("orders", "tea")


@app.post("/request/thread")
def _request_thread(tx: Annotated[Transaction, Depends(on_a_thread)]) -> None:
    tx.produce_async("orders", "tea")


@app.post("/function/thread")
def _function_thread(tx: Annotated[Transaction, Depends(on_a_thread, scope="function")]) -> None:
    tx.produce_async("orders", "tea")


@app.post("/raises/{kind}")
async def _raises(kind: str, tx: Annotated[AsyncTransaction, Depends(on_the_loop, scope="function")]) -> None:
    tx.produce_async("orders", kind)
    raise ValueError(kind)


@app.post("/nested")
@inject
async def _nested(
    other: Annotated[str, Depends(name_of_its_own)],
    tx: AsyncTransaction = injected(Container.orders.async_transaction),
) -> bool:
    return other == tx.id


@app.post("/depends")
@inject
async def _depends(tx: Annotated[Any, Depends(Provide[Container.orders.async_transaction])]) -> str:
    tx.produce_async("orders", "tea")
    return type(tx).__name__


@app.post("/background")
@inject
async def _background(
    tasks: BackgroundTasks, tx: AsyncTransaction = injected(Container.orders.async_transaction)
) -> str:
    tasks.add_task(later, seen_later)
    return tx.id


@pytest.fixture
def orders() -> Iterator[FakePool]:
    """A fake in the place of the pool."""
    container = Container()
    container.wire(modules=[__name__])
    with FakePool("orders") as fake, container.orders.override(fake):
        yield fake
    container.unwire()


async def post(path: str) -> httpx.Response:
    """Send a request to the application in this process."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        return await client.post(path)


@pytest.mark.parametrize("kind", ["loop", "thread"])
@pytest.mark.parametrize("scope", ["request", "function"])
async def test_a_dependency_with_yield_commits(orders: FakePool, scope: str, kind: str) -> None:
    """A generator dependency commits what its endpoint has produced, on whichever threads FastAPI runs its halves."""
    assert 200 == (await post(f"/{scope}/{kind}")).status_code
    assert ["tea"] == [sent.value for sent in orders.committed]
    orders.assert_no_open_transaction()


@pytest.mark.parametrize("kind", ["loop", "thread"])
@pytest.mark.parametrize(("scope", "status"), [("request", 200), ("function", 500)])
async def test_only_the_functions_scope_commits_before_the_reply(
    orders: FakePool, kind: str, scope: str, status: int
) -> None:
    """FastAPI's default scope ends after the response was sent, so that a failed commit looks like a success."""
    orders.fail_next("commit")

    assert status == (await post(f"/{scope}/{kind}")).status_code
    orders.assert_nothing_committed()


async def test_an_endpoint_that_raises_aborts_its_dependency(orders: FakePool) -> None:
    """What an endpoint raises reaches the generator, and aborts."""
    assert 500 == (await post("/raises/tea")).status_code
    assert ["tea"] == [sent.value for sent in orders.aborted]


async def test_a_plain_dependency_has_a_transaction_of_its_own(orders: FakePool) -> None:
    """A dependency that runs on a thread never joins its endpoint's transaction."""
    assert (await post("/nested")).json() is False
    assert 2 == sum(event.name == "transaction.committed" for event in orders.events)


async def test_a_marker_inside_depends_is_filled(orders: FakePool) -> None:
    """dependency-injector's way to mark an endpoint's parameter works, though nothing needs it."""
    reply = await post("/depends")

    assert "AsyncTransaction" == reply.json()
    assert ["tea"] == [sent.value for sent in orders.committed]


async def test_a_background_task_has_a_transaction_of_its_own(orders: FakePool) -> None:
    """What runs after the reply runs after its commit, too."""
    seen_later.clear()
    reply = await post("/background")

    assert [reply.json()] != seen_later
    assert 1 == len(seen_later)
    assert 2 == sum(event.name == "transaction.committed" for event in orders.events)


# -- where a lifespan runs -------------------------------------------------------------------------


class Unwired(containers.DeclarativeContainer):
    """A container that a lifespan has to wire."""

    orders = PoolResource(PoolSettings(deliver=False, transactional_id="unwired-{index}", instance="tests"))


@inject
async def _endpoint(tx: AsyncTransaction = injected(Unwired.orders.async_transaction)) -> None:
    tx.produce_async("orders", "tea")


def application() -> FastAPI:
    """Return an application with a lifespan."""
    application = FastAPI(lifespan=lifespan(Unwired(), modules=[__name__]))
    application.post("/")(_endpoint)
    return application


def mounted(outer: FastAPI) -> FastAPI:
    """Return the application with one mounted below it."""
    outer.mount("/mounted", application())
    return outer


@pytest.fixture
def client_of() -> Callable[[FastAPI], Any]:
    """FastAPI's client for tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather have the successor of httpx
        return importlib.import_module("fastapi.testclient").TestClient


def test_a_mounted_applications_lifespan_does_not_run(client_of: Callable[[FastAPI], Any]) -> None:
    """Only the outermost application's lifespan runs, and so only that wires and opens."""
    with client_of(mounted(FastAPI())) as client, pytest.raises(ScopeError, match="nothing was injected"):
        client.post("/mounted/")

    with client_of(mounted(application())) as client:
        assert 200 == client.post("/mounted/").status_code


def test_a_client_for_tests_runs_the_lifespan_only_as_a_context(client_of: Callable[[FastAPI], Any]) -> None:
    """Without `with`, the client of FastAPI wires and opens nothing."""
    with pytest.raises(ScopeError, match="nothing was injected"):
        client_of(application()).post("/")

    with client_of(application()) as client:
        assert 200 == client.post("/").status_code
