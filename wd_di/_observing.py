"""Who is told what happens."""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, TypeVar, cast, overload

from wd_di._errorlog import LOCK, ErrorLog, is_from_outside
from wd_di.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    Listener = Callable[[Any], object]

E = TypeVar("E", bound="Event")
R = TypeVar("R")
L = TypeVar("L", bound="Listener")


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events; who subscribes to it hears every one.

    ``event["size"]`` reads as ``event.size``, and ``dict(event)`` gives all fields.

    Attributes:
        name: The dotted name, which ``subscribe`` takes as well as the class.
        pool: The name of the pool in which it happened.
    """

    name: ClassVar[str] = "*"
    _aliases: ClassVar[Mapping[str, str]] = {}
    pool: str

    def keys(self) -> tuple[str, ...]:
        """Return the names of the fields."""
        return tuple(each.name for each in fields(self))

    def __getitem__(self, key: str) -> Any:
        known = (*self.keys(), *self._aliases)
        if key not in known:
            raise KeyError(f"{self.name} has no {key!r}; it has {', '.join(known)}")
        return getattr(self, self._aliases.get(key, key))


_known: dict[str, type[Event]] = {Event.name: Event}
"""All that may be listened to, by name."""


def make_known(events: Iterable[type[Event]]) -> None:
    """Let these be listened to."""
    _known.update({each.name: each for each in events})


def _events() -> tuple[type[Event], ...]:
    return tuple(each for each in _known.values() if each is not Event)


class Subscription:
    """One listener's place at an observer, until ``cancel`` or the end of its ``with``."""

    __slots__ = ("_remove", "events", "listener")

    def __init__(
        self, events: tuple[type[Event], ...], listener: Listener, remove: Callable[[Subscription], None]
    ) -> None:
        self.events: tuple[type[Event], ...] = events
        self.listener: Listener = listener
        self._remove = remove

    def cancel(self) -> None:
        """Stop listening; a second time is harmless. An event under way may still arrive."""
        self._remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __repr__(self) -> str:
        names = "*" if self.events == _events() else ", ".join(each.name for each in self.events)
        return f"<Subscription of {_qualified_name(self.listener)} to {names}>"


class Observer:
    """Hands a pool's events to listeners; give one to as many pools as you like, before or after they open.

    Listeners are called in the order of their subscription, on the thread on which the event happens (often the
    pool's own poller), so they must be quick. One that raises is logged on logger ``wd_di`` and disturbs nobody.
    What is no ``Exception``, such as Ctrl-C or a signal handler's ``sys.exit``, comes out on the main thread, when the
    others have been told; on other threads, where no handler runs, it is logged, too.
    """

    def __init__(self) -> None:
        # Tuples are replaced, never changed, and an event nobody wants has no entry: emit needs no lock.
        self._listeners: dict[type[Event], tuple[Subscription, ...]] = {}
        self._errors = ErrorLog()

    @overload
    def subscribe(self, event: type[E], listener: Callable[[E], object]) -> Subscription: ...
    @overload
    def subscribe(self, event: str, listener: Callable[[Any], object]) -> Subscription: ...
    def subscribe(self, event: str | type[Event], listener: Listener) -> Subscription:
        """Call ``listener`` with every such event from now on.

        Args:
            event: An event's class or its dotted name; ``Event`` or ``"*"`` means all of them.
            listener: A plain function of one argument; what it returns is ignored.

        Raises:
            ValueError: There is no such event.
            TypeError: ``listener`` can't be called, or only awaited.
        """
        return self._add(_named(event), listener)

    @overload
    def on(self, event: type[E], /) -> Callable[[Callable[[E], R]], Callable[[E], R]]: ...
    @overload
    def on(
        self, event: str | type[Event], /, *more: str | type[Event]
    ) -> Callable[[Callable[[Any], R]], Callable[[Any], R]]: ...
    def on(self, event: str | type[Event], /, *more: str | type[Event]) -> Callable[[L], L]:
        """Subscribe the decorated function to these events, for the observer's life, and return it unchanged."""
        events = dict.fromkeys(each for group in (event, *more) for each in _named(group))

        def decorate(listener: L) -> L:
            self._add(events, listener)
            return listener

        return decorate

    def wants(self, event: type[Event]) -> bool:
        """Whether anybody listens to this class of event: ask before gathering fields that cost something."""
        return event in self._listeners

    def emit(self, event: type[Event], /, **values: Any) -> None:
        """Build the event and tell its listeners; without any it isn't even built.

        Args:
            event: The event's class.
            values: Its fields.
        """
        listeners = self._listeners.get(event)
        if listeners is not None:
            self._tell(listeners, event(**values))

    def _tell(self, listeners: tuple[Subscription, ...], event: Event) -> None:
        interrupt: BaseException | None = None
        for each in listeners:
            try:
                each.listener(event)
            except BaseException as error:  # noqa: BLE001  (whatever a listener does, the pool's work goes on)
                if interrupt is None and is_from_outside(error):
                    interrupt = error
                    continue
                failed = f"listener {_qualified_name(each.listener)} failed on {event.name}"
                self._errors.write(failed, failed, error)
        if interrupt is not None:
            raise interrupt

    def _add(self, events: Iterable[type[Event]], listener: Listener) -> Subscription:
        if not callable(listener) or iscoroutinefunction(listener):
            raise TypeError(f"a listener is a plain function of one argument (it is never awaited), not {listener!r}")
        subscription = Subscription(tuple(events), listener, self._remove)
        with LOCK:
            for event in subscription.events:
                self._listeners[event] = (*self._listeners.get(event, ()), subscription)
        return subscription

    def _remove(self, subscription: Subscription) -> None:
        with LOCK:
            for event in subscription.events:
                left = tuple(each for each in self._listeners.get(event, ()) if each is not subscription)
                if left:
                    self._listeners[event] = left
                else:
                    self._listeners.pop(event, None)

    def __copy__(self) -> Self:
        return self  # nobody would tell a copy anything; a container copies what its providers are given

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} can't be pickled: its listeners belong to this process. Make one in each process"
        )

    def __repr__(self) -> str:
        with LOCK:
            count = len({each for listeners in self._listeners.values() for each in listeners})
        return f"<{type(self).__name__}: {count} subscription{'' if count == 1 else 's'}>"


class _Asked:
    """What an observer wants that decides so by itself."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def __contains__(self, event: object) -> bool:
        return self._observer.wants(cast("type[Event]", event))


def heard_by(observer: Observer) -> Container[type[Event]]:
    """Return all that somebody listens to there, for whoever asks more often than he would like to call."""
    return observer._listeners if type(observer).wants is Observer.wants else _Asked(observer)  # noqa: SLF001  (its own module)


def checked_observer(name: str, observer: Observer | None) -> Observer:
    """Return the observer of a pool, a new one if it was given none.

    Raises:
        SettingsError: It is something else.
    """
    if observer is None:
        return Observer()
    if isinstance(observer, type) or not callable(getattr(observer, "emit", None)):
        kind = f"the class {observer.__name__}" if isinstance(observer, type) else type(observer).__name__
        raise SettingsError(f"{name}: observer must be an Observer, not {kind}")
    return observer


def _named(event: str | type[Event]) -> tuple[type[Event], ...]:
    kind = _known.get(event) if isinstance(event, str) else event
    found = _events() if kind is Event else tuple(each for each in _events() if each is kind)
    if not found:
        name = event if isinstance(event, str) else repr(event)
        near = get_close_matches(name, _known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no event {name!r}.{hint} The events are: {', '.join(_known)}")
    return found


def _qualified_name(listener: Listener) -> str:
    # A partial's or an object's own repr could show a secret.
    given = listener.func if isinstance(listener, partial) else listener
    named = given if hasattr(given, "__qualname__") else type(given)
    return f"{named.__module__ or 'builtins'}.{named.__qualname__}"
