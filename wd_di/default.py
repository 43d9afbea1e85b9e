"""The one pool of a program that needs no container of its own, from ``setup`` to ``close``."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from dependency_injector import containers, providers

from wd_di._borrowing.opening import Brief
from wd_di._concurrency.caller import on_loop, refuse_in_trio
from wd_di._forks import renew_in_child
from wd_di._hints import no_keyword, settings_elsewhere
from wd_di.errors import AlreadyConfiguredError, NotConfiguredError, ScopeError
from wd_di.events import Observer
from wd_di.pool import ProducerPool
from wd_di.providers import PoolResource, refuse_undefined
from wd_di.settings import PoolSettings, Settings, checked_pool, left_open

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Unpack

    from wd_di._borrowing.checkout import Checkout
    from wd_di._borrowing.handles import TransactionScope
    from wd_di._hints import NoOthers
    from wd_di._slots.closing import CloseReport
    from wd_di._slots.plan import Configure
    from wd_di._slots.stats import PoolStats
    from wd_di._transactions.options import TransactionOptions

NAME = "default"


class Environment(Settings):
    """What ``setup`` takes from the environment: ``WD_DI__KAFKA__BOOTSTRAP_SERVERS``, ``WD_DI__SIZE`` and so on."""

    wd_di: PoolSettings = PoolSettings()


class _GlobalPool(ProducerPool):
    """The pool as those have it who call the functions of this module, and have none at hand."""

    _reload_instead = "await asyncio.to_thread(wd_di.reload, ...)"


class _Place:
    """Where the pool is: taken by one ``setup`` at a time, free again after ``close``."""

    def __init__(self) -> None:
        self.pool: ProducerPool | None = None
        self._taken = False
        self._lock = threading.RLock()  # a signal handler may close

    def take(self) -> None:
        with self._lock:
            if self._taken:
                raise AlreadyConfiguredError("wd_di is set up already: call wd_di.close() before another setup")
            self._taken = True

    def free(self, pool: ProducerPool | None) -> None:
        """Forget this pool, which is closed; harmless when another has its place by now."""
        with self._lock:
            if self.pool is pool:
                self.pool = None
                container.pool.renew()
                self._taken = False

    def after_fork(self) -> None:
        """In the child no other thread goes on with its ``setup``, nor gives back the lock."""
        self._lock = threading.RLock()
        self._taken = self.pool is not None


_place = _Place()
renew_in_child("default pool", _place.after_fork)


def _set_up(**_: object) -> ProducerPool:
    if _place.pool is None:
        raise NotConfiguredError("wd_di isn't set up: call wd_di.setup() first")
    return _place.pool


class DefaultPool(PoolResource):
    """The pool of the last ``setup``; after its ``close`` it waits for the next one."""

    def renew(self) -> None:
        """Let go of the former pool."""
        self.shutdown()
        with self._lock:
            self._stopped = False


class DefaultContainer(containers.DeclarativeContainer):
    """What the functions of this module work; ``container`` is the one that they use.

    Attributes:
        settings: What ``setup`` starts from when it is given none: the environment.
        observer: Who is told what happens, through every ``setup`` and ``close``.
        pool: What was set up. Override it in tests: ``with wd_di.default.container.pool.override(fake)``.
    """

    settings: providers.Provider[PoolSettings] = providers.Factory(Environment).provided.wd_di
    # Not a singleton: tests that reset those would leave whoever subscribed with an observer that hears nothing.
    observer: providers.Provider[Observer] = providers.Object(Observer())
    pool: DefaultPool = DefaultPool(name=NAME, provides=_set_up)


container: DefaultContainer = DefaultContainer()

observer: Observer = container.observer()
"""Tells of the global pool's events, also of those of ``setup``: subscribe at any time."""


@settings_elsewhere("setup")
def setup(
    *,
    size: int | None = None,
    timeout_ms: int | None = None,
    configure: Configure | None = None,
    settings: PoolSettings | Mapping[str, object] | None = None,
) -> None:
    """Build the global pool: every clash of its settings shows now; its first use connects.

    That first checkout has ``timeout_ms`` for it, as every other. ``open_policy="fail"`` in the settings connects here
    and now instead.

    Args:
        size: How many producers the pool holds at most; 5 if neither this nor the settings say.
        timeout_ms: Milliseconds that a checkout may take; 5,000 likewise.
        configure: Called once for every zero-based index, with ``(config, index)`` or ``(config)``; may change
            ``config.kafka`` and ``config.deliver``.
        settings: All other settings. By default they are read from the environment, as
            ``WD_DI__KAFKA__BOOTSTRAP_SERVERS``.

    Raises:
        AlreadyConfiguredError: It is set up, and wasn't closed.
        SettingsError: An argument is wrong, or settings clash; as after any other failure, nothing is set up then.
        PoolOpenError: With ``open_policy="fail"``: it can't connect.
        ScopeError: With ``open_policy="fail"`` on a thread with a running event loop, which this would block.
    """
    _place.take()
    try:
        with Brief():
            if settings is None:
                refuse_undefined(NAME, container.settings)
            given = container.settings() if settings is None else settings
            _place.pool = _build(_with(checked_pool(NAME, given), size=size, timeout_ms=timeout_ms), configure)
    except BaseException:
        _place.free(None)
        raise


def _with(settings: PoolSettings, **given: int | None) -> PoolSettings:
    changes: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    if left_open(settings, "open_policy"):
        changes["open_policy"] = "background"
    return checked_pool(NAME, settings.model_copy(update=changes))


def _build(settings: PoolSettings, configure: Configure | None) -> ProducerPool:
    if settings.open_policy == "fail":
        _refuse_on_loop(settings)
    pool = _GlobalPool(settings, name=NAME, configure=configure, observer=container.observer())
    if settings.open_policy == "fail":
        try:
            pool.open()
        except BaseException:
            pool.close(timeout_ms=0, force=True)
            raise
    return pool


def _refuse_on_loop(settings: PoolSettings) -> None:
    """Refuse what ``open`` would, with a way out that needs no pool at hand."""
    refuse_in_trio(f"{NAME}: setup")
    if on_loop() and not settings.allow_blocking_in_loop:
        raise ScopeError(
            f'{NAME}: setup with open_policy="fail" would block the event loop that runs in this thread: await '
            "asyncio.to_thread(wd_di.setup, ...), leave out open_policy, so that the first use connects, or set "
            "allow_blocking_in_loop=True in a notebook"
        )


def producer(*, timeout_ms: int | None = None, **_foreign: Unpack[NoOthers]) -> Checkout:
    """Return a checkout of the global pool: ``with wd_di.producer() as producer``; see ``ProducerPool.producer``.

    Raises:
        NotConfiguredError: ``setup`` wasn't called.
    """
    return container.pool().producer(timeout_ms=timeout_ms, **_foreign)


def transaction(**options: Unpack[TransactionOptions]) -> TransactionScope:
    """Return a transaction to come: ``with wd_di.transaction() as tx``; options as of ``ProducerPool.transaction``.

    Raises:
        NotConfiguredError: ``setup`` wasn't called.
    """
    return container.pool().transaction(**options)


def reload(
    settings: PoolSettings | Mapping[str, object] | None = None,
    *,
    timeout_ms: int | None = None,
    **_foreign: Unpack[NoOthers],
) -> None:
    """Replace every producer, as ``ProducerPool.reload`` does; nothing if the pool isn't set up.

    Raises:
        ScopeError: On a thread with a running event loop: ``await asyncio.to_thread(wd_di.reload)`` there.
    """
    if _foreign:
        no_keyword("reload", _foreign, ["settings"])
    pool = _current()
    if pool is not None:
        pool.reload(settings, timeout_ms=timeout_ms)


def stats() -> PoolStats | None:
    """Return one consistent picture of the pool; ``None`` if it isn't set up."""
    pool = _current()
    return None if pool is None else pool.stats()


def is_active() -> bool:
    """Whether the pool is set up: from the end of ``setup`` to the end of ``close``."""
    return _current() is not None


def close(*, timeout_ms: int | None = None, force: bool = False, **_foreign: Unpack[NoOthers]) -> CloseReport | None:
    """Drain and close the pool, as ``ProducerPool.close`` does; afterwards it can be set up anew.

    While it drains, a function inside a transaction still gets that one, so that it can finish.

    Args:
        timeout_ms: Milliseconds for the whole; ``None`` is the pool's ``close_timeout_ms``.
        force: Take from their holders what they still hold at the deadline.

    Returns:
        What was flushed, given up and is still held; ``None`` if the pool wasn't set up.
    """
    if _foreign:
        no_keyword("close", _foreign, ["force"])
    pool = _place.pool
    if pool is None:
        return None
    try:
        return pool.close(timeout_ms=timeout_ms, force=force)
    finally:
        _place.free(pool)


def _current() -> ProducerPool | None:
    """Return the pool, or what overrides it, without opening it."""
    return container.pool() if container.pool.overridden else _place.pool
