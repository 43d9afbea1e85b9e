"""What a pool or a provider hands out before it is opened."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from wd_di.errors import ScopeError, UnopenedScopeError, uncopyable

if TYPE_CHECKING:
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

    if not TYPE_CHECKING:  # type checkers find it themselves, but not past a __getattr__

        def __getattr__(self, name: str) -> NoReturn:
            raise _unopened(self, name, "with")


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

    if not TYPE_CHECKING:  # type checkers find it themselves, but not past a __getattr__

        def __getattr__(self, name: str) -> NoReturn:
            raise _unopened(self, name, "async with")


def open_already(scope: object) -> ScopeError:
    """Return what is raised when a scope is opened that is open."""
    return ScopeError(f"{scope!r} is open already: ask the pool for another one")


def _unopened(scope: object, name: str, opening: str) -> AttributeError:
    """Introspection asks for dunders; it gets the plain answer."""
    if name.startswith("__"):
        return AttributeError(name)
    return UnopenedScopeError(
        f"{scope!r} isn't open, so it has no {name!r}: decorate the function with wd_di.inject, or use '{opening}'"
    )
