"""How a function gets its producers and transactions from a container: ``inject`` and the typed marker ``injected``."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast, overload

from dependency_injector import providers, wiring

from wd_di import _calls, _diagnosis
from wd_di._concurrency.caller import refuse_outside_of_a_task
from wd_di.providers import AsyncScopeProvider, PoolResource, ScopeProvider

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping

    Function = Callable[..., Any]
    Markers = Mapping[str, Any]
    _Arguments = tuple[tuple[Any, ...], dict[str, Any]]

T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any] | classmethod[Any, ..., Any] | staticmethod[..., Any]")

# The stubs declare these classes as instances of a protocol.
_PROVIDE: Any = wiring.Provide
_CLOSING: Any = wiring.Closing
_NAMES_A_MARKER = re.compile(r"\b(Provide|Provider|Closing)\[|\binjected\(")


class _Injected(_PROVIDE):  # type: ignore[misc]  # see above
    """The marker ``Provide``, which tells whoever uses it for what it stands for that nothing was injected."""

    def __getattr__(self, name: str) -> NoReturn:
        hint = "nothing was injected: put @inject directly above the function"
        raise AttributeError(f"this is what injected(...) gives, without {name!r}: {hint}", name=name, obj=self)

    def __repr__(self) -> str:
        return f"injected({self.provider!r})"


@overload
def injected(provider: ScopeProvider[T] | AsyncScopeProvider[T]) -> T: ...
@overload
def injected(provider: providers.Provider[T]) -> T: ...
def injected(provider: providers.Provider[Any]) -> Any:
    """Return dependency-injector's ``Provide[provider]``, typed as what the function will get.

    ``tx: Transaction = injected(Container.orders.transaction)`` is checked, ``Provide[...]`` passes for anything.
    """
    return _Injected(provider)


def inject(fn: F) -> F:
    """Fill the marked parameters of a function from the wired container, and run it inside their scopes.

    A drop-in for dependency-injector's ``inject`` on functions, methods, class and static methods, generators and
    coroutine functions. Producers and transactions of a ``PoolResource`` are opened in the order of the parameters
    after every injection has succeeded, and end with the call: a transaction is committed when the function returns
    (a generator: when it is exhausted) and aborted when anything is raised. If ``AbortTransaction`` was raised, the
    call returns ``None``. What the caller passes is taken as it is and opens nothing, unless it is a recipe itself,
    such as ``pool.transaction(timeout_ms=100)``.

    Put it directly above the function, below other decorators.

    Raises:
        TypeError: The function can't be injected this way; the message says why.
        ScopeError: At a call: nobody wired the function, or it can't use the scope that it was given.
    """
    if isinstance(fn, classmethod | staticmethod):
        return type(fn)(inject(fn.__func__))
    signature = _signature(fn)
    markers = dict(_markers(signature))
    if not markers:
        warnings.warn("@inject is not required here", wiring.DIWiringWarning, stacklevel=2)
        return fn
    _check(fn, markers)
    shape = _Shape(fn, signature, markers)
    kinds = (_async_generator, _coroutine, _generator, _plain)
    return cast("F", shape.show(kinds[_calls.kind(fn)](fn, shape)))


class _Shape:
    """What its callers, dependency-injector and the scopes each know of one injected function."""

    def __init__(self, fn: Function, signature: inspect.Signature, markers: Markers) -> None:
        self._fn = fn
        self._signature = signature
        self._markers = markers
        self._positional = _positional(signature)
        first = (index for index, name in enumerate(self._positional) if name in markers)
        self._first = next(first, sys.maxsize)
        self._awaited = [name for name, marker in markers.items() if isinstance(_target(marker), AsyncScopeProvider)]
        self.wanted = _wanted(fn, signature, markers)

    def show(self, run: Function) -> Function:
        """Make it look like the function to its callers, without the markers.

        Frameworks would take a marked parameter for one of theirs, and ``wire`` patches whatever shows a marker in its
        signature, such as a decorator above this one that retries.
        """
        others = [parameter for name, parameter in self._signature.parameters.items() if name not in self._markers]
        return self._like(run, self._signature.replace(parameters=others))

    def fill(self, run: Function) -> Function:
        """Let dependency-injector call it with the marked parameters, and see nothing else of it.

        In this plain form it finds all of them; on its own it overlooks Annotated under postponed annotations.
        """
        keyword = inspect.Parameter.KEYWORD_ONLY
        marked = [inspect.Parameter(name, keyword, default=marker) for name, marker in self._markers.items()]
        return wiring.inject(self._like(run, inspect.Signature(marked)))

    def by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Arguments:
        """Turn the arguments from the first marked parameter on into keywords.

        dependency-injector takes no notice of positional ones: it would inject a second value for the same parameter.
        """
        if len(args) <= self._first:
            return args, kwargs
        self._signature.bind_partial(*args, **kwargs)  # raises what Python would
        named = zip(self._positional[self._first :], args[self._first :], strict=False)
        return args[: self._first], {**kwargs, **dict(named)}

    def refuse_outside_of_a_task(self, kwargs: dict[str, Any]) -> None:
        """Before dependency-injector opens the pools whose scopes only a task can open."""
        if not all(name in kwargs for name in self._awaited):
            refuse_outside_of_a_task(self.wanted.function)

    def _like(self, run: Function, signature: inspect.Signature) -> Function:
        functools.update_wrapper(run, self._fn)
        run.__signature__ = signature  # type: ignore[attr-defined]  # where inspect looks first
        return run


def _plain(fn: Function, shape: _Shape) -> Function:
    filled = shape.fill(_calls.plain(fn, shape.wanted))

    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = shape.by_name(args, kwargs)
        return filled(*args, **kwargs)

    return run


def _generator(fn: Function, shape: _Shape) -> Function:
    filled = shape.fill(_calls.generator(fn, shape.wanted))

    def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        args, kwargs = shape.by_name(args, kwargs)
        return (yield from filled(*args, **kwargs))

    return run


def _coroutine(fn: Function, shape: _Shape) -> Function:
    filled = shape.fill(_calls.coroutine(fn, shape.wanted))

    async def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = shape.by_name(args, kwargs)
        shape.refuse_outside_of_a_task(kwargs)
        return await filled(*args, **kwargs)

    return run


def _async_generator(fn: Function, shape: _Shape) -> Function:
    """Borrow the injections; dependency-injector's own wrapper would pass on neither ``asend`` nor ``athrow``."""

    async def lend(**kwargs: Any) -> AsyncGenerator[dict[str, Any], None]:
        yield kwargs

    filled = shape.fill(lend)

    @asynccontextmanager
    async def arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncGenerator[_Arguments, None]:
        args, kwargs = shape.by_name(args, kwargs)
        shape.refuse_outside_of_a_task(kwargs)
        lent = filled(**kwargs)
        try:
            yield args, await anext(lent)
        finally:
            await anext(lent, None)  # its regular end: now dependency-injector closes what is marked Closing

    return _calls.async_generator(fn, shape.wanted, arguments)


def _signature(fn: Function) -> inspect.Signature:
    signature = inspect.signature(fn)
    names = getattr(inspect.unwrap(fn), "__globals__", {})
    return signature.replace(parameters=[_evaluated(fn, each, names) for each in signature.parameters.values()])


def _evaluated(fn: Function, parameter: inspect.Parameter, names: dict[str, Any]) -> inspect.Parameter:
    """Evaluate a postponed annotation if it can be; one by one, for some may be known to type checkers only."""
    text = parameter.annotation
    if not isinstance(text, str):
        return parameter
    try:
        return parameter.replace(annotation=eval(text, names))  # noqa: S307  (the module's own source)
    except Exception as error:
        if _NAMES_A_MARKER.search(text):
            raise TypeError(
                f"{_name(fn)}: the marker in the annotation of {parameter.name!r} can't be read ({error}). Import or "
                "define at module level all that the annotation names, or give the marker as the parameter's default"
            ) from error
        return parameter


def _markers(signature: inspect.Signature) -> Iterator[tuple[str, Any]]:
    for name, parameter in signature.parameters.items():
        marker = next(filter(_is_marker, _candidates(parameter)), None)
        if marker is not None:
            yield name, marker


def _candidates(parameter: inspect.Parameter) -> Iterator[Any]:
    for value in (parameter.default, *getattr(parameter.annotation, "__metadata__", ())):
        yield value
        # What FastAPI's Depends and its like hold.
        yield from (extract(value) for extract in wiring.MARKER_EXTRACTORS)


def _is_marker(value: object) -> bool:
    # Not by getattr on the value: a provider answers every name.
    return getattr(type(value), "__IS_MARKER__", False) is True


def _positional(signature: inspect.Signature) -> list[str]:
    """Return the parameters that may be given by position or by name; none if ``*args`` takes the rest."""
    parameters = signature.parameters.values()
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return []
    return [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]


def _wanted(fn: Function, signature: inspect.Signature, markers: Markers) -> _calls.Wanted:
    defaults = {name: signature.parameters[name].default for name in markers}
    return _calls.Wanted(
        function=_name(fn),
        names=tuple(markers),
        why=lambda name: _diagnosis.why(fn, markers[name]),
        optional=frozenset(name for name, value in defaults.items() if _is_value(value)),
        closing=frozenset(name for name, marker in markers.items() if isinstance(marker, _CLOSING)),
    )


def _is_value(default: object) -> bool:
    """Whether it is a default to fall back on, rather than nothing or a marker."""
    parameter = inspect.Parameter("_", inspect.Parameter.KEYWORD_ONLY, default=default)
    return default is not parameter.empty and not any(map(_is_marker, _candidates(parameter)))


def _check(fn: Function, markers: Markers) -> None:
    """Raise TypeError for what can't work, as far as the markers name their providers."""
    targets = {name: _target(marker) for name, marker in markers.items()}
    for name, marker in markers.items():
        if isinstance(marker, _CLOSING) and _reaches_pool(targets[name]):
            raise TypeError(f"{_name(fn)}: {_calls.shutting(name)}")
        if _calls.is_async(fn) and isinstance(targets[name], ScopeProvider):
            raise TypeError(f"{_name(fn)}: {_calls.blocking(name)}")
        if not _calls.is_async(fn) and isinstance(targets[name], AsyncScopeProvider):
            raise TypeError(f"{_name(fn)}: {_calls.needing_await(name)}")
    if any(isinstance(target, str | ScopeProvider | AsyncScopeProvider) for target in targets.values()):
        _refuse_hidden(fn)


def _target(marker: Any) -> Any:
    """Return the provider or the path whose value the function will get."""
    if isinstance(marker, _CLOSING):
        marker = marker.provider
    return marker.provider if isinstance(marker, _PROVIDE) else None


def _reaches_pool(provider: Any) -> bool:
    if not isinstance(provider, providers.Provider):
        return False
    return isinstance(provider, PoolResource) or any(provider.traverse(types=[PoolResource]))


def _refuse_hidden(fn: Function) -> None:
    inner = inspect.unwrap(fn)
    if _calls.kind(inner) != _calls.kind(fn):
        raise TypeError(
            f"{_name(inner)}: a decorator between inject and this generator or coroutine function hides what it is, so "
            "the scope would end before its body runs. Put inject directly above the function, below other decorators"
        )


def _name(fn: Function) -> str:
    return getattr(fn, "__qualname__", repr(fn))
