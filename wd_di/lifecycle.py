"""From when to when a container's pools are open: wired and opened together, closed in the right order on any exit."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dependency_injector import containers, providers

from wd_di._borrowing.opening import Brief
from wd_di._concurrency.caller import on_loop, refuse_outside_of_a_task
from wd_di._concurrency.tasks import outwaited
from wd_di._concurrency.workers import Workers
from wd_di.errors import ScopeError
from wd_di.pool import ProducerPool
from wd_di.providers import PoolResource
from wd_di.wiring import diagnosis as _diagnosis

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from types import ModuleType, TracebackType

    from wd_di._slots.closing import CloseReport

    Resource = providers.BaseResource[Any]

C = TypeVar("C", bound=containers.Container)

_workers = Workers("wd_di-lifecycle", 64)  # containers that start or end at the same time


def running(
    container: C, *, modules: Iterable[ModuleType | str] = (), packages: Iterable[ModuleType | str] = ()
) -> Running[C]:
    """Return a context manager inside of which the container is wired and its pools and other resources are open.

    On any exit, also an interrupted or half-failed start, everything that is open is closed, users before what they
    use, and the container is unwired. What fails while closing is a note on the block's own exception.

    Args:
        container: What the ``with`` statement yields.
        modules: Modules to wire besides those of its ``wiring_config``; relative names start at the container's own
            package.
        packages: Packages to wire with all their modules, likewise.

    Raises:
        ScopeError: Wiring has imported the running program, whose last lines aren't guarded, and so runs it again.
        PoolOpenError: On entering: a pool can't be opened.
        ScopeError: A plain ``with`` on a thread with a running event loop, which it would block: use ``async with``.
        ExceptionGroup: On leaving without an exception: what failed while closing.
    """
    _refuse_second_run()
    return Running(_made(container), _listed("modules", modules), _listed("packages", packages))


def _made(container: C) -> C:
    """Refuse a class in place of a container: its providers are only declared."""
    if not isinstance(container, containers.Container):
        what = f"the class {container.__name__}" if isinstance(container, type) else type(container).__name__
        raise TypeError(f"a container is needed, not {what}: make one first, as in running(Container())")
    return container


def _listed(name: str, given: Iterable[ModuleType | str]) -> list[ModuleType | str]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name} is a list of modules or their names, not {type(given).__name__}")
    return list(given)


def _refuse_second_run() -> None:
    """Raise if the program is running a second time, inside of its own import: it would do everything twice."""
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    frame = inspect.currentframe()  # nothing else tells who imports whom
    while program is not None and frame is not None:
        name = frame.f_globals.get("__name__")
        if frame.f_code.co_name == "<module>" and name != "__main__" and frame.f_globals.get("__file__") == program:
            raise ScopeError(
                f"the running program was imported a second time, as {name!r}, and would do everything twice: put its "
                "last lines under: if __name__ == '__main__':"
            )
        frame = frame.f_back


class Running(Generic[C]):
    """What ``running`` returns."""

    def __init__(self, container: C, modules: list[ModuleType | str], packages: list[ModuleType | str]) -> None:
        self._container = container
        self._modules = modules
        self._packages = packages
        _diagnosis.asked(container, [*modules, *packages], _package(container))

    def __enter__(self) -> C:
        try:
            self._wire()
            with Brief():
                open_pools(self._container)
                self._container.init_resources()
        except BaseException as error:
            self._stop(error)
            raise
        return self._container

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(error)

    async def __aenter__(self) -> C:
        refuse_outside_of_a_task("running")  # first: what was wired and opened could never be awaited closed
        try:
            self._wire()
            with Brief():
                await outwaited(_workers, lambda: open_pools(self._container))
                await _wait_for(self._container.init_resources())
        except BaseException as error:
            await self._stop_async(error)
            raise
        return self._container

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop_async(error)

    def _wire(self) -> None:
        container = self._container
        # What its wiring_config names; again, though the container was wired when it was made. A module that makes it
        # in its first lines, such as one with an ASGI application, had no functions then.
        container.wire()
        if self._modules or self._packages:
            container.wire(modules=self._modules, packages=self._packages, from_package=_package(container))
        _diagnosis.runs(container)

    def _stop(self, error: BaseException | None) -> None:
        try:
            _tell(_close(_users_first(self._container)), error)
        finally:
            self._unwire()

    async def _stop_async(self, error: BaseException | None) -> None:
        try:
            errors, cancelled = await _close_async(_users_first(self._container))
            _tell(errors, cancelled or error)
        finally:
            self._unwire()
        if cancelled is not None:
            raise cancelled

    def _unwire(self) -> None:
        _diagnosis.stops(self._container)
        self._container.unwire()


def lifespan(
    container: containers.Container,
    *,
    modules: Iterable[ModuleType | str] = (),
    packages: Iterable[ModuleType | str] = (),
) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """Return what ASGI frameworks take, as in ``FastAPI(lifespan=lifespan(container))``: ``running`` for their server.

    Pools are opened and closed on a worker thread, other resources on the loop.
    """
    _made(container)
    modules, packages = _listed("modules", modules), _listed("packages", packages)

    @asynccontextmanager
    async def serve(_app: object) -> AsyncGenerator[None]:
        _diagnosis.started(serve)
        async with running(container, modules=modules, packages=packages):
            yield

    _diagnosis.waits(serve, container, [*modules, *packages], _package(container))
    return serve


def open_pools(container: containers.Container) -> None:
    """Open all pools of a container, also those of the containers in it.

    If one fails, those that this call has opened are closed again.

    Raises:
        PoolOpenError: A pool can't be opened; with notes on what failed while closing the others.
        ScopeError: On a thread with a running event loop, which this would block.
    """
    opened: list[Resource] = []
    for path, pool in _pools(_made(container)).items():
        try:
            pool.adopt(path.rpartition(".")[2])
            if not pool.initialized:
                pool.init()
                opened.append(pool)
            if on_loop() and isinstance(made := pool(), ProducerPool):  # the container itself has only begun to
                made.open()
        except BaseException as error:
            _tell(_close(opened), error)
            raise


def close_pools(container: containers.Container) -> dict[str, CloseReport]:
    """Drain and close all pools of a container; calls that come later raise ``PoolClosedError``.

    Every pool is closed within its own ``close_timeout_ms``, whatever happens to the others. Interrupt it to leave the
    remaining ones to the interpreter's exit.

    Returns:
        A report for each pool that was open, under the name of its attribute; ``"orders"``, or ``"billing.orders"`` in
        a container within the container.

    Raises:
        ExceptionGroup: What was raised while closing, once all are closed; ``PoolResource.report`` has the reports.
    """
    pools = {path: pool for path, pool in _pools(_made(container)).items() if pool.initialized}
    _tell(_close(_pools(container).values()), None)
    return {path: pool.report for path, pool in pools.items() if pool.report is not None}


def _close(resources: Iterable[Resource]) -> list[Exception]:
    errors: list[Exception] = []
    for resource in resources:
        with _Noting(errors):
            resource.shutdown()
    return errors


async def _close_async(resources: Iterable[Resource]) -> tuple[list[Exception], asyncio.CancelledError | None]:
    """Close as :func:`_close` does: pools, which block, on a worker, and other resources on the loop.

    A cancellation ends the closing of the one resource that it meets, if that isn't a pool, and goes on when all are
    closed: once the loop is gone nobody could close them.
    """
    errors: list[Exception] = []
    cancelled: asyncio.CancelledError | None = None
    for resource in resources:
        try:
            with _Noting(errors):
                if isinstance(resource, PoolResource):
                    await outwaited(_workers, resource.shutdown)
                else:
                    await _wait_for(resource.shutdown())
        except asyncio.CancelledError as error:
            cancelled = error
    return errors, cancelled


class _Noting:
    """In this block, what one of several fails with is noted: the others must be closed, too."""

    def __init__(self, errors: list[Exception]) -> None:
        self._errors = errors

    def __enter__(self) -> None:
        """Nothing to begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Exception):
            self._errors.append(error)
        return isinstance(error, Exception)


async def _wait_for(result: Awaitable[object] | None) -> None:
    """Await it, if there is something to await: a container without async resources returns None."""
    if result is not None:
        await result


def _tell(errors: list[Exception], reason: BaseException | None) -> None:
    """Raise what failed while closing, or note it on the reason why everything was closed."""
    if reason is not None:
        for error in errors:
            reason.add_note(f"While closing the container's resources: {error!r}")
    elif errors:
        raise ExceptionGroup("while closing the container's resources", errors)


def _users_first(container: containers.Container) -> list[Resource]:
    """Return the resources, each before all that it depends on, also through other kinds of providers.

    The container's own order looks only at direct arguments. Whoever depends on a resource reaches all that this one
    reaches, and the resource itself: so the one that reaches more comes first.
    """
    resources = list(container.traverse(types=[providers.BaseResource]))
    return sorted(resources, key=lambda each: len(_below(each)), reverse=True)


def _below(resource: Resource) -> set[Resource]:
    return set(resource.traverse(types=[providers.BaseResource]))


def _pools(container: containers.Container) -> dict[str, PoolResource]:
    """Return the container's pools by path, then those that it only refers to, by name."""
    found = dict(_own_pools(container, ""))
    for pool in container.traverse(types=[PoolResource]):
        if pool not in found.values():
            found[_free(pool.name, found)] = pool
    return found


def _own_pools(container: containers.Container, prefix: str) -> Iterator[tuple[str, PoolResource]]:
    for name, provider in container.providers.items():
        if isinstance(provider, PoolResource):
            yield prefix + name, provider
        elif isinstance(provider, providers.Container):
            yield from _own_pools(provider.container, f"{prefix}{name}.")


def _free(name: str, taken: dict[str, PoolResource]) -> str:
    candidates = (name, *(f"{name}#{number}" for number in range(2, len(taken) + 3)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _package(container: containers.Container) -> str | None:
    """Return where the container's class lives: dependency-injector would take relative names from this package."""
    declared = container.declarative_parent
    return getattr(sys.modules.get(declared.__module__), "__package__", None) if declared else None
