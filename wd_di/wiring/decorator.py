"""How a function gets its producers and transactions from a container: ``inject``."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dependency_injector import wiring

from wd_di._concurrency.caller import refuse_outside_of_a_task
from wd_di.providers import AsyncScopeProvider
from wd_di.wiring import calls
from wd_di.wiring.markers import (
    check_markers,
    markers_of,
    positional_names,
    signature_of,
    target_of,
    wanted_by,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping

    from wd_di.wiring.calls import Function, Named, Positional
    from wd_di.wiring.diagnosis import Marker

    _Arguments = tuple[Positional, Named]

F = TypeVar("F", bound="Callable[..., object] | classmethod[Any, ..., object] | staticmethod[..., object]")


def inject(fn: F) -> F:
    """Fill the marked parameters of a function from the wired container, and run it inside their scopes.

    A drop-in for dependency-injector's ``inject`` on functions, methods, class and static methods, generators and
    coroutine functions. Producers and transactions of a ``PoolResource`` are opened in the order of the parameters
    after every injection has succeeded, and end with the call: a transaction is committed when the function returns
    (a generator: when it is exhausted) and aborted when anything is raised. If ``AbortTransaction`` was raised, the
    call returns ``None``. What the caller passes is taken as it is and opens nothing, unless it is an unopened scope
    itself, such as ``pool.transaction(timeout_ms=100)``.

    Put it directly above the function, below other decorators.

    Raises:
        TypeError: The function can't be injected this way; the message says why.
        ScopeError: At a call: nobody wired the function, or it can't use the scope that it was given.
    """
    if isinstance(fn, classmethod | staticmethod):
        return type(fn)(inject(fn.__func__))
    signature = signature_of(fn)
    markers = dict(markers_of(signature))
    if not markers:
        warnings.warn("@inject is not required here", wiring.DIWiringWarning, stacklevel=2)
        return fn
    check_markers(fn, markers)
    shape = _Shape(fn, signature, markers)
    kinds = (_async_generator, _coroutine, _generator, _plain)
    return cast("F", shape.for_callers(kinds[calls.kind(fn)](fn, shape)))


class _Shape:
    """What its callers, dependency-injector and the scopes each know of one injected function."""

    def __init__(self, fn: Function, signature: inspect.Signature, markers: Mapping[str, Marker]) -> None:
        self._fn = fn
        self._signature = signature
        self._markers = markers
        self._positional = positional_names(signature)
        first = (index for index, name in enumerate(self._positional) if name in markers)
        self._first = next(first, sys.maxsize)
        self._awaited = [name for name, marker in markers.items() if isinstance(target_of(marker), AsyncScopeProvider)]
        self.wanted = wanted_by(fn, signature, markers)

    def for_callers(self, run: Function) -> Function:
        """Make it look like the function to its callers, without the markers.

        Frameworks would take a marked parameter for one of theirs, and ``wire`` patches whatever shows a marker in its
        signature, such as a decorator above this one that retries.
        """
        others = [parameter for name, parameter in self._signature.parameters.items() if name not in self._markers]
        return self._like(run, self._signature.replace(parameters=others))

    def for_container(self, run: Function) -> Function:
        """Let dependency-injector call it with the marked parameters, and see nothing else of it.

        In this plain form it finds all of them; on its own it overlooks Annotated under postponed annotations.
        """
        keyword = inspect.Parameter.KEYWORD_ONLY
        marked = [inspect.Parameter(name, keyword, default=marker) for name, marker in self._markers.items()]
        return wiring.inject(self._like(run, inspect.Signature(marked)))

    def as_keywords(self, args: Positional, kwargs: Named) -> _Arguments:
        """Turn the arguments from the first marked parameter on into keywords.

        dependency-injector takes no notice of positional ones: it would inject a second value for the same parameter.
        """
        if len(args) <= self._first:
            return args, kwargs
        self._signature.bind_partial(*args, **kwargs)  # raises what Python would
        named = zip(self._positional[self._first :], args[self._first :], strict=False)
        return args[: self._first], {**kwargs, **dict(named)}

    def refuse_outside_of_a_task(self, kwargs: Named) -> None:
        """Before dependency-injector opens the pools whose scopes only a task can open."""
        if not all(name in kwargs for name in self._awaited):
            refuse_outside_of_a_task(self.wanted.function)

    def _like(self, run: Function, signature: inspect.Signature) -> Function:
        functools.update_wrapper(run, self._fn)
        run.__signature__ = signature  # type: ignore[attr-defined]  # where inspect looks first
        return run


def _plain(fn: Function, shape: _Shape) -> Function:
    filled = shape.for_container(calls.plain(fn, shape.wanted))

    def run(*args: object, **kwargs: object) -> object:
        if args:
            args, kwargs = shape.as_keywords(args, kwargs)
        return filled(*args, **kwargs)

    return run


def _generator(fn: Function, shape: _Shape) -> Function:
    filled = shape.for_container(calls.generator(fn, shape.wanted))

    def run(*args: object, **kwargs: object) -> Generator[object, object, object]:
        args, kwargs = shape.as_keywords(args, kwargs)
        return (yield from filled(*args, **kwargs))

    return run


def _coroutine(fn: Function, shape: _Shape) -> Function:
    filled = shape.for_container(calls.coroutine(fn, shape.wanted))

    async def run(*args: object, **kwargs: object) -> object:
        args, kwargs = shape.as_keywords(args, kwargs)
        shape.refuse_outside_of_a_task(kwargs)
        return await filled(*args, **kwargs)

    return run


def _async_generator(fn: Function, shape: _Shape) -> Function:
    """Borrow the injections; dependency-injector's own wrapper would pass on neither ``asend`` nor ``athrow``."""

    async def lend(**kwargs: object) -> AsyncGenerator[Named, None]:
        yield kwargs

    filled = shape.for_container(lend)

    @asynccontextmanager
    async def arguments(args: Positional, kwargs: Named) -> AsyncGenerator[_Arguments, None]:
        args, kwargs = shape.as_keywords(args, kwargs)
        shape.refuse_outside_of_a_task(kwargs)
        lent = filled(**kwargs)
        try:
            yield args, await anext(lent)
        finally:
            await anext(lent, None)  # its regular end: now dependency-injector closes what is marked Closing

    return calls.async_generator(fn, shape.wanted, arguments)
