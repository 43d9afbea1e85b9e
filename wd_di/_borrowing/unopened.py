"""What a pool or a provider hands out before it is opened."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from wd_di.errors import ScopeError, UnopenedScopeError, uncopyable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

T_co = TypeVar("T_co", covariant=True)
A_co = TypeVar("A_co", covariant=True)


class Scope(Generic[T_co, A_co]):
    """A producer or transaction to come; nothing is taken from the pool until it is opened.

    ``with`` gives the handle for threads, ``async with`` the one for tasks. It is open once at a time, and can be
    opened again; each retry and each call of an injected function opens another one like it.

    No ABC: asking whether something is a scope would cost a dozen steps in every injected call.
    """

    __slots__ = ()

    @abstractmethod
    def begin(self, *, ambient: bool = True) -> Self:
        """Return another one like it, unopened.

        Args:
            ambient: Whether nested calls of the same thread or task join it. A suspended generator's must not be.
        """

    @abstractmethod
    def __repr__(self) -> str: ...

    @property
    def awaited(self) -> AsyncScope[A_co]:
        """The same, for a coroutine function: it can only be opened by ``async with``."""
        return AsyncScope(self)

    # What __exit__ returns isn't bool: only AbortTransaction is ever swallowed, but after bool a type checker demands
    # another return behind every block that returns from inside.

    @abstractmethod
    def __enter__(self) -> T_co: ...
    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...
    @abstractmethod
    async def __aenter__(self) -> A_co: ...
    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...

    def __reduce__(self) -> NoReturn:
        raise uncopyable(self, "it belongs to its pool. Ask the process's own pool for another")


class AsyncScope(Generic[A_co]):
    """A scope for coroutine functions: it can only be opened by ``async with``."""

    __slots__ = ("scope",)

    def __init__(self, scope: Scope[Any, A_co]) -> None:
        self.scope: Scope[Any, A_co] = scope

    async def __aenter__(self) -> A_co:
        return await self.scope.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self.scope.__aexit__(kind, error, trace)

    def __reduce__(self) -> NoReturn:
        raise uncopyable(self.scope, "it belongs to its pool. Ask the process's own pool for another")

    def __repr__(self) -> str:
        return f"async {self.scope!r}"


class Unopened:
    """What a scope has in place of each attribute of what it gives: asked for it, it says how to open it.

    No ``__getattr__``: of a class with one, CPython 3.11 looks up each attribute that is there in a slow way, which was
    a tenth of a transaction.
    """

    __slots__ = ("_name", "_opening")

    def __init__(self, name: str, opening: str) -> None:
        self._name = name
        self._opening = opening

    def __get__(self, scope: object, kind: type) -> Self:
        if scope is None:  # as a property does
            return self
        raise UnopenedScopeError(
            f"{scope!r} isn't open, so it has no {self._name!r}: decorate the function with wd_di.inject, or use "
            f"'{self._opening}'"
        )


def stands_for(handles: Iterable[type]) -> None:
    """Let scopes say of all that these have that they aren't open."""
    for name in {name for handle in handles for name in dir(handle) if not name.startswith("_")}:
        for scope, opening in ((Scope, "with"), (AsyncScope, "async with")):
            if not hasattr(scope, name):
                setattr(scope, name, Unopened(name, opening))


def open_already(scope: object) -> ScopeError:
    """Return what is raised when a scope is opened that is open."""
    return ScopeError(f"{scope!r} is open already: ask the pool for another one")
