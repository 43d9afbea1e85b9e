"""How a pool is declared in a dependency-injector container, and how its producers and transactions are injected."""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from dependency_injector import containers, providers

from wd_di._borrowing.opening import Brief, begins_on_loops
from wd_di._forks import WeakCalls, renew_in_child
from wd_di._hints import OF_RESOURCES, no_attribute, no_keyword, settings_elsewhere
from wd_di._transactions.options import OPTIONS, Options
from wd_di.errors import PoolClosedError, ScopeError, SettingsError, uncopyable
from wd_di.pool import ProducerPool
from wd_di.settings import undefined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self, Unpack

    from wd_di._borrowing.handles import AsyncProducer, AsyncTransaction, Producer, Transaction
    from wd_di._borrowing.unopened import AsyncScope, Scope
    from wd_di._slots.closing import CloseReport
    from wd_di._slots.plan import Configure
    from wd_di._transactions.options import TransactionOptions
    from wd_di.events import Observer
    from wd_di.settings import PoolSettings

T_co = TypeVar("T_co", covariant=True)


class ScopeProvider(providers.MethodCaller, Generic[T_co]):
    """Provides an unopened scope of a pool; ``wd_di.inject`` opens it and hands over the ``T_co`` inside.

    It is a link of dependency-injector's ``.provided`` chain, the only kind of provider below a provider that markers
    are resolved through. So it asks whatever overrides the pool, too.
    """

    if TYPE_CHECKING:
        # The base class may also give an awaitable; this one never does.
        def __call__(self, *args: Any, **kwargs: Any) -> Scope[T_co, Any]:  # type: ignore[override]
            """Return the unopened scope."""


class AsyncScopeProvider(providers.AttributeGetter, Generic[T_co]):
    """As :class:`ScopeProvider`, for coroutine functions and async generators."""

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> AsyncScope[T_co]:  # type: ignore[override]
            """Return the unopened scope."""


class PoolResource(providers.Resource[ProducerPool]):
    """A pool as a resource of a container: opened by its first use or by ``init``, closed by ``shutdown``.

    However many threads ask first, one pool is opened. A caller that waited for somebody else's opening shares its
    failure; the next call tries again. After ``shutdown``, calls raise ``PoolClosedError`` until ``init``.

    Args:
        settings: The pool's ``PoolSettings`` or a mapping of its fields, or a provider of either, such as
            ``settings.provided.orders`` or ``config.orders`` of a ``providers.Configuration``.
        name: The pool's name in events, errors and logs; without one, that of the container's attribute.
        configure: Called with ``(config, index)`` or ``(config)`` for every producer of the pool.
        observer: The ``Observer`` that gets the pool's events, or a provider of it.
        provides: Builds the pool; a subclass of ``ProducerPool``, say.

    Attributes:
        report: What the last ``shutdown`` had to report.

    dependency-injector copies providers by calling their class without arguments, so no parameter is required.
    """

    report: CloseReport | None

    @settings_elsewhere("PoolResource")
    def __init__(
        self,
        settings: PoolSettings | Mapping[str, object] | providers.Provider[Any] | None = None,
        *,
        name: str | None = None,
        configure: Configure | None = None,
        observer: Observer | providers.Provider[Any] | None = None,
        provides: Callable[..., ProducerPool] = ProducerPool,
    ) -> None:
        self.report = None
        self._lock = threading.RLock()
        self._pool: ProducerPool | None = None
        self._opening = self._stopped = False
        self._failures: int = 0
        self._failure: Exception | None = None
        self._declared: tuple[str, str] | None = None
        if not callable(provides) and not isinstance(provides, str):  # or the name of one, as for all resources
            raise TypeError(f"provides is a class or function that makes a pool, not {type(provides).__name__}")
        options = {"name": name, "configure": configure, "observer": observer}
        super().__init__(
            provides,
            *([] if settings is None else [_as_is(settings)]),
            **{key: _as_is(value) for key, value in options.items() if value is not None},
        )
        # What can only be awaited is refused by the pool then; else a future would take the pool's place, which
        # nobody can close.
        self.disable_async_mode()
        _in_child.add(self._renew)

    def __set_name__(self, owner: type, name: str) -> None:
        if containers.is_container(owner):
            self._declared = (owner.__name__, name)
            self.adopt(name)

    def __deepcopy__(self, memo: dict[int, object] | None) -> Self:
        if self.initialized and id(self) not in (memo or {}):
            raise ScopeError(
                f"{self.name}: this PoolResource was opened before a container was made of it, and an open pool can't "
                "be copied. Make the container first and call its own: container = Container(); container.orders()"
            )
        return super().__deepcopy__(memo)  # type: ignore[return-value]  # the stub names the base class

    if not TYPE_CHECKING:  # type checkers find it themselves, but not past a __getattr__

        def __getattr__(self, name: str) -> NoReturn:
            no_attribute(self, name, OF_RESOURCES)

    def __reduce__(self) -> NoReturn:
        raise uncopyable(self, "it belongs to its container. Make the container in each process")

    @property
    def name(self) -> str:
        """The pool's name; ``"default"`` if it was given none and belongs to no container."""
        name = self.kwargs.get("name")
        return "default" if name is None else str(name())

    def adopt(self, name: str) -> None:
        """Take the name unless there is one. For containers built at run time, which don't tell their attributes."""
        if "name" not in self.kwargs and not self.initialized:
            self.add_kwargs(name=_as_is(name))

    @property
    def producer(self) -> ScopeProvider[Producer]:
        """Provides a checkout; the injected function gets the ``Producer``, which goes back when it returns."""
        return ScopeProvider(self.provided.producer)

    @property
    def transaction(self) -> ScopeProvider[Transaction]:
        """Provides a transaction, committed when the injected function returns and aborted when it raises."""
        return self.transaction_with()

    def transaction_with(self, **options: Unpack[TransactionOptions]) -> ScopeProvider[Transaction]:
        """Return what ``transaction`` provides, with the options of ``ProducerPool.transaction``.

        With ``retry`` the injected function is called again as a whole, only after a confirmed abort. It must then be a
        plain function, and this its only producer or transaction.

        Raises:
            TypeError, ValueError: An option isn't one, or has a value that can't be; a provider is asked later.
        """
        _check_options(options)
        return ScopeProvider(self.provided.transaction, **options)

    @property
    def async_producer(self) -> AsyncScopeProvider[AsyncProducer]:
        """Provides a checkout to a coroutine function, which gets the ``AsyncProducer``."""
        return AsyncScopeProvider(self.provided.producer.call(), "awaited")

    @property
    def async_transaction(self) -> AsyncScopeProvider[AsyncTransaction]:
        """Provides a transaction to a coroutine function; cancelled, it aborts."""
        return self.async_transaction_with()

    def async_transaction_with(self, **options: Unpack[TransactionOptions]) -> AsyncScopeProvider[AsyncTransaction]:
        """Return what ``async_transaction`` provides; options and errors as of ``transaction_with``."""
        _check_options(options)
        return AsyncScopeProvider(self.provided.transaction.call(**options), "awaited")

    def init(self) -> Any:
        """Open the pool, also again after ``shutdown``.

        Returns:
            The pool, or what overrides it.

        Raises:
            PoolOpenError: The pool can't be opened; the next call tries again.
        """
        with self._lock:
            self._stopped = False
        with Brief():
            return super().init()

    def shutdown(self) -> None:
        """Drain and close the pool within its ``close_timeout_ms`` and keep the ``report``; nothing if it isn't open.

        While it drains, the pool is still provided, so that a function inside a transaction can finish it.
        """
        with self._lock:
            self._stopped = True
            if self._pool is None:
                return
            try:
                self.report = self._pool.close()
            finally:
                self._pool = None
                self.reset_state()  # type: ignore[attr-defined]  # public, but not in the stubs

    def _renew(self) -> None:
        """In a forked child: another thread of the parent may have held the lock, which nobody here would release."""
        self._lock = threading.RLock()
        self._opening = False

    def _provide(self, args: tuple[object, ...], kwargs: dict[str, object]) -> ProducerPool:
        # Not the base class's own check: it opens a second pool if a shutdown comes between its check and its answer.
        pool = self._pool
        if pool is not None:
            return pool
        with Brief():
            return self._open(args, kwargs)

    def _open(self, args: tuple[object, ...], kwargs: dict[str, object]) -> ProducerPool:
        failures = self._failures
        with self._lock:
            if self._pool is None:
                self._check(failures)
                self._pool = self._try_open(args, kwargs)
            return self._pool

    def _check(self, failures: int) -> None:
        if self._declared:
            raise ScopeError(
                f"{'.'.join(self._declared)} only declares a pool. Make a container and ask that one: "
                f"container = {self._declared[0]}(); container.{self._declared[1]}()"
            )
        if self._stopped:
            raise PoolClosedError(f"{self.name}: the pool was shut down. Call init() on its provider to open it again")
        if self._opening:
            raise ScopeError(f"{self.name}: the pool was asked for by its own opening, from settings or a listener")
        if self._failure is not None and self._failures != failures:
            raise self._failure  # one broken broker mustn't cost every waiting thread an open_timeout_ms in turn

    def _check_settings(self, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Settings that were never given show here at the latest: the constructor can't demand them."""
        named = {**self.kwargs, **kwargs}
        given = (*self.args, *args, *([named["settings"]] if "settings" in named else []))
        if given:
            refuse_undefined(self.name, given[0])
            return
        wanted = inspect.signature(self.provides).parameters.get("settings") if self.provides else None
        if wanted is not None and wanted.default is wanted.empty:
            raise SettingsError(
                f"{self.name}: the pool has no settings: pass them, PoolResource(settings.provided.{self.name})"
            )

    def _check_made(self, pool: object) -> None:
        if not callable(getattr(pool, "close", None)):
            self.reset_state()  # type: ignore[attr-defined]  # public, but not in the stubs
            raise SettingsError(f"{self.name}: what provides the pool has made none, but {type(pool).__name__}")

    def _try_open(self, args: tuple[object, ...], kwargs: dict[str, object]) -> ProducerPool:
        self._opening, self._failure = True, None
        try:
            self._check_settings(args, kwargs)
            with begins_on_loops():  # what a container does by itself can't be awaited
                pool: ProducerPool = super()._provide(args, kwargs)  # type: ignore[misc]  # overridable, not in the stubs
            self._check_made(pool)
        except Exception as error:
            self._failures, self._failure = self._failures + 1, error
            raise
        finally:
            self._opening = False
        return pool


def refuse_undefined(name: str, settings: object) -> None:
    """Raise SettingsError where a pool's settings come from an option that nobody has defined: it would be None."""
    while isinstance(settings, providers.Provider) and settings.last_overriding is not None:
        settings = settings.last_overriding
    if missing := undefined(settings):
        raise SettingsError(f"{name}: the pool has no settings: {missing}")


def _check_options(options: TransactionOptions) -> None:
    given: dict[str, Any] = {**options}
    if foreign := [name for name in given if name not in OPTIONS]:
        no_keyword("transaction_with", foreign, OPTIONS)
    Options(**{name: value for name, value in given.items() if not isinstance(value, providers.Provider)})


def _as_is(value: object) -> providers.Provider[object]:
    """Keep dependency-injector from copying a plain value together with the container."""
    return value if isinstance(value, providers.Provider) else providers.Object(value)


_in_child = WeakCalls()
renew_in_child("resources", _in_child)
