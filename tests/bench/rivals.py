"""Which pools would one write, or take, instead? Each lends some items; none of them knows what they are."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections import deque
from contextlib import contextmanager
from queue import LifoQueue
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    Lend = Callable[[], AbstractContextManager[Any]]

T = TypeVar("T")
WAIT_S = 30


class Lending(Protocol[T]):
    """What can be lent from by hand."""

    def take(self) -> T:
        """Return an item, when there is one."""

    def put(self, item: T) -> None:
        """Take it back."""


class Lent(Generic[T]):
    """An item for the length of a block."""

    __slots__ = ("item", "pool")

    def __init__(self, pool: Lending[T]) -> None:
        self.pool = pool

    def __enter__(self) -> T:
        self.item = self.pool.take()
        return self.item

    def __exit__(self, *_: object) -> None:
        self.pool.put(self.item)


class Idle(Generic[T]):
    """The least that lends: a deque and a lock. It can't wait, so it is for those who never have to."""

    __slots__ = ("idle", "lock")

    def __init__(self, items: Iterable[T]) -> None:
        self.idle, self.lock = deque(items), threading.Lock()


class Borrowed(Generic[T]):
    """The same as a block, in as few steps as Python has."""

    __slots__ = ("item", "pool")

    def __init__(self, pool: Idle[T]) -> None:
        self.pool = pool

    def __enter__(self) -> T:
        with self.pool.lock:
            self.item = self.pool.idle.popleft()
        return self.item

    def __exit__(self, *_: object) -> None:
        with self.pool.lock:
            self.pool.idle.append(self.item)


class BorrowedAsync(Borrowed[T]):
    """Its twin in coroutines."""

    __slots__ = ()

    async def __aenter__(self) -> T:
        with self.pool.lock:
            self.item = self.pool.idle.popleft()
        return self.item

    async def __aexit__(self, *_: object) -> None:
        with self.pool.lock:
            self.pool.idle.append(self.item)


class AsyncIdle(Generic[T]):
    """A pool of one loop only: no lock, and a future for who has to wait."""

    __slots__ = ("idle", "waiting")

    def __init__(self, items: Iterable[T]) -> None:
        self.idle = deque(items)
        self.waiting: deque[asyncio.Future[T]] = deque()


class AsyncBorrowed(Generic[T]):
    """The same as a block of a coroutine."""

    __slots__ = ("item", "pool")

    def __init__(self, pool: AsyncIdle[T]) -> None:
        self.pool = pool

    async def __aenter__(self) -> T:
        if self.pool.idle:
            self.item = self.pool.idle.popleft()
        else:
            turn: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            self.pool.waiting.append(turn)
            self.item = await turn
        return self.item

    async def __aexit__(self, *_: object) -> None:
        if self.pool.waiting:
            self.pool.waiting.popleft().set_result(self.item)
        else:
            self.pool.idle.append(self.item)


class Barging(Generic[T]):
    """A deque and a condition: whoever is awake takes what is there, and who waits may wait for ever."""

    def __init__(self, items: Iterable[T]) -> None:
        self._idle, self._there = deque(items), threading.Condition()

    def take(self) -> T:
        """Return an item, when there is one."""
        with self._there:
            while not self._idle:
                self._there.wait(WAIT_S)
            return self._idle.pop()

    def put(self, item: T) -> None:
        """Take it back."""
        with self._there:
            self._idle.append(item)
            self._there.notify()


class Fair(Generic[T]):
    """First come, first served: a lock for each waiter, and what comes back is handed to the first of them."""

    def __init__(self, items: Iterable[T]) -> None:
        self._idle, self._lock = deque(items), threading.Lock()
        self._waiting: deque[tuple[threading.Lock, list[T]]] = deque()

    def take(self) -> T:
        """Return an item, in turn."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            turn: threading.Lock = threading.Lock()
            given: list[T] = []
            turn.acquire()  # released by whoever hands over
            self._waiting.append((turn, given))
        turn.acquire(timeout=WAIT_S)
        return given[0]

    def put(self, item: T) -> None:
        """Take it back."""
        with self._lock:
            if not self._waiting:
                self._idle.append(item)
                return
            turn, given = self._waiting.popleft()
        given.append(item)
        turn.release()


class Lifo(Generic[T]):
    """The queue of the standard library, as most hand-written pools have it."""

    def __init__(self, items: Iterable[T]) -> None:
        self._queue: LifoQueue[T] = LifoQueue()
        for item in items:
            self._queue.put(item)
        self.take: Callable[[], T] = self._queue.get
        self.put: Callable[[T], None] = self._queue.put


class Stub:
    """A connection to no database, which is all that those pools need for lending it."""

    closed = autocommit = False

    @classmethod
    def connect(cls, *_: object, **__: object) -> Stub:
        """Return another one."""
        return cls()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to commit."""

    def rollback(self) -> None:
        """Nothing to undo."""

    def close(self) -> None:
        """Nothing to close."""


@contextmanager
def psycopg_pool(size: int) -> Iterator[dict[str, Lend]]:
    """Give psycopg's pool by its name, if it is installed."""
    if not importlib.util.find_spec("psycopg_pool"):
        yield {}
        return
    from psycopg import pq
    from psycopg_pool import ConnectionPool

    class Connection(Stub):
        class pgconn:  # noqa: N801  (that is how psycopg calls it)
            transaction_status = pq.TransactionStatus.IDLE

    with ConnectionPool(
        "", connection_class=Connection, min_size=size, max_size=size, timeout=WAIT_S, open=True
    ) as pool:
        pool.wait()
        yield {PSYCOPG: pool.connection}


@contextmanager
def queue_pool(size: int) -> Iterator[dict[str, Lend]]:
    """Give SQLAlchemy's pool by its name, if it is installed."""
    if not importlib.util.find_spec("sqlalchemy"):
        yield {}
        return
    from sqlalchemy.pool import QueuePool

    pool = QueuePool(Stub, pool_size=size, max_overflow=0, timeout=WAIT_S)

    class Lent:
        __slots__ = ("connection",)

        def __enter__(self) -> Any:
            self.connection = pool.connect()
            return self.connection

        def __exit__(self, *_: object) -> None:
            self.connection.close()

    yield {SQLALCHEMY: Lent}
    pool.dispose()


PSYCOPG, SQLALCHEMY = "psycopg_pool", "SQLAlchemy's QueuePool"
