"""What librdkafka calls of its user's code, in a form that can't hide the outcome of a call of ours.

An exception inside of a callback would come out of whichever call serves it, a commit for example, in place of its own
answer. What ``oauth_cb`` raises is the opposite: confluent-kafka drops it.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from wd_di._concurrency.uninterrupted import uninterrupted
from wd_di._errorlog import is_from_outside
from wd_di._kafka.interrupts import hold
from wd_di._settings.names import revealed
from wd_di.events import log_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LEAST, _MOST = 2, 4  # parts of what oauth_cb returns

TOKEN_PATIENCE = 10.0
"""Seconds that ``oauth_cb`` may take for the first token; confluent-kafka waits as long."""


def guarded(name: str, call: Callable[..., object], *args: object) -> None:
    """Call it; an exception is logged, unless it may be a signal handler's: no call of librdkafka's is under way."""
    try:
        call(*args)
    except BaseException as error:
        if is_from_outside(error):
            raise
        log_error(name, f"{name} failed", error)


class LaterLogger:
    """A logger that notes the lines, and logs them when the call has ended from inside of which they came.

    A handler may hold a lock, wait, or ship its lines to Kafka, by the very producer whose call it would keep waiting.

    Args:
        logger: Where they go; its ``log`` raises nothing but what came from outside.
        heard: Told of each of them first.
    """

    def __init__(self, logger: Any, heard: Callable[[tuple[Any, ...]], None] = lambda _: None) -> None:
        self.lines: deque[tuple[Any, ...]] = deque()
        self._logger = logger
        self._heard = heard
        self._writing: set[int] = set()

    @uninterrupted
    def log(self, *line: Any) -> None:
        """Called by librdkafka."""
        try:
            self.lines.append(line)
        except BaseException as raised:  # noqa: BLE001  (as in Delivery.arrive)
            hold(raised)

    def write(self) -> None:
        """Log what was noted so far; what comes of that is for the next time, or there might be no end."""
        thread = threading.get_ident()
        if thread in self._writing:
            return
        try:
            self._writing.add(thread)
            for _ in range(len(self.lines)):
                line = self.lines.popleft()
                self._heard(line)
                self._logger.log(*line)
        except IndexError:  # another thread writes, too
            return
        finally:
            self._writing.discard(thread)


class ConsumerSettings:
    """A logger that keeps the names of consumer settings, of which librdkafka says that a producer ignores them."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def log(self, _level: int, message: str, *args: object) -> None:
        """Look at one line."""
        self.names += re.findall(r"property (\S+) is a consumer property", message % args)


class TokenSource:
    """``oauth_cb``, asked for the first token before there is a client.

    Without a token confluent-kafka would wait ten seconds for it, and then not say what has failed.

    Args:
        config: librdkafka's settings, ``oauth_cb`` among them.

    Attributes:
        failure: Why there is no token, or no new one.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        self.failure: str | None = None
        self._ask: Any = config["oauth_cb"]
        self._first: list[Any] = []
        if config.get("sasl.mechanism") != "OAUTHBEARER" or "sasl" not in str(config.get("security.protocol")):
            self.failure = (
                "oauth_cb would never be asked: set sasl.mechanism=OAUTHBEARER, and sasl_ssl or sasl_plaintext as "
                "security.protocol"
            )
            return
        self.failure = f"oauth_cb hasn't answered within {TOKEN_PATIENCE:g} s"
        own = (config.get("sasl.oauthbearer.config"),)
        thread = threading.Thread(target=self._prepare, args=own, name="wd_di-oauth_cb", daemon=True)
        thread.start()
        thread.join(TOKEN_PATIENCE)

    def _prepare(self, config: object) -> None:
        try:
            token = self._asked(config)
        except BaseException:  # noqa: BLE001  (it is noted, and told on the thread that waits)
            return
        self._first.append(token)

    def __call__(self, config: object) -> Any:
        """Answer librdkafka, on a thread of its own; an exception makes it ask again, ten seconds later."""
        return self._first.pop() if self._first else self._asked(config)

    def _asked(self, config: object) -> Any:
        try:
            answer = self._ask(revealed(config))
            _check_token(answer)
        except BaseException as error:
            self.failure = f"oauth_cb failed: {type(error).__name__}: {error}"
            log_error("oauth_cb", "oauth_cb failed", error)
            raise
        self.failure = None
        return answer


def _check_token(answer: object) -> None:
    """Refuse what confluent-kafka would stumble over: it leaves its own thread with an exception set."""
    expected = "oauth_cb returns (token, expiry) or (token, expiry, principal, extensions)"
    if not isinstance(answer, tuple) or not _LEAST <= len(answer) <= _MOST:
        raise TypeError(f"{expected}, not {type(answer).__name__}")
    for value, kind in zip(answer, (str, int | float, str, dict), strict=False):
        if not isinstance(value, kind):
            raise TypeError(f"{expected}, and among these is a {type(value).__name__}")
    extensions: dict[object, object] = dict(*answer[3:])
    texts = [answer[0], *answer[2:3], *extensions, *extensions.values()]
    if not all(isinstance(text, str) and "\0" not in text and text.isprintable() for text in texts):
        raise ValueError("the token, the principal and the extensions are text without control characters")
    if answer[1] <= time.time():
        raise ValueError("the token's expiry must lie in the future, in seconds since 1970: time.time() + 300")
