"""What becomes of librdkafka's own lines: few of them are logged, and those that matter.

Each producer of a pool says for itself, and at every try, that a broker is away. Here that becomes one line when it
goes and one when it is back. Of any other kind there is one in ten seconds. What is left out goes to DEBUG.
"""

from __future__ import annotations

import logging
import re
from time import monotonic
from typing import TYPE_CHECKING, Any

from wd_di._errorlog import LOCK, Limiter, and_more
from wd_di._kafka.callbacks import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger("wd_di.librdkafka")
log.addHandler(logging.NullHandler())  # its reconnect attempts are no news for a program that configured no logging

LOOK_SHARE = 0.1
"""Share of the time for which a broker has been away, after which its return is looked for again."""
LOOK_MIN, LOOK_MAX = 1.0, 60.0
"""Seconds between two looks."""
ANSWER_MAX = 5.0
"""Seconds that one look waits for an answer."""
QUIET = 45.0
"""Seconds without a failure after which a broker is taken as back, though the other ones never missed it.

librdkafka keeps to itself for 30 s what a broker's connection says again.
"""
ECHO = 3.0
"""Seconds after a return in which lines from before may still come: they wait until somebody serves their producer."""
SETTLING = 10.0
"""Seconds for which it is no warning that a coordinator doesn't know its transactional ids yet."""

_AWAY = re.compile(
    r"\[thrd:[^\]]*\]: (?:\w+Coordinator: )?(?:(?:\w+://)?(?P<address>\S+:\d+)(?:/(?P<id>\S+))?: )?"
    r"(?P<cause>(?:Connect to |Connection setup timed out|Failed to resolve |\d+ request\(s\) timed out|"
    r"Disconnected(?: \(|: (?:connection |hung up|Hang up|Error condition)))"
    r"(?!.*(?:might be caused by|SSL|AUTH|SASL))"  # somebody is there, and the settings don't fit
    r".*)",
    re.DOTALL,
)
_EARLY = re.compile(
    r"\[thrd:[^\]]*\]: (?P<text>(?P<protocol>\w+(?=://))?"
    r".*: Disconnected\b.* in state (?P<state>APIVERSION_QUERY|UP)\b.*)",
    re.DOTALL,
)
_SETTLING = re.compile(r"Failed to acquire \w+ PID from broker .*(?:Not c|C)oordinator.*: retrying")
_REFUSED = re.compile(r"Connection reset by peer|Broken pipe")
_WHEN = re.compile(r" \(after \d+ms in state [^()]*(?:\(s\)[^()]*)?\)")
_WHO = re.compile(r"^\[thrd:[^\]]*\]: ")
_PARTS = 3  # of a line: facility, producer and text
_NUMBER = re.compile(r"(?<![\w.:-])\d+(?:ms)?(?![\w.:-])")


class Outage:
    """A broker that can't be reached, for as long as that lasts."""

    __slots__ = ("address", "causes", "failed_at", "ids", "left_out", "logger", "look_at", "missed", "silent", "since")

    def __init__(self, address: str, logger: Any, now: float) -> None:
        self.address = address
        self.logger = logger
        self.ids: set[str | None] = set()
        self.causes: set[str] = set()
        self.left_out = 0
        self.missed = False  # the cluster's answer was without it, or there was none
        self.silent = False  # there was none
        self.since = self.failed_at = now
        self.look_at = now + LOOK_MIN


class Lines:
    """The lines of one pool's producers of one cluster.

    Args:
        pool: The pool's name.
        clock: Monotonic time in seconds.
    """

    def __init__(self, pool: str, clock: Callable[[], float] = monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._limiter = Limiter()
        self._outages: dict[str, Outage] = {}
        self._over: dict[str, tuple[float, Outage]] = {}  # by address, each with its end
        self._looking = False
        self._settling_since = self._settling_at = -SETTLING

    def to(self, logger: Any = None) -> Writer:
        """Return what confluent-kafka takes for a logger; what is left of the lines goes to this one."""
        return Writer(self, log if logger is None else logger)

    # -- one line --------------------------------------------------------------------------------

    def judge(self, logger: Any, level: int, facility: str, text: str) -> tuple[int, str | None, str]:
        """Return at which level to log a line, what to say in its place, and what to add to it."""
        with LOCK:
            now = self._clock()
            away, kind = _AWAY.match(text) if facility == "FAIL" else None, _cause(_WHO.sub("", text))
            if away is not None and level <= logging.INFO:  # mostly a connection that nobody used, and one of several
                kind = str(away["address"])
            elif away is not None and (outage := self._outage(away, logger, now)) is not None:
                return self._failed(outage, level, _cause(away["cause"]), now)
            elif level == logging.WARNING and _SETTLING.search(text):
                level = self._settling_level(now)
            left_out = self._limiter.admit(f"{level} {facility} {kind}", now)
            return (logging.DEBUG, None, "") if left_out is None else (level, None, and_more(left_out))

    def _outage(self, away: re.Match[str], logger: Any, now: float) -> Outage | None:
        """Return the one that a line is about, a new one if need be; without an address, one of the same cause."""
        address = away["address"]
        if address is None:
            same = _reason(_cause(away["cause"]))
            return next((each for each in self._outages.values() if same in each.causes), None)
        over, outage = self._over.get(address, (-ECHO, None))
        if outage is None or now - over >= ECHO:
            outage = self._outages.setdefault(address, Outage(address, logger, now))
            outage.ids.add(away["id"])
        return outage

    def _failed(self, outage: Outage, level: int, cause: str, now: float) -> tuple[int, str | None, str]:
        first, known = not outage.causes, _reason(cause) in outage.causes
        outage.causes.add(_reason(cause))
        outage.failed_at = now
        outage.left_out += known
        if known:
            return logging.DEBUG, None, ""
        return level, f"{self._pool}: broker {outage.address} is away: {cause}" if first else None, ""

    def _settling_level(self, now: float) -> int:
        """Return the level of a line that every new cluster brings, and that only matters if it doesn't end."""
        if now - self._settling_at >= SETTLING:
            self._settling_since = now
        self._settling_at = now
        return logging.INFO if now - self._settling_since < SETTLING else logging.WARNING

    # -- the end of an outage --------------------------------------------------------------------

    @property
    def away(self) -> bool:
        """Whether any broker is."""
        return bool(self._outages)

    def due(self) -> float | None:
        """Return for how many seconds to ask now which brokers there are, or ``None``; :meth:`looked` has to follow."""
        with LOCK:
            if self._looking:
                return None
            now = self._clock()
            waiting = [each for each in self._outages.values() if each.look_at <= now]
            self._looking = bool(waiting)
            return min(ANSWER_MAX, max(_pause(each, now) for each in waiting)) if waiting else None

    def looked(self, brokers: Mapping[str, str] | None) -> None:
        """Take note of who is there, by id and address; ``None`` if nobody has answered."""
        with LOCK:
            self._looking, now = False, self._clock()
            told = [(each, self._end(each, brokers, now)) for each in self._outages.values()]
            self._over = {address: over for address, over in self._over.items() if now - over[0] < ECHO}
            for each, text in told:
                each.look_at = now + _pause(each, now)
                if text is not None:
                    self._over[each.address] = (now, self._outages.pop(each.address))
        for each, text in told:
            if text is not None:  # at the level at which its beginning is seen, too, where only warnings are
                guarded("logger", each.logger.log, logging.WARNING, "%s", f"{self._pool}: {text}{_left_out(each)}")

    def end(self) -> None:
        """The pool is closed, and nobody looks any more."""
        with LOCK:
            open_, self._outages, now = tuple(self._outages.values()), {}, self._clock()
        for each in open_:
            text = f"{self._pool}: closed while broker {each.address} is away, for {now - each.since:.1f} s"
            guarded("logger", each.logger.log, logging.INFO, "%s", f"{text}{_left_out(each)}")

    def _end(self, outage: Outage, brokers: Mapping[str, str] | None, now: float) -> str | None:
        """Return what to say of the end of an outage, if it has ended."""
        seconds, quiet = now - outage.since, now - outage.failed_at > QUIET
        if brokers is None:
            outage.missed = outage.silent = True
        elif outage.address in brokers.values() or not outage.ids.isdisjoint(brokers):
            if outage.missed or len(brokers) == 1:  # then it has answered itself
                return f"broker {outage.address} is back after {seconds:.1f} s"
            if quiet:
                return f"broker {outage.address} is back, it seems: for {now - outage.failed_at:.0f} s nothing failed"
        elif outage.ids == {"bootstrap"} and (outage.silent or quiet):  # an alias perhaps, which nobody will ever list
            return f"the cluster answers after {seconds:.1f} s, without a broker at {outage.address}"
        else:
            outage.missed = True
        return None


class Writer:
    """A logger as confluent-kafka wants it; what the true one raises is logged, and comes out of no call."""

    def __init__(self, lines: Lines, logger: Any) -> None:
        self._lines = lines
        self._logger = logger

    def log(self, level: int, message: str, *args: object) -> None:
        """Log one line, or leave it out."""
        guarded("logger", self._log, level, message, *args)

    def _log(self, level: int, message: str, *args: object) -> None:
        more = ""
        if level > logging.DEBUG and len(args) == _PARTS:
            level, instead, more = self._lines.judge(self._logger, level, str(args[0]), str(args[2]))
            if instead is not None:
                message, args = "%s", (instead,)
        self._logger.log(level, f"{message}%s" if more else message, *args, *([more] if more else ()))


def guess(line: Sequence[object]) -> str | None:
    """Return why a broker may have ended a new connection without a word, by a line of a client that has met none.

    No error says so: brokers do that with whoever speaks another protocol than their port.
    """
    found = _EARLY.match(str(line[-1])) if len(line) == _PARTS + 2 else None
    if found is None:
        return None
    protocol, at_once = found["protocol"] or "plaintext", found["state"] == "APIVERSION_QUERY"
    if at_once and protocol.endswith("plaintext"):
        return f"{found['text']}; does that port speak TLS? security.protocol is {protocol}"
    if not at_once and not protocol.startswith("sasl"):
        return f"{found['text']}; does that port want a login, by SASL? security.protocol is {protocol}"
    return None


def _cause(text: str) -> str:
    """What lines of one kind have in common: not when it was, nor how many."""
    return _NUMBER.sub("N", _WHEN.sub("", text))


def _reason(cause: str) -> str:
    """The same for what says no more than another: a port that closes refuses, or resets what it had begun to take."""
    return _REFUSED.sub("Connection refused", cause)


def _pause(outage: Outage, now: float) -> float:
    return min(LOOK_MAX, max(LOOK_MIN, (now - outage.since) * LOOK_SHARE))


def _left_out(outage: Outage) -> str:
    lines = "line" if outage.left_out == 1 else "lines"
    return f" ({outage.left_out} {lines} left out)" if outage.left_out else ""
