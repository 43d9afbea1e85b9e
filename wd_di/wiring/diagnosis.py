"""Why a marked parameter got no value: what can still be found out when the call has failed."""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from difflib import get_close_matches
from importlib.util import resolve_name
from typing import TYPE_CHECKING, Protocol, cast
from weakref import WeakKeyDictionary

from dependency_injector import containers, providers, wiring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import ModuleType

    Modules = list[ModuleType | str]


class Marker(Protocol):
    """What stands for a value that is to be injected."""

    provider: object


class _Declared(Protocol):
    """A container, or its class."""

    providers: Mapping[str, object]
    __self__: object


class _Container(_Declared, Protocol):
    """What dependency-injector's stubs don't say of one."""

    declarative_parent: type | None
    wired_to_modules: list[ModuleType]
    wired_to_packages: list[ModuleType]
    wiring_config: containers.WiringConfiguration


_waiting: WeakKeyDictionary[Callable[..., object], tuple[_Container, Modules, str | None]] = WeakKeyDictionary()
"""Lifespans that a framework hasn't entered yet, each with its container and what it wires besides, seen from where."""
_stopped: WeakKeyDictionary[_Declared, set[str]] = WeakKeyDictionary()
"""Of which containers one has stopped, by their class, with the modules and packages that it was wired to."""
_running: WeakKeyDictionary[_Container, set[str]] = WeakKeyDictionary()
"""Which containers run, with what they were wired to at their start."""
_asked: WeakKeyDictionary[_Declared, set[str]] = WeakKeyDictionary()
"""For which containers, by their class, a ``running`` was made that nobody has entered yet, with what it will wire."""


def waits(lifespan: Callable[..., object], container: containers.Container, more: Modules, package: str | None) -> None:
    """Note that a lifespan to come will wire this container."""
    _waiting[lifespan] = (_seen(container), more, package)


def started(lifespan: Callable[..., object]) -> None:
    """Note that it came."""
    _waiting.pop(lifespan, None)


def asked(container: containers.Container, more: Modules, package: str | None) -> None:
    """Note that somebody has made what wires this container at its start."""
    with suppress(ImportError):  # a relative name of nowhere, which entering will say
        _asked[_declared(_seen(container))] = set(_to_wire(_seen(container), more, package))


def runs(container: containers.Container) -> None:
    """Note what was wired at the start of a container."""
    _asked.pop(_declared(_seen(container)), None)
    _running[_seen(container)] = set(_wired_to(_seen(container)))


def stops(container: containers.Container) -> None:
    """Note what is about to be unwired because its container stops, or was by hand before."""
    names = _running.pop(_seen(container), set()).union(_wired_to(_seen(container)))
    _stopped.setdefault(_declared(_seen(container)), set()).update(names)


def _seen(container: containers.Container) -> _Container:
    return cast("_Container", container)


def why(function: Callable[..., object], marker: Marker) -> str:
    """Return the likeliest reason why nobody gave a value for this marker of the function, and what to do."""
    with suppress(Exception):  # dependency-injector's insides may change; an error must not hide the one to be told
        return _reason(function.__module__, within_closing(marker).provider)
    return f"{_not_called(function.__module__)} for the function's module"


def within_closing(marker: Marker) -> Marker:
    """Return the marker itself, where ``Closing`` is around it."""
    return cast("Marker", marker.provider) if isinstance(marker, CLOSING) else marker


def _reason(module: str, target: object) -> str:
    objects = gc.get_objects()
    alive = [each for each in objects if issubclass(type(each), containers.DynamicContainer)]
    fitting = [each for each in alive if _has(each, target)]
    wired = [each for each in alive if _covers(_wired_to(each), module)]
    coming = [each for each, more, package in _waiting.values() if _covers(_to_wire(each, more, package), module)]
    if any(each in fitting for each in coming):
        return (
            "the lifespan(...) that wires and opens its container hasn't been entered. An application that is mounted "
            "in another one isn't started by that: enter its lifespan in the other's. A test client starts an "
            "application only as 'with TestClient(app)'"
        )
    if any(each in fitting for each in wired):
        return (
            f"{module!r} was wired before this function was made, or another container's unwire() has taken it back: "
            f"call container.wire(modules=[{module!r}]) now, or use running(container), which does it at the start"
        )
    if wired:
        return _lacking(wired[-1], target, module)
    inner = [each.container for each in objects if issubclass(type(each), providers.Container)]  # who wires those?
    outer = [each for each in fitting if each not in inner or _wired_to(each)]
    return _unseen(module, outer, target)


def _unseen(module: str, fitting: list[_Container], target: object) -> str:
    """Say why no container looks at the module."""
    if _among(_running, module, target):
        return (
            f"{module!r} was wired when its container was started, and unwire() has taken it back: leave that to "
            f"running(...), or call container.wire(modules=[{module!r}]) again"
        )
    if _among(_stopped, module, target):
        return (
            f"{_not_called(module)} again since its container was stopped, or unwire() has taken it back: call it "
            "while running(...) lasts"
        )
    if _among(_asked, module, target):
        return "running(...) was only called, which wires nothing yet: call it inside of 'with running(...):'"
    text = f"{_not_called(module)} for the function's module"
    if module == "__main__":
        if _copied():
            return (
                "it belongs to the running program, and wiring imports a copy of that under its file's name. Move the "
                "function to a module of its own, or wire this one: container.wire(modules=['__main__'])"
            )
        text = (
            "it belongs to the running program, which nobody has wired: call container.wire(modules=['__main__']), or "
            "use running(container, modules=['__main__'])"
        )
    if fitting:
        names = ", ".join(map(repr, _wired_to(fitting[-1])))
        return f"{text}; there is a {_class(fitting[-1])}, and it is wired to {names or 'none, or not any more'}"
    return text


def _among(noted: Mapping[_Container, set[str]] | Mapping[_Declared, set[str]], module: str, target: object) -> bool:
    """Whether one of these containers has the target, and was to look at the module."""
    return any(_covers(names, module) and _has(owner, target) for owner, names in noted.items())


def _copied() -> bool:
    """Whether the running program was imported as a module, too."""
    program = getattr(sys.modules["__main__"], "__file__", None)
    others = (each for name, each in tuple(sys.modules.items()) if name != "__main__")
    return program is not None and any(getattr(each, "__dict__", {}).get("__file__") == program for each in others)


def _lacking(container: _Container, target: object, module: str) -> str:
    """Say what the container that was wired has not."""
    one = f"the {_class(container)} that is wired to {module!r}"
    if isinstance(target, str):
        return f"{one} has no {target!r}{_missed(container, target)}"
    root = _root(target)
    path = next((path for path, each in _below(_declared(container).providers, behind=True) if each is root), None)
    if path is not None:
        return (
            f"the marker names {path}, a placeholder in a DependenciesContainer, and wiring doesn't look behind those. "
            f"Give the {_class(container)} its {path.rpartition('.')[0]}, and mark by path: "
            f"Provide['{path}.transaction']"
        )
    named = next(_owners(root), "a provider of no container's class")
    return (
        f"{one} isn't of the class that the marker names, {named}: wire a container of that class, or name a provider "
        "of this one"
    )


def _missed(container: object, path: str) -> str:
    """Say which step of the path fails, and why."""
    place, taken, [wrong, *rest] = _follow(container, path)
    if isinstance(place, providers.Dependency):
        return f": {'.'.join(taken)!r} is a placeholder that nothing was provided for"
    steps = [name for name in getattr(place, "providers", ()) if name != "__self__"]
    near = [".".join([*taken, step, *rest]) for step in get_close_matches(wrong, steps, n=1)]
    if near and not _follow(container, near[0])[2]:
        return f". Did you mean {near[0]!r}?"
    return f"; it has {', '.join(steps)}" if steps and not taken else ""


def _follow(container: object, path: str) -> tuple[object, list[str], list[str]]:
    """Go along the path as far as it leads, where a DependenciesContainer would make a placeholder of any name."""
    place, steps = container, path.split(".")
    for count, step in enumerate(steps):
        given = not isinstance(place, providers.DependenciesContainer) or step in place.providers
        if not given or not hasattr(place, step):
            return place, steps[:count], steps[count:]
        place = getattr(place, step)
    return place, steps, []


def _has(container: _Declared, target: object) -> bool:
    if isinstance(target, str):
        _, _, missing = _follow(container, target)
        return not missing or target == wiring.ProvidersMap.CONTAINER_STRING_ID
    declared = _declared(container)
    inner = (each for _, each in _below(declared.providers))
    return any(each is _root(target) for each in (declared.__self__, *inner))


def _declared(container: _Declared) -> _Declared:
    """Return the class of a container; itself, where it is the class or was built without one."""
    declared: _Declared | None = getattr(container, "declarative_parent", None)
    return declared or container


def _below(declared: Mapping[str, object], prefix: str = "", *, behind: bool = False) -> Iterator[tuple[str, object]]:
    """The providers that a marker may name, by path: those of the class, which a container copies, and of those in it.

    Args:
        declared: The class's providers.
        prefix: The path to them, with a dot at its end.
        behind: Whether also those that wiring doesn't see, behind a DependenciesContainer.
    """
    for name, each in declared.items():
        yield prefix + name, each
        if isinstance(each, providers.Container):
            yield from _below(each.container.providers, f"{prefix}{name}.", behind=behind)
        elif behind and isinstance(each, providers.DependenciesContainer):
            yield from _below(each.providers, f"{prefix}{name}.", behind=behind)


def _root(provider: object) -> object:
    """The provider at the beginning of a chain of ``.provided``, of an option or of a delegate."""
    links = (providers.ProvidedInstance, providers.AttributeGetter, providers.ItemGetter, providers.MethodCaller)
    while isinstance(provider, (*links, providers.Delegate)):
        provider = provider.provides
    if isinstance(provider, providers.TypedConfigurationOption):
        provider = provider.option
    return provider._get_root() if isinstance(provider, providers.ConfigurationOption) else provider  # noqa: SLF001


def _owners(provider: object) -> Iterator[str]:
    """Every container class that has it or is it, with its name there, bases first."""
    classes: list[type[containers.DeclarativeContainer]] = [containers.DeclarativeContainer]
    for each in classes:  # grows meanwhile
        classes.extend(type.__subclasses__(each))
        if provider is each.__self__:
            yield each.__name__
        inner = _below(each.cls_providers, behind=True)
        yield from (f"{each.__name__}.{path}" for path, value in inner if value is provider)


def _wired_to(container: _Container) -> list[str]:
    return [each.__name__ for each in (*container.wired_to_modules, *container.wired_to_packages)]


def _to_wire(container: _Container, more: Modules, package: str | None) -> Iterator[str]:
    configured = container.wiring_config
    for each in (*configured.modules, *configured.packages, *more):
        yield resolve_name(each, configured.from_package or package) if isinstance(each, str) else each.__name__


def _covers(names: Iterable[str], module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def _class(container: _Container) -> str:
    return (container.declarative_parent or type(container)).__name__


def _not_called(module: str) -> str:
    return f"container.wire(modules=[{module!r}]) wasn't called"


CLOSING = cast("type", wiring.Closing)  # the stubs declare it as an instance of a protocol
