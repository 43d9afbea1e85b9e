"""What a pool or a provider hands out before it is opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from wd_di.errors import ScopeError, UnopenedScopeError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

T_co = TypeVar("T_co", covariant=True)


class Recipe(ABC, Generic[T_co]):
    """How to get a producer or a transaction; nothing is taken from the pool until it is opened.

    A recipe is immutable but for the one scope that its own ``with`` has open, so that it can be opened again: for a
    retry, or by every call of an injected function.
    """

    __slots__ = ("_scope",)

    def __init__(self) -> None:
        self._scope: AbstractContextManager[T_co] | None = None

    @abstractmethod
    def begin(self, *, ambient: bool = True) -> AbstractContextManager[T_co]:
        """Return a fresh, unentered scope.

        Args:
            ambient: Whether nested calls of the same thread or task join it. A suspended generator's must not be.
        """

    @abstractmethod
    def __repr__(self) -> str: ...

    def __enter__(self) -> T_co:
        if self._scope is not None:
            raise ScopeError(f"{self!r} is open already: ask the pool for another one")
        scope = self.begin()
        value = scope.__enter__()
        self._scope = scope
        return value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        # Not bool: only AbortTransaction is ever swallowed, but after bool a type checker demands another return behind
        # every block that returns from inside.
        scope, self._scope = self._scope, None
        assert scope is not None  # noqa: S101  (Python calls __exit__ only after __enter__)
        return scope.__exit__(kind, error, trace)

    if not TYPE_CHECKING:  # type checkers find it themselves, but not past a __getattr__

        def __getattr__(self, name: str) -> NoReturn:
            # Introspection asks for dunders; it gets the plain answer.
            if name.startswith("__"):
                raise AttributeError(name)
            raise UnopenedScopeError(
                f"{self!r} isn't open, so it has no {name!r}: decorate the function with wd_di.inject, or use 'with'"
            )
