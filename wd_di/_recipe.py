"""What a pool or a provider hands out before it is opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

from wd_di.errors import ScopeError, UnopenedScopeError, uncopyable

if TYPE_CHECKING:
    from types import TracebackType

T_co = TypeVar("T_co", covariant=True)
A_co = TypeVar("A_co", covariant=True)


class Scope(Protocol[T_co, A_co]):
    """One run of a recipe, from enter to exit, by a thread or by a task."""

    def __enter__(self) -> T_co: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...
    async def __aenter__(self) -> A_co: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


class Recipe(ABC, Generic[T_co, A_co]):
    """How to get a producer or a transaction; nothing is taken from the pool until it is opened.

    ``with`` gives the handle for threads, ``async with`` the one for tasks. A recipe is immutable but for the one scope
    that its own block has open, so that it can be opened again: for a retry, or by every call of an injected function.
    """

    __slots__ = ("_scope",)

    def __init__(self) -> None:
        self._scope: Scope[T_co, A_co] | None = None

    @abstractmethod
    def begin(self, *, ambient: bool = True) -> Scope[T_co, A_co]:
        """Return a fresh, unentered scope.

        Args:
            ambient: Whether nested calls of the same thread or task join it. A suspended generator's must not be.
        """

    @abstractmethod
    def __repr__(self) -> str: ...

    @property
    def awaited(self) -> Awaited[A_co]:
        """The same, for a coroutine function: it can only be opened by ``async with``."""
        return Awaited(self)

    def __enter__(self) -> T_co:
        scope = self._scope = self._fresh()  # from now on, since entering may wait, and others come meanwhile
        try:
            return scope.__enter__()
        except BaseException:
            self._scope = None
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        # Not bool: only AbortTransaction is ever swallowed, but after bool a type checker demands another return behind
        # every block that returns from inside.
        scope, self._scope = self._scope, None
        assert scope is not None  # noqa: S101  (Python leaves only what it has entered)
        return scope.__exit__(kind, error, trace)

    async def __aenter__(self) -> A_co:
        scope = self._scope = self._fresh()
        try:
            return await scope.__aenter__()
        except BaseException:
            self._scope = None
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        scope, self._scope = self._scope, None
        assert scope is not None  # noqa: S101  (as above)
        return await scope.__aexit__(kind, error, trace)

    def __reduce__(self) -> NoReturn:
        raise uncopyable(self, "it belongs to its pool. Ask the process's own pool for another")

    def _fresh(self) -> Scope[T_co, A_co]:
        if self._scope is not None:
            raise ScopeError(f"{self!r} is open already: ask the pool for another one")
        return self.begin()

    if not TYPE_CHECKING:  # type checkers find it themselves, but not past a __getattr__

        def __getattr__(self, name: str) -> NoReturn:
            raise _unopened(self, name, "with")


class Awaited(Generic[A_co]):
    """A recipe for coroutine functions: it can only be opened by ``async with``."""

    __slots__ = ("recipe",)

    def __init__(self, recipe: Recipe[Any, A_co]) -> None:
        self.recipe: Recipe[Any, A_co] = recipe

    async def __aenter__(self) -> A_co:
        return await self.recipe.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self.recipe.__aexit__(kind, error, trace)

    def __reduce__(self) -> NoReturn:
        raise uncopyable(self.recipe, "it belongs to its pool. Ask the process's own pool for another")

    def __repr__(self) -> str:
        return f"async {self.recipe!r}"

    if not TYPE_CHECKING:  # type checkers find it themselves, but not past a __getattr__

        def __getattr__(self, name: str) -> NoReturn:
            raise _unopened(self, name, "async with")


def _unopened(recipe: object, name: str, opening: str) -> AttributeError:
    """Introspection asks for dunders; it gets the plain answer."""
    if name.startswith("__"):
        return AttributeError(name)
    return UnopenedScopeError(
        f"{recipe!r} isn't open, so it has no {name!r}: decorate the function with wd_di.inject, or use '{opening}'"
    )
