"""Which parameters are marked, and whether they can work: the typed marker ``injected``."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard, TypeVar, overload

from dependency_injector import providers, wiring

from wd_di.providers import AsyncScopeProvider, PoolResource, ScopeProvider
from wd_di.wiring import calls
from wd_di.wiring.diagnosis import CLOSING, why, within_closing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wd_di.wiring.calls import Function
    from wd_di.wiring.diagnosis import Marker

    Markers = Mapping[str, Marker]

T = TypeVar("T")

_PROVIDE: Any = wiring.Provide  # the stubs declare it as an instance of a protocol
_NAMES_A_MARKER = re.compile(r"\b(Provide|Provider|Closing)\[|\binjected\(")

_HINT = (
    "nothing was injected: put @inject directly above the function, from wd_di; dependency-injector's own gives "
    "nothing until its container is wired: container.wire(modules=[...])"
)


class _Injected(_PROVIDE):  # type: ignore[misc]  # as just said
    """The marker ``Provide``, which tells whoever uses it for what it stands for that nothing was injected."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"this is what injected(...) gives, without {name!r}: {_HINT}", name=name, obj=self)

    def __enter__(self) -> NoReturn:
        raise TypeError(f"this is what injected(...) gives, and nothing for 'with': {_HINT}")

    def __exit__(self, *_: object) -> None:
        """Never called; without it, ``with`` wouldn't ask ``__enter__``."""

    async def __aenter__(self) -> NoReturn:
        raise TypeError(f"this is what injected(...) gives, and nothing for 'async with': {_HINT}")

    async def __aexit__(self, *_: object) -> None:
        """As ``__exit__``."""

    def __repr__(self) -> str:
        return f"injected({self.provider!r})"


@overload
def injected(provider: ScopeProvider[T] | AsyncScopeProvider[T]) -> T: ...
@overload
def injected(provider: providers.Provider[T]) -> T: ...
def injected(provider: object) -> object:
    """Return dependency-injector's ``Provide[provider]``, typed as what the function will get.

    ``tx: Transaction = injected(Container.orders.transaction)`` is checked, ``Provide[...]`` passes for anything.
    """
    return _Injected(provider)


def signature_of(fn: Function) -> inspect.Signature:
    """Return the signature, with those annotations evaluated that can be."""
    signature = inspect.signature(fn)
    names = getattr(inspect.unwrap(fn), "__globals__", {})
    return signature.replace(parameters=[_evaluated(fn, each, names) for each in signature.parameters.values()])


def _evaluated(fn: Function, parameter: inspect.Parameter, names: dict[str, object]) -> inspect.Parameter:
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


def markers_of(signature: inspect.Signature) -> Iterator[tuple[str, Marker]]:
    """Yield the marked parameters and their markers."""
    for name, parameter in signature.parameters.items():
        marker = next(filter(_is_marker, _candidates(parameter)), None)
        if marker is not None:
            yield name, marker


def _candidates(parameter: inspect.Parameter) -> Iterator[object]:
    for value in (parameter.default, *getattr(parameter.annotation, "__metadata__", ())):
        yield value
        # What FastAPI's Depends and its like hold.
        yield from (extract(value) for extract in wiring.MARKER_EXTRACTORS)


def _is_marker(value: object) -> TypeGuard[Marker]:
    # Not by getattr on the value: a provider answers every name.
    return getattr(type(value), "__IS_MARKER__", False) is True


def positional_names(signature: inspect.Signature) -> list[str]:
    """Return the parameters that may be given by position or by name; none if ``*args`` takes the rest."""
    parameters = signature.parameters.values()
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return []
    return [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]


def wanted_by(fn: Function, signature: inspect.Signature, markers: Markers) -> calls.Wanted:
    """Return what the container fills of the function."""
    defaults = {name: signature.parameters[name].default for name in markers}
    return calls.Wanted(
        function=_name(fn),
        names=tuple(markers),
        why=lambda name: why(fn, markers[name]),
        optional=frozenset(name for name, value in defaults.items() if _is_value(value)),
        closing=frozenset(name for name, marker in markers.items() if isinstance(marker, CLOSING)),
    )


def _is_value(default: object) -> bool:
    """Whether it is a default to fall back on, rather than nothing or a marker."""
    parameter = inspect.Parameter("_", inspect.Parameter.KEYWORD_ONLY, default=default)
    return default is not parameter.empty and not any(map(_is_marker, _candidates(parameter)))


def check_markers(fn: Function, markers: Markers) -> None:
    """Raise TypeError for what can't work, as far as the markers name their providers."""
    targets = {name: target_of(marker) for name, marker in markers.items()}
    for name, marker in markers.items():
        if isinstance(marker, CLOSING) and _reaches_pool(targets[name]):
            raise TypeError(f"{_name(fn)}: {calls.shutting(name)}")
        if calls.is_async(fn) and isinstance(targets[name], ScopeProvider):
            raise TypeError(f"{_name(fn)}: {calls.blocking(name)}")
        if not calls.is_async(fn) and isinstance(targets[name], AsyncScopeProvider):
            raise TypeError(f"{_name(fn)}: {calls.needing_await(name)}")
    if any(isinstance(target, str | ScopeProvider | AsyncScopeProvider) for target in targets.values()):
        _refuse_hidden(fn)


def target_of(marker: Marker) -> object:
    """Return the provider or the path whose value the function will get."""
    inner = within_closing(marker)
    return inner.provider if isinstance(inner, _PROVIDE) else None


def _reaches_pool(provider: object) -> bool:
    if not isinstance(provider, providers.Provider):
        return False
    return isinstance(provider, PoolResource) or any(provider.traverse(types=[PoolResource]))


def _refuse_hidden(fn: Function) -> None:
    inner = inspect.unwrap(fn)
    if calls.kind(inner) != calls.kind(fn):
        raise TypeError(
            f"{_name(inner)}: a decorator between inject and this generator or coroutine function hides what it is, so "
            "the scope would end before its body runs. Put inject directly above the function, below other decorators"
        )


def _name(fn: Function) -> str:
    return getattr(fn, "__qualname__", repr(fn))
