"""How a call into librdkafka is made, and what is heard from inside of it."""

from __future__ import annotations

import math
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any, TypeVar

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, cimpl

from wd_di._concurrency.greenlets import yielding
from wd_di._concurrency.uninterrupted import uninterrupted
from wd_di._forks import leave_to_parent, renew_in_child
from wd_di._kafka.callbacks import LaterLogger, TokenSource, guarded
from wd_di._kafka.interrupts import hold, is_lost
from wd_di._kafka.kept import Gone, Kept, empty, forget_frames, taken
from wd_di._kafka.lines import Lines, guess
from wd_di._kafka.nested import Calls, NestedCallError
from wd_di._kafka.port import BREATH, Fault, FaultKind, Verdict
from wd_di._kafka.topics import PATIENT_MS, PROPAGATION_MS, Topics
from wd_di._kafka.translation import (
    ALL_BROKERS_DOWN,
    LOGIN_ENDING,
    OUTDATED,
    Translator,
    code_of,
    denies,
    is_fatal,
    reveal,
)
from wd_di._kafka.troubles import LASTING, Hearing, Siblings, unanswered
from wd_di.errors import ForkedPoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wd_di._kafka.ended import OneCall
    from wd_di._kafka.port import Answers, Verdict

R = TypeVar("R")

CLOSING = 1.0
"""Seconds that a close of what is answered takes at most, but for slow DNS."""

_SAYS_CLOSED = "been closed"
"""What confluent-kafka says to each call of a client that was closed, or is about to be."""

_PROPAGATION = "topic.metadata.propagation.max.ms"


class Handle(ABC):
    """One of librdkafka's producers: errors of its calls are :class:`Fault`, and its callbacks only note what came.

    Args:
        config: librdkafka's settings under their dotted names; secrets may still be wrapped.
        transactional_id: The id, if the client is transactional.
        answers: Where the answers to its records come together.
        statistics: Called with librdkafka's JSON from :meth:`poll`; ``None`` switches statistics off.
        trouble: Called with the text of each error that concerns no call: brokers down, authentication.
        patient: No broker can be reached yet: an unknown topic gets librdkafka's own time to appear. That runs from its
            first record on, reachable or not, and a broker that creates topics couldn't have made it.
        siblings: The pool's clients of the same cluster.
        lines: What becomes of the lines that they log.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        transactional_id: str | None,
        answers: Answers,
        *,
        statistics: Callable[[str], None] | None = None,
        trouble: Callable[[Exception], None] | None = None,
        patient: bool = False,
        siblings: Siblings | None = None,
        lines: Lines | None = None,
    ) -> None:
        self.transactional_id = transactional_id
        self.fault: Fault | None = None
        self.topics = Topics(patient=_number(config, _PROPAGATION, 0) > PROPAGATION_MS)
        self.in_transaction = False
        self.lines = lines or Lines("a pool")
        self._answers = answers
        self._hearing = Hearing(unanswered(config))
        self._siblings = siblings or Siblings()
        self._translator = Translator(config)
        self._renewed: dict[str, float] = {}
        self._looked_up: dict[str, float] = {}
        self._deaf = -1.0
        self._proved = -math.inf
        self._asked_who = False
        self._asking: list[str] = []
        self._wrote = False
        self._unheard = False
        self._ending = False
        self._one_call: OneCall | None = None
        self._asking_why = threading.RLock()  # re-entrant, as every lock that a signal's handler may meet
        self._initialised = transactional_id is None
        self._log = LaterLogger(self.lines.to(config.get("logger")), self._overhear)
        self._statistics: deque[str] = deque(maxlen=1)
        self._throttles: deque[object] = deque()
        self._on_trouble, self._on_statistics, self._on_throttle = trouble, statistics, config.get("throttle_cb")
        self._tokens: TokenSource | None = None
        self._calls = Calls()
        self._kept: Kept = [CLOSED]
        self._bare: bool = False  # or wrapped, as by instrumentation
        self._connect(config, PATIENT_MS if patient else PROPAGATION_MS)
        _live.add(self)

    def _connect(self, config: Mapping[str, object], propagation_ms: int) -> None:
        given: dict[str, Any] = {_PROPAGATION: _propagation_ms(config, propagation_ms), **config}
        given |= {"logger": self._log, "error_cb": self._note}
        if self._on_throttle is not None:
            given["throttle_cb"] = self._throttles.append
        if "oauth_cb" in config:
            given["oauth_cb"] = self._tokens = TokenSource(config)
            if self._tokens.failure is not None:
                raise Fault(FaultKind.DENIED, self._translator.scrub(self._tokens.failure))
        if self._on_statistics is None:
            # They pile up unpolled and are counted by len(); so off unless somebody listens.
            given["statistics.interval.ms"] = 0
        else:
            given = {"statistics.interval.ms": 5000, **given, "stats_cb": self._statistics.append}
        try:
            # Looked up now: instrumentation replaces the class, maybe after our import. And the settings are never in a
            # variable: error trackers show those.
            self._kept[0] = confluent_kafka.Producer(reveal(given))
            self._bare = type(self._kept[0]) is cimpl.Producer
            if not self._bare:
                _refuse_hollow(self._kept)
        except BaseException as error:
            forget_frames(error)
            empty(taken(self._kept, CLOSED))
            if isinstance(error, KafkaException | TypeError | ValueError):
                raise self._translated(error, settings=True) from None  # the original may show a secret
            raise

    @abstractmethod
    def verdict(self, error: Any, topic: str) -> Verdict:
        """Return what a delivery report's error means for the record."""

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Destroy the handle; may block on slow DNS, so it is called on the pool's reaper thread.

        ``Producer.close`` aborts and flushes without limit (librdkafka's -1), so it is asked only when nothing is left
        to abort or flush. In doubt, after a fatal error or before init has ended, the handle is dropped instead; so it
        is while a broker is asked for a topic, since close would wait for the answer.
        """
        kept = taken(self._kept, CLOSED)
        if type(kept[0]) is Gone:
            return
        try:
            self._siblings.gone(self)
            settled = self.fault is None and len(kept[0]) == 0 and not self._asking
            if settled and (self.transactional_id is None or (self._initialised and not self.in_transaction)):
                self._serve_on(methodcaller("close"), kept, CLOSING)
        finally:
            yielding(partial(empty, kept))

    @property
    def closed(self) -> bool:
        """Whether there is no handle any more."""
        return type(self._kept[0]) is Gone

    def pin(self) -> None:
        """After a fork, in the child: keep the handle for ever and never touch it."""
        leave_to_parent(taken(self._kept, FORKED)[0])
        self._kept[0] = FORKED

    # -- translation -------------------------------------------------------------------------------

    def _call(self, call: Callable[[Any], object], seconds: float, *, serve: bool = True) -> None:
        """A call of at most so many seconds whose error concerns the caller. Its callbacks are served either way."""
        self._told(lambda: yielding(lambda: self._calls.make(call, self._kept, seconds)), serve=serve)

    def _told(self, make: Callable[[], R], *, serve: bool = True) -> R:
        """Make a call in whatever way, and tell the caller of its error in our words.

        Raises:
            Fault: What it failed with, or that there is no client any more.
        """
        if type(self._kept[0]) is Gone:
            raise self._kept[0].why()
        try:
            return make()
        except NestedCallError as error:
            raise Fault(FaultKind.RETRIABLE, str(error)) from error
        except (KafkaException, RuntimeError) as error:
            if not of_client(error):
                raise
            raise self._translated(error) from error
        finally:
            if serve:
                self._serve_notes()

    def _serve(self, call: Callable[[Any], object], seconds: float) -> None:
        if type(self._kept[0]) is Gone:
            raise self._kept[0].why()
        self._serve_on(call, self._kept, seconds)

    def _serve_on(self, call: Callable[[Any], object], kept: Kept, seconds: float) -> None:
        """A call whose errors concern the client as a whole: they are kept, not raised."""
        try:
            if seconds > 0:
                yielding(lambda: self._calls.make(call, kept, seconds))
            else:
                self._calls.make(call, kept, 0)
        except NestedCallError:
            time.sleep(BREATH)  # whoever waits for something looks again until its deadline
        except (KafkaException, RuntimeError) as error:
            if not of_client(error):
                raise
            if self._translated(error).kind is FaultKind.CLOSED:
                time.sleep(min(seconds, BREATH))  # as above
        finally:
            self._serve_notes()

    def _serve_notes(self) -> None:
        if self._answers.take_in(self.verdict):
            self._stored()
        if (overdue := self._hearing.overdue()) is not None and not self._idle():
            self._tell(overdue, 0)
        while self._statistics and self._on_statistics is not None:
            self._on_statistics(self._statistics.popleft())
        while self._throttles and callable(self._on_throttle):
            guarded("throttle_cb", self._on_throttle, self._throttles.popleft())
        if (refused := self._hearing.refused()) is not None:
            self._tell(refused, LASTING)
        if self._log.lines:
            self._log.write()  # last, since a handler may take its time

    # -- what is heard of the brokers --------------------------------------------------------------

    @property
    def cut_off(self) -> bool:
        """Whether all brokers are down, as far as is known."""
        return self._hearing.cut_off

    @property
    def silent(self) -> bool:
        """Whether nothing was heard of any broker for a while, be it that nothing was asked."""
        return self._hearing.silent

    @property
    def last_error(self) -> str | None:
        """What went wrong last, unless it is over or long ago."""
        return self._hearing.now

    def last_error_since(self, started: float) -> str | None:
        """The same, or what went wrong since then, whatever else succeeded; or that there never was an answer."""
        return self._hearing.since(started)

    @uninterrupted
    def _note(self, error: KafkaError) -> None:
        """Called by librdkafka: note what came, and where among the answers, and do nothing else."""
        try:
            answers, stored = self._answers, self._answers.stored
            if stored:
                answers.stored = False
            answers.noted.append((self._trouble, error, stored))
        except BaseException as raised:  # noqa: BLE001  (as in Delivery.arrive)
            hold(raised)

    def _stored(self) -> None:
        self._hearing.stored()
        self._siblings.well(self)

    def _answered(self) -> None:
        """A broker did what it was asked for: what went wrong before is over, for siblings that are idle, too."""
        self._hearing.answered()
        self._siblings.well(self)

    def sibling_answered(self) -> bool:
        """The cluster is there; but who waits for an answer may wait for another broker than the one that gave it."""
        if self.in_transaction or not self._idle():
            return False
        self._hearing.sibling_answered(lost=self.fault is not None)
        return True

    def _idle(self) -> bool:
        return self._initialised and not self._answers.outstanding

    def _trouble(self, error: KafkaError, *, stored: bool) -> None:
        """Take up an error that concerns no record; called in its turn, so that an earlier success doesn't end it."""
        if stored:
            self._stored()
        fault = self._no_new_token(error) or self._translator.fault(error, known=self.fault)
        summary = error.code() in ALL_BROKERS_DOWN
        if summary and self._hearing.summed_up(fault):
            self._siblings.troubled(self)
            return
        self._hearing.explained()
        if summary:
            self._tell(self._hearing.hinted(fault), 0)
        else:
            self._tell(fault, LASTING if denies(error) else 1)

    def _overhear(self, line: tuple[Any, ...]) -> None:
        """Look for a cause in a line of the log, until a broker has answered: the settings are right then."""
        if not self._hearing.met and (text := guess(line)) is not None:
            self._hearing.explained()
            self._tell(Fault(FaultKind.RETRIABLE, self._translator.scrub(text)), 1)

    def _tell(self, fault: Fault, weight: int) -> None:
        self._note_trouble(fault, weight)
        if fault.kind is FaultKind.DENIED and self.fault is None:
            self.fault = fault  # librdkafka itself would go on trying for ever
        if self._on_trouble is not None:
            self._on_trouble(fault)

    def _note_trouble(self, fault: Fault, weight: int) -> None:
        self._hearing.note(fault, weight)
        self._siblings.troubled(self)

    def _no_new_token(self, error: KafkaError) -> Fault | None:
        """What ``oauth_cb`` or an issuer failed with, if that is it: it is asked again, and the old token serves on."""
        if self._hearing.met and LOGIN_ENDING.search(error.str()):
            return Fault(FaultKind.RETRIABLE, self._translator.scrub(error.str()))
        if self._tokens is None or self._tokens.failure is None or "OAuth callback raised exception" not in error.str():
            return None
        return Fault(FaultKind.RETRIABLE, self._translator.scrub(self._tokens.failure))

    # -- what its errors mean ----------------------------------------------------------------------

    def _translated(self, error: BaseException, *, settings: bool = False, of_record: bool = False) -> Fault:
        if isinstance(error, RuntimeError):
            return self._found_closed(error)
        if is_lost(error):
            error = self._told_again(error)
        fault = self._translator.fault(error.args[0] if error.args else error, known=self.fault, settings=settings)
        fault.__cause__ = error
        if (fault.kind in (FaultKind.FENCED, FaultKind.FATAL) or is_fatal(error)) and self.fault is None:
            self.fault = fault
        if of_record:  # it explains nothing that happens to other records
            if code_of(fault) in OUTDATED:
                fault.kind = FaultKind.OUTDATED
            return fault
        # A call's own failure is the last resort: "Connection refused" says more than "Broker transport failure". And
        # what comes after the client's end doesn't explain it.
        if fault.kind is not FaultKind.RETRIABLE and not settings and self.fault in (None, fault):
            self._note_trouble(fault, 0 if fault.kind is FaultKind.OTHER else LASTING if fault.fatal else 1)
        return fault

    def _told_again(self, lost: BaseException) -> BaseException:
        """Return the fatal error in full: a transactional client answers with it when it is to begin, and does nothing.

        Should it have none after all, it begins: that is as well, since it is given up for what was lost.
        """
        if self.transactional_id is not None:
            try:
                self._calls.make(methodcaller("begin_transaction"), self._kept, 0)
            except (KafkaException, NestedCallError, RuntimeError) as again:
                if is_fatal(again) and not is_lost(again):
                    return again
        return lost

    def _found_closed(self, error: RuntimeError) -> Fault:
        """Return that there is no client any more: by the pool, or by whoever else has got hold of it."""
        by_pool = self.closed
        fault = Fault(
            FaultKind.CLOSED, "the producer is closed" if by_pool else "its client was closed behind its pool"
        )
        fault.__cause__ = error
        if not by_pool and self.fault is None:
            self.fault = fault
        return fault


def of_client(error: BaseException) -> bool:
    """Whether confluent-kafka has raised it, and not a signal's handler, which is called inside of its calls."""
    return isinstance(error, KafkaException) or (type(error) is RuntimeError and _SAYS_CLOSED in str(error))


def _refuse_hollow(kept: Kept) -> None:
    """Raise for a stand-in that inherits all of a producer's methods, passes on some, and has no client for the others.

    OpenTelemetry's ``ProxiedProducer`` is one; the class that its instrumentor's ``instrument()`` puts in place isn't.
    """
    try:
        kept[0].begin_transaction()  # before init it does nothing, and answers with an error of librdkafka's
    except KafkaException:
        return
    except RuntimeError as error:
        raise Fault(
            FaultKind.SETTINGS,
            f"confluent_kafka.Producer gave a {type(kept[0]).__qualname__}, whose transactions reach no client "
            f"({error}): replace the class by a subclass that is a producer itself",
        ) from error


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    try:
        return float(config.get(key, default))
    except (TypeError, ValueError):  # librdkafka will refuse it, and say why
        return default


def _propagation_ms(config: Mapping[str, object], at_most: int = PROPAGATION_MS) -> int:
    """At most half of what a record has: it should fail for its topic, and not for its age."""
    ours: Any = config.get("default.topic.config", {})  # it goes over all else
    timeout = _number(config, "message.timeout.ms", _number(config, "transaction.timeout.ms", 2 * at_most))
    timeout = _number(ours, "message.timeout.ms", timeout)
    return min(at_most, int(timeout / 2)) if timeout else at_most  # 0 is without end


CLOSED = Gone(lambda: Fault(FaultKind.CLOSED, "the producer is closed"))
FORKED = Gone(
    lambda: ForkedPoolError("this producer was made before a fork; the child must ask the pool for another one")
)

_live: weakref.WeakSet[Handle] = weakref.WeakSet()


def pin_all() -> None:
    """Give up every live client of this process without touching it: in a forked child, and at interpreter exit."""
    for client in tuple(_live):
        client.pin()
    _live.clear()


renew_in_child("clients", pin_all)
