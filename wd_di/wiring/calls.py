"""How a function of each kind runs inside the scopes that its injected arguments stand for."""

from __future__ import annotations

import inspect
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from wd_di._borrowing.handles import TransactionScope
from wd_di._borrowing.scopes import run as run_again
from wd_di._borrowing.scopes import run_async as run_again_async
from wd_di._borrowing.unopened import AsyncScope, Scope
from wd_di.errors import ScopeError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping
    from contextlib import AbstractAsyncContextManager

    Function = Callable[..., Any]
    """It may give anything, also what is awaited or iterated."""
    Positional = tuple[object, ...]
    Named = dict[str, object]
    Arguments = Callable[[Positional, Named], AbstractAsyncContextManager[tuple[Positional, Named]]]
    Found = list[tuple[str, Scope[object, object]]]
    FoundAsync = list[tuple[str, AsyncScope[object]]]

_ABSENT = object()
_LATER = (CoroutineType, GeneratorType, AsyncGeneratorType)
"""What runs a body only after its call."""
S = TypeVar("S")
_KINDS = (inspect.isasyncgenfunction, inspect.iscoroutinefunction, inspect.isgeneratorfunction)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The parameters of one function that the container fills, in the order of its signature.

    Attributes:
        names: The parameters.
        why: Says for one of them, at a call, why it may be without a value.
        optional: Those that have a default to fall back on.
        closing: Those that dependency-injector shuts down after the call.
    """

    function: str
    names: tuple[str, ...]
    why: Callable[[str], str]
    optional: frozenset[str] = frozenset()
    closing: frozenset[str] = frozenset()

    def scopes(self, given: Mapping[str, object]) -> Found:
        """Return the unopened scopes among the arguments.

        Raises:
            ScopeError: An argument is missing because nobody wired the function, or only a task can open it.
        """
        return self._among(given, Scope, AsyncScope, needing_await)  # type: ignore[type-abstract]  # it is no ABC

    def async_scopes(self, given: Mapping[str, object]) -> FoundAsync:
        """Return the unopened scopes among the arguments of a coroutine function.

        Raises:
            ScopeError: An argument is missing, or would block the event loop.
        """
        return self._among(given, AsyncScope, Scope, blocking)

    def _among(
        self, given: Mapping[str, object], fit: type[S], unfit: type, why: Callable[[str], str]
    ) -> list[tuple[str, S]]:
        found: list[tuple[str, S]] = []
        for name in self.names:
            value = given.get(name, _ABSENT)
            if isinstance(value, fit):  # asked first, since it is the most frequent answer
                if name in self.closing:
                    raise ScopeError(f"{self.function}: {shutting(name)}")
                found.append((name, value))
                continue
            if (value is _ABSENT and name not in self.optional) or hasattr(type(value), "__IS_MARKER__"):
                raise ScopeError(f"{self.function}: nothing was injected for {name!r}: {self.why(name)}")
            if isinstance(value, unfit):
                raise ScopeError(
                    f"{self.function}: {shutting(name) if name in self.closing else why(name)} ({value!r})"
                )
        return found


def blocking(name: str) -> str:
    """Say why a synchronous scope can't be opened on an event loop, and what to do."""
    return (
        f"the parameter {name!r} is a producer or transaction for threads: opening and committing it would block the "
        "event loop. Inject async_producer or async_transaction"
    )


def needing_await(name: str) -> str:
    """Say why a plain function can't use a scope for tasks, and what to do."""
    return (
        f"the parameter {name!r} is a producer or transaction for coroutine functions. Inject producer or transaction"
    )


def shutting(name: str) -> str:
    """Say why Closing and pools don't go together, and what to do."""
    return (
        f"Closing on the parameter {name!r} would shut the whole pool down after the call, and would hide from it "
        "whether the call failed. Drop Closing: the scope ends with the call anyway"
    )


def kind(fn: Function) -> int:
    """Return which of the four kinds of function it is; the plain one comes last."""
    return next((index for index, is_kind in enumerate(_KINDS) if is_kind(fn)), len(_KINDS))


def is_async(fn: Function) -> bool:
    """Whether its body runs on an event loop."""
    return inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)


def plain(fn: Function, wanted: Wanted) -> Function:
    """Return a function that opens the scopes among its keyword arguments, in order, around the call."""

    def run(*args: object, **kwargs: object) -> object:
        scopes = wanted.scopes(kwargs)
        if not scopes:
            return fn(*args, **kwargs)
        if len(scopes) > 1:
            return _in_several(fn, wanted, args, kwargs)
        [(name, scope)] = scopes
        if isinstance(scope, TransactionScope) and scope.options.retry is not None:
            return run_again(scope, lambda tx: _at_once(wanted, fn(*args, **{**kwargs, name: tx})))
        # The most frequent case: an ExitStack would cost as much as the scope itself.
        with scope.begin() as kwargs[name]:
            result = fn(*args, **kwargs)
            return _at_once(wanted, result) if isinstance(result, _LATER) else result

    return run


def _in_several(fn: Function, wanted: Wanted, args: Positional, kwargs: Named) -> object:
    with ExitStack() as scopes:
        _enter(scopes, wanted, kwargs, ambient=True)
        return _at_once(wanted, fn(*args, **kwargs))


def generator(fn: Function, wanted: Wanted) -> Function:
    """Return a generator function that opens the scopes among its keyword arguments, in order, around the body."""

    def run(*args: object, **kwargs: object) -> Generator[object, object, object]:
        with ExitStack() as scopes:
            # While the generator is suspended its caller runs in the same thread, and mustn't join its transaction.
            _enter(scopes, wanted, kwargs, ambient=False)
            return (yield from fn(*args, **kwargs))

    return run


def coroutine(fn: Function, wanted: Wanted) -> Function:
    """Return a coroutine function that opens the scopes among its keyword arguments, in order, around the call."""

    async def run(*args: object, **kwargs: object) -> object:
        found = wanted.async_scopes(kwargs)
        if not found:
            return await fn(*args, **kwargs)
        if len(found) > 1:
            return await _in_several_async(fn, wanted, args, kwargs)
        [(name, awaited)] = found
        if _retries(awaited.scope):
            return await run_again_async(awaited.scope, lambda tx: fn(*args, **{**kwargs, name: tx}))
        async with awaited.scope.begin() as kwargs[name]:
            return await fn(*args, **kwargs)

    return run


async def _in_several_async(fn: Function, wanted: Wanted, args: Positional, kwargs: Named) -> object:
    async with AsyncExitStack() as scopes:
        await _enter_async(scopes, wanted, kwargs, ambient=True)
        return await fn(*args, **kwargs)


def async_generator(fn: Function, wanted: Wanted, arguments: Arguments) -> Function:
    """Return an async generator function that opens the scopes among its keyword arguments around the body.

    Args:
        fn: The generator function; what is sent to or thrown into the result reaches it.
        wanted: Its injected parameters.
        arguments: Gives the arguments for it, from those of the call, for as long as it runs.
    """

    async def run(*args: object, **kwargs: object) -> AsyncGenerator[object, object]:
        async with arguments(args, kwargs) as (positional, named), AsyncExitStack() as scopes:
            # As in a generator: while it is suspended, its caller mustn't join its transaction.
            await _enter_async(scopes, wanted, named, ambient=False)
            stream = fn(*positional, **named)
            step = anext(stream)
            while True:
                try:
                    value = await step
                except StopAsyncIteration:
                    return
                try:
                    sent = yield value
                except GeneratorExit:
                    await stream.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001  (the stream's to handle)
                    step = stream.athrow(error)
                else:
                    step = stream.asend(sent)

    return run


def _enter(stack: ExitStack, wanted: Wanted, kwargs: Named, *, ambient: bool) -> None:
    scopes = wanted.scopes(kwargs)
    _refuse_retries(wanted, scopes)
    for name, scope in scopes:
        kwargs[name] = stack.enter_context(scope.begin(ambient=ambient))


async def _enter_async(stack: AsyncExitStack, wanted: Wanted, kwargs: Named, *, ambient: bool) -> None:
    found = wanted.async_scopes(kwargs)
    _refuse_retries(wanted, [(name, awaited.scope) for name, awaited in found])
    for name, awaited in found:
        kwargs[name] = await stack.enter_async_context(awaited.scope.begin(ambient=ambient))


def _refuse_retries(wanted: Wanted, scopes: Found) -> None:
    for name, scope in scopes:
        if _retries(scope):
            raise ScopeError(
                f"{wanted.function}: the transaction {name!r} has a retry, but what a generator has yielded or another "
                "scope has done can't be taken back: use a plain function with this as its only scope"
            )


def _retries(scope: Scope[object, object]) -> TypeGuard[TransactionScope]:
    return isinstance(scope, TransactionScope) and scope.options.retry is not None


def _at_once(wanted: Wanted, result: object) -> object:
    """Return the result, unless its body would run only after the scope's end."""
    if not isinstance(result, _LATER):
        return result
    if not isinstance(result, AsyncGeneratorType):
        result.close()
    raise ScopeError(
        f"{wanted.function}: returned a {type(result).__name__} whose body would run after the end of the scope that "
        "it uses. Finish the work before returning, or let inject decorate the generator or coroutine function itself"
    )
