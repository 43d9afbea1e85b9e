"""What stands between clients and each broker, knows Kafka's frames, and does harm on demand: `FaultProxy`.

``LocalKafka(advertise=proxy.advertise)`` makes all clients go through it; the brokers reach each other without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tests.faults.rules import Action, Request, Rule, Rules
from wd_di.testing._kraft import HOST, free_ports

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Callable, Coroutine, Iterable, Iterator

T = TypeVar("T")

_DEADLINE_S = 10
_ATTEMPTS = 5
_BACKLOG = 1000
_LENGTH = 4
_LIMIT = 1024 * 1024
_CHUNK = 32 * 1024
# Of a slow link: what the kernel would buffer must not hide from a client that its bytes haven't arrived.
_SMALL_BUFFER = 64 * 1024


class FaultProxy:
    """A TCP proxy for each broker, on loopback, served by a thread of its own.

    It does what it is told by `on` to single requests and replies, and by the other methods to all that passes. What is
    said of a broker is said of all of them where ``broker`` isn't given. Frames must be readable: no TLS.

    Attributes:
        requests: How many requests came of each broker's id and API key.
        connections: How many connections clients have made to each broker's id, those that were refused not counted.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[int, int]] = Counter()
        self.connections: Counter[int] = Counter()
        self._rules = Rules()
        self._links: dict[int, _Link] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="fault proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_DEADLINE_S)
        self._loop.close()

    def advertise(self, broker: int, port: int) -> str:
        """Stand in front of this broker, and return where: what `LocalKafka` takes. Again: it has another port now."""
        return self._do(self._advertise(broker, port))

    # -- single requests ---------------------------------------------------------------------------

    def on(
        self,
        apis: int | Iterable[int],
        action: Action,
        *,
        times: int | None = 1,
        skip: int = 0,
        ms: float = 0,
        broker: int | None = None,
        client: str = "",
    ) -> Rule:
        """Do something to the next requests of this kind, or to their replies.

        Args:
            apis: One or several API keys; none at all means any.
            action: What is done.
            times: To how many requests; ``None`` is until the rule is lifted.
            skip: How many are let pass before.
            ms: How long a delay is. What comes behind it on the connection waits, too.
            broker: Only on the way to the broker with this id.
            client: Only of clients whose ``client.id`` begins so.

        Returns:
            The rule, to wait until it was obeyed and to lift it.
        """
        keys = (apis,) if isinstance(apis, int) else apis
        rule = Rule(action, keys, times=times, skip=skip, ms=ms, broker=broker, client=client)
        self._rules.add(rule)
        return rule

    # -- whole brokers -----------------------------------------------------------------------------

    def freeze(self, broker: int | None = None) -> None:
        """Let nothing pass, either way. Connections stay, and new ones are accepted, as by a broker that hangs."""
        self._each(broker, _Link.freeze)

    def thaw(self, broker: int | None = None) -> None:
        """Let all pass that was held up, and what comes."""
        self._each(broker, _Link.thaw)

    def refuse(self, broker: int | None = None) -> None:
        """Accept no new connection. Those that are there go on: `cut` ends them."""
        self._each(broker, _Link.refuse)

    def accept(self, broker: int | None = None) -> None:
        """Accept new connections again."""
        self._each(broker, _Link.accept)

    def cut(self, broker: int | None = None) -> None:
        """End every connection that is there."""
        self._each(broker, _Link.cut)

    def lag(self, round_trip_ms: float, broker: int | None = None) -> None:
        """Let each request and each reply take half of that longer from now on; 0 ends it."""

        async def lag(link: _Link) -> None:
            link.lag = round_trip_ms / 2000

        self._each(broker, lag)

    def throttle(self, bytes_per_s: int | None, broker: int | None = None) -> None:
        """Take no more than that of each connection, each way, from now on; ``None`` ends it."""

        async def throttle(link: _Link) -> None:
            link.bytes_per_s = bytes_per_s

        self._each(broker, throttle)

    def reset(self) -> None:
        """Lift all rules and let everything pass at once. What was counted stays."""
        self._rules.lift()
        self.lag(0)
        self.throttle(None)
        self.thaw()
        self.accept()

    def open_connections(self, broker: int | None = None) -> int:
        """Return how many connections there are just now."""
        return sum(len(link.open) for link in self._chosen(broker))

    # -- inside ------------------------------------------------------------------------------------

    def rule(self, request: Request) -> Rule | None:
        """Count a request; what is to be done with it."""
        self.requests[request.broker, request.api] += 1
        return self._rules.of(request)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _stop(self) -> None:
        for link in self._links.values():
            await link.refuse()
            await link.cut()
        mine = asyncio.current_task()
        rest = [task for task in asyncio.all_tasks() if task is not mine]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _advertise(self, broker: int, port: int) -> str:
        link = self._links.get(broker)
        if link is None:
            link = self._links[broker] = _Link(self, broker)
            await link.listen()
        link.target = port
        return f"{HOST}:{link.port}"

    def _chosen(self, broker: int | None) -> list[_Link]:
        return list(self._links.values()) if broker is None else [self._links[broker]]

    def _each(self, broker: int | None, do: Callable[[_Link], Coroutine[Any, Any, None]]) -> None:
        for link in self._chosen(broker):
            self._do(do(link))

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_DEADLINE_S)


class _Link:
    """The way to one broker.

    Attributes:
        port: Where clients find it; the same for life.
        target: Where the broker is.
        open: The connections there are.
        lag: Seconds that each request and each reply takes longer.
        bytes_per_s: What passes at most of each connection, each way.
        flows: Whether anything passes.
    """

    def __init__(self, proxy: FaultProxy, broker: int) -> None:
        self.broker = broker
        self.port = self.target = 0
        self.open: set[_Connection] = set()
        self.lag = 0.0
        self.bytes_per_s: int | None = None
        self.flows = asyncio.Event()
        self.flows.set()
        self.proxy = proxy
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Future[None] | None = None
        self._served: set[asyncio.Future[None]] = set()

    async def listen(self) -> None:
        """Take a port: below those that the system gives to clients, which could take it while we refuse."""
        for attempt in range(_ATTEMPTS):
            [self.port] = free_ports(1)
            try:
                await self.accept()
            except OSError:  # somebody else was quicker
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    async def accept(self) -> None:
        if self._listener is None:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
            try:
                listener.bind((HOST, self.port))
            except OSError:
                listener.close()
                raise
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            self._listener = listener
            self._accepting = asyncio.ensure_future(self._accept(listener))

    async def refuse(self) -> None:
        if self._listener is not None and self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._listener.close()
            self._listener = None

    async def freeze(self) -> None:
        self.flows.clear()

    async def thaw(self) -> None:
        self.flows.set()

    async def cut(self) -> None:
        for connection in tuple(self.open):
            connection.cut()

    async def _accept(self, listener: socket.socket) -> None:
        # By hand: a server of asyncio's that is closed forgets, open, a connection that it has just accepted.
        while True:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            self.proxy.connections[self.broker] += 1
            serving = asyncio.ensure_future(self._serve(accepted))
            self._served.add(serving)
            serving.add_done_callback(self._served.discard)

    async def _serve(self, accepted: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=accepted, limit=_LIMIT)
        connection = _Connection(self, reader, writer)
        self.open.add(connection)
        try:
            await connection.serve()
        finally:
            self.open.discard(connection)
            connection.cut()


class _Connection:
    """One client's connection, and ours to the broker in its place."""

    def __init__(self, link: _Link, reader: StreamReader, writer: StreamWriter) -> None:
        self._link = link
        self._reader = reader
        self._writers = [writer]
        self._promised: dict[int, Rule] = {}
        self._silent = False

    def cut(self) -> None:
        """End both sides at once; also where a forked process has copies of these sockets."""
        for writer in self._writers:
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            writer.transport.abort()

    async def serve(self) -> None:
        """Carry requests and replies until one side ends."""
        await self._link.flows.wait()
        try:
            reader, writer = await asyncio.open_connection(HOST, self._link.target, limit=_LIMIT)
        except OSError:
            return
        self._writers.append(writer)
        there, back = _Way(self._link, writer), _Way(self._link, self._writers[0])
        asking, delivering = asyncio.ensure_future(self._requests(there)), asyncio.ensure_future(there.deliver())
        tasks: list[asyncio.Future[Any]] = [asking, delivering]
        tasks += [asyncio.ensure_future(work) for work in (self._replies(reader, back), back.deliver())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if asking.done() and asking.result():  # what a client has sent arrives though it is gone
                tasks.append(asyncio.ensure_future(there.emptied()))
                await asyncio.wait([delivering, tasks[-1]], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _requests(self, way: _Way) -> bool:
        """Carry requests; whether the client ended it."""
        with _until_the_end():
            while True:
                frame = await self._frame(self._reader)
                request = Request.parse(self._link.broker, frame)
                rule = self._link.proxy.rule(request)
                if rule is not None and rule.of_requests:
                    rule.hit()
                    if rule.action == "cut before":
                        return False
                    if rule.action == "swallow request":
                        continue
                elif rule is not None:
                    self._promised[request.correlation] = rule
                await way.send(frame, rule.seconds if rule is not None and rule.of_requests else 0.0)
        return True

    async def _replies(self, reader: StreamReader, way: _Way) -> None:
        with _until_the_end():
            while True:
                frame = await self._frame(reader)
                rule = self._promised.pop(int.from_bytes(frame[:4], signed=True), None)
                if rule is not None:
                    rule.hit()
                    if rule.action == "cut after":
                        return
                    self._silent = self._silent or rule.action == "go silent"
                if self._silent or (rule is not None and rule.action == "swallow reply"):
                    continue
                await way.send(frame, rule.seconds if rule is not None else 0.0)

    async def _frame(self, reader: StreamReader) -> bytes:
        """Read what stands behind the next length."""
        await self._link.flows.wait()
        length = int.from_bytes(await reader.readexactly(_LENGTH))
        if self._link.bytes_per_s is None:
            return await reader.readexactly(length)
        parts, left = [], length
        while left:
            part = await reader.readexactly(min(left, _CHUNK))
            parts.append(part)
            left -= len(part)
            if rate := self._link.bytes_per_s:
                await asyncio.sleep(len(part) / rate)
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _Parcel:
    due: float
    frame: bytes


class _Way:
    """Requests or replies on the way: in order, each not before its time."""

    def __init__(self, link: _Link, writer: StreamWriter) -> None:
        self._link = link
        self._writer = writer
        self._waiting: asyncio.Queue[_Parcel] = asyncio.Queue()
        self._underway = 0

    async def send(self, frame: bytes, delay: float) -> None:
        """Send it, at once or after a while; what was sent before arrives before."""
        delay += self._link.lag
        if delay == 0 and not self._underway and self._link.flows.is_set():
            await self._write(frame)
        else:
            self._underway += 1
            self._waiting.put_nowait(_Parcel(time.monotonic() + delay, frame))

    async def deliver(self) -> None:
        """Send what waits."""
        with _until_the_end():
            while True:
                parcel = await self._waiting.get()
                await asyncio.sleep(max(0.0, parcel.due - time.monotonic()))
                await self._link.flows.wait()
                await self._write(parcel.frame)
                self._underway -= 1
                self._waiting.task_done()

    async def emptied(self) -> None:
        """Wait until all of it is sent."""
        await self._waiting.join()

    async def _write(self, frame: bytes) -> None:
        self._writer.write(len(frame).to_bytes(_LENGTH) + frame)
        await self._writer.drain()


@contextlib.contextmanager
def _until_the_end() -> Iterator[None]:
    """Either side may end the connection at any time."""
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        yield
