"""The client that talks to Kafka."""

from __future__ import annotations

import re
import sys
import time
from contextlib import suppress
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, cimpl

from wd_di._concurrency.caller import interruptible
from wd_di._concurrency.deadline import Deadline
from wd_di._concurrency.greenlets import yielding
from wd_di._kafka.ended import OneCall
from wd_di._kafka.handle import Handle, of_client
from wd_di._kafka.kept import forget_frames, unhandled
from wd_di._kafka.nested import NestedCallError
from wd_di._kafka.offsets import cut_metadata, group_of
from wd_di._kafka.port import BREATH, SLICE, Fault, FaultKind, Verdict
from wd_di._kafka.topics import ASK_SLICE_MAX
from wd_di._kafka.translation import (
    FATAL,
    GONE_WITH_ITS_TOPIC,
    PURGED,
    TIMED_OUT_MESSAGE,
    UNKNOWN_PARTITION,
    UNKNOWN_TOPIC,
    UNREADABLE,
    WRONG_STATE,
    code_of,
)
from wd_di._kafka.troubles import last_error
from wd_di.errors import AuthorizationError, DeliveryError, WdDiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._kafka.port import Rest
    from wd_di._kafka.topics import OnDelivery
    from wd_di.errors import ProduceError


ENDED_ALREADY = re.compile(r"\bin state Ready\b")
"""As librdkafka names its state where there is no transaction; while one ends it has others."""

ANY_PARTITION = -1
"""librdkafka's RD_KAFKA_PARTITION_UA: the partitioner decides."""

ASK_SLICE = 0.2
"""Seconds that an error may wait for what the brokers say of its topic."""

CONNECTING = 0.02
"""Seconds after which a new client that has heard nothing may have to be told to connect."""

PROOF_FRESH = 1.0
"""Seconds for which a connection that was proved needs no other proof."""

RENEWAL_MAX = 2.0
"""Seconds for all of these questions: the brokers may be busy, or far."""

RENEWALS = (0.0, 0.05, 0.2)
"""Seconds before each question for a topic or partition that isn't known: a broker hears of new ones a little late."""


class KafkaClient(Handle):
    """A ``confluent_kafka.Producer`` whose errors are :class:`Fault`, and whose callbacks never do more than note."""

    # -- transactions ----------------------------------------------------------------------------

    def init(self, seconds: float) -> None:
        """Get the producer id, one bounded try; after a time-out the same handle must be asked again."""
        self._call(methodcaller("init_transactions", seconds), seconds)
        self._initialised = True
        self._answered()

    def begin(self) -> None:
        """Begin; local, no request is sent."""
        # On an event loop nothing may be looked up.
        self._call(methodcaller("begin_transaction"), 0, serve=False)
        self._unheard = self._ending = self._wrote = False
        self._one_call = None
        self.in_transaction = True

    def send_offsets(self, offsets: object, group_metadata: object, seconds: float) -> None:
        """Add a consumer group's offsets to the transaction."""
        group_of(group_metadata)
        try:
            self._call(methodcaller("send_offsets_to_transaction", offsets, group_metadata, seconds), seconds)
        except Fault as fault:
            if code_of(fault) not in UNREADABLE:
                raise
            raise ValueError(cut_metadata(group_metadata)) from fault
        self._wrote = True
        self._answered()

    def commit(self, seconds: float) -> None:
        """Commit, by one call that has so much time; after a time-out nothing may follow but the close.

        Where an interrupt may come, it is soon told that there is no answer yet: then the same again.
        """
        self._end("commit_transaction", seconds)
        if self._wrote:  # else nothing was asked of a broker
            self._answered()

    def abort(self, seconds: float) -> None:
        """Abort, as :meth:`commit` commits."""
        self._end("abort_transaction", seconds)

    def _end(self, name: str, seconds: float) -> None:
        """Let librdkafka end the transaction; ``in_transaction`` says whether that is known to be done."""
        with self._asking_why:
            self._ending = True
        try:
            if self._one_call is None and not (self._wrote and interruptible()):
                self._end_directly(name, seconds)
            else:
                self._wait_for_end(name, seconds)
        except Fault as fault:
            if self._one_call is None or self._one_call.over:
                self._one_call, self._ending = None, fault.kind is FaultKind.RETRIABLE
            raise
        self.in_transaction = self._ending = False
        self._one_call = None

    def _end_directly(self, name: str, seconds: float) -> None:
        """Make the call here. What another thread raises in this one comes in place of its answer.

        If that was a yes, the same call says _STATE, and that the state is Ready, to which only the end has led.
        """
        try:
            self._call(methodcaller(name, seconds), seconds)
        except Fault as fault:
            done = code_of(fault) in WRONG_STATE and ENDED_ALREADY.search(str(fault)) is not None
            if not (self._unheard and self.in_transaction and done):
                self._unheard |= isinstance(fault.__cause__, NestedCallError)  # it goes on all the same
                raise
        except BaseException:
            self._unheard = True
            raise

    def _wait_for_end(self, name: str, seconds: float) -> None:
        """Wait a little for the call, which goes on whatever comes meanwhile.

        Raises:
            Fault: It has no answer yet, or that was a no.
        """
        one = self._one_call
        if one is None:
            make = partial(self._calls.make, methodcaller(name, seconds), self._kept, seconds)
            one = self._one_call = OneCall(name, partial(yielding, make))
        elif one.name != name:
            raise Fault(FaultKind.RETRIABLE, f"{one.name} has no answer yet")
        answered = self._told(partial(one.answered, min(seconds, SLICE)))
        if not answered:
            raise Fault(FaultKind.RETRIABLE, "no answer yet")

    def reason(self) -> Fault | None:
        """Why the open transaction can only abort, if it can; its purged records don't know it.

        librdkafka answers a begin with it, which has no effect within a transaction. So it isn't asked while one ends,
        or may have ended unheard: whoever serves the client at that moment would begin another.
        """
        with self._asking_why:
            if self.closed or not self.in_transaction or self._ending or self._unheard:
                return None
            return self._why()

    def _why(self) -> Fault | None:
        try:
            unhandled(methodcaller("begin_transaction"), self._kept)
        except KafkaException as error:
            fault = self._translator.fault(error.args[0], known=self.fault)
            return fault if fault.requires_abort else None
        except RuntimeError as error:
            if not of_client(error):
                raise
            self._translated(error)
        except Fault:  # closed meanwhile
            return None
        return None

    # -- records ---------------------------------------------------------------------------------

    def produce(
        self, topic: str, value: str | bytes | None, key: str | bytes | None, on_delivery: OnDelivery, rest: Rest = None
    ) -> None:
        """Enqueue one record; its answer comes to ``on_delivery``."""
        first = None
        if topic not in self.topics.answered and (first := self.topics.first(topic, on_delivery)) is not None:
            on_delivery = first
        try:
            if rest is None and self._bare and sys.exception() is None:  # most: keywords would be a third of the call
                self._kept[0].produce(topic, value, key, ANY_PARTITION, on_delivery)
            else:
                given = dict(rest or ())
                if "headers" in given:
                    given["headers"] = _encoded(given["headers"])  # a new list: instrumentation adds to it at every try
                produce = methodcaller("produce", topic, value, key, on_delivery=on_delivery, **given)
                unhandled(produce, self._kept)
        except BaseException as error:
            if type(self._kept[0]) is not cimpl.Producer:
                forget_frames(error)
            if isinstance(error, BufferError):
                raise Fault(FaultKind.QUEUE_FULL, "librdkafka's queue is full") from error
            if of_client(error):
                raise self._refusal(error) from error
            raise
        self._wrote = True
        if first is not None:
            self.topics.watch(topic, first)

    def _refusal(self, error: BaseException) -> Fault:
        """Why a record wasn't taken; where librdkafka names no more than its own state, what has led to that."""
        code = error.args[0].code() if isinstance(error, KafkaException) else None
        if code in FATAL and self.fault is None:
            self._learn_end()
        fault = self._translated(error, of_record=True)
        reason = self.reason() if code in WRONG_STATE else None
        if reason is None:
            return fault
        return Fault(fault.kind, f"{fault}; {reason}", requires_abort=True, right=reason.right)

    def _learn_end(self) -> None:
        """Have the client's end told, which comes out of its next call; what else comes is noted, as always."""
        try:
            self._calls.make(methodcaller("poll", 0), self._kept, 0)
        except KafkaException as error:
            self._translated(error)
        except NestedCallError:
            return

    def poll(self, seconds: float) -> None:
        """Serve callbacks; a fatal error, which surfaces here once as an exception, is kept in ``fault``."""
        self._serve(methodcaller("poll", seconds), seconds)

    def collect(self) -> None:
        """Have noted, and decided, what librdkafka has to tell, and tell nobody: no code but ours runs in here."""
        if not self._calls.inside:  # else that call collects it
            with suppress(Fault):  # it is closed
                self._learn_end()

    def flush(self, seconds: float) -> None:
        """Send at once, whatever ``linger.ms`` says, and serve callbacks; its answers tell what is left."""
        self._serve(methodcaller("flush", seconds), seconds)

    def purge(self) -> None:
        """Give up on all that is queued or in flight: nothing follows but the close, so no record asks for a reason."""
        with self._asking_why:
            self._ending = True
        self._serve(methodcaller("purge"), 0)

    def owes(self) -> int:
        """Messages, reports and events not yet served; not a count of messages."""
        return len(self._kept[0])

    def probe(self, seconds: float) -> None:
        """Ask any broker for the cluster's id, the cheapest proof of a connection; one that is a second old will do.

        Who knows the id isn't asked again, and not every cluster has one: then for all topics. Not for a single one,
        since librdkafka would ask again for what doesn't exist in every second of its life.
        """
        deadline = Deadline(seconds)
        if time.monotonic() - self._proved < PROOF_FRESH:
            return
        answered = False
        try:
            if self._proved > 0:
                self._call(methodcaller("list_topics", timeout=seconds), seconds)
            else:
                self._call(methodcaller("cluster_id", seconds), seconds)
            answered = True
        except (Fault, AttributeError):  # upstream calls the method experimental
            if deadline.left < BREATH:
                raise
        if not answered:  # not in there, as in cluster_id
            left = deadline.left
            self._call(methodcaller("list_topics", timeout=left), left)
        self._proved = time.monotonic()
        self._answered()

    def cluster_id(self, seconds: float) -> str:
        """Return the cluster's id, which comes with a broker's first answer; nothing, if there is none to come.

        librdkafka may forget a new client's first connection, and think of it after a second (one of five clients, seen
        in 2.16.0). A question without time for an answer reminds it; it isn't sent, since there is no connection.

        Raises:
            Fault: No broker has answered yet.
        """
        first, self._asked_who = not self._asked_who, True
        try:
            if first:
                # Not while the first one's exception is handled: on Python 3.11, what confluent-kafka raises then keeps
                # that for ever, with its frames.
                with suppress(KafkaException):
                    return self._told_id(CONNECTING)
                with suppress(KafkaException):
                    self._asked(methodcaller("list_topics", timeout=0), 0)
            return self._told_id(seconds)
        except AttributeError:  # upstream calls it experimental
            return ""
        except KafkaException as error:
            fault = self._translated(error)
            if fault.kind is FaultKind.RETRIABLE:
                raise Fault(FaultKind.RETRIABLE, "no broker has said yet which cluster it belongs to") from fault
            raise fault from error
        finally:
            self._serve_notes()

    def _told_id(self, seconds: float) -> str:
        deadline = Deadline(seconds)
        try:
            return str(self._asked(methodcaller("cluster_id", seconds), seconds))
        except KafkaException:
            if deadline.left < BREATH:
                raise
            return ""  # a broker has answered, and has none

    def _asked(self, call: Callable[[Any], Any], seconds: float) -> Any:
        """Return what a call answers, which says nothing of the client.

        Raises:
            KafkaException: A broker's answer, or that there was none.
            Fault: It couldn't be made, or its client was closed meanwhile.
        """
        try:
            return yielding(lambda: self._calls.make(call, self._kept, seconds))
        except NestedCallError as error:
            raise Fault(FaultKind.RETRIABLE, str(error)) from error
        except RuntimeError as error:
            if not of_client(error):
                raise
            raise self._found_closed(error) from error

    def ask(self, topic: str, seconds: float) -> bool:
        """Ask any broker for the topic's metadata, which librdkafka takes note of, too; whether an answer came."""
        ask = methodcaller("list_topics", topic, timeout=seconds)
        self._asking.append(topic)  # before the handle is taken: see close
        try:
            found = self._asked(ask, seconds).topics.get(topic)
        except (KafkaException, WdDiError):  # no broker, or closed meanwhile
            found = None
        finally:
            self._asking.pop()
        if found is None:
            self._deaf = time.monotonic()
            return False
        error = found.error
        if error is not None and error.code() in UNKNOWN_TOPIC:
            self.topics.learn_missing(topic)
        else:
            self.topics.learn(topic, found.partitions, error.str() if error is not None else None)
        self._answered()
        return True

    def brokers(self, seconds: float) -> dict[str, str] | None:
        """Ask any broker which ones there are: addresses by id, or ``None`` without an answer.

        With all topics, as in :meth:`reach`. An answer ends no error: it says nothing of the broker that failed.
        """
        ask = methodcaller("list_topics", timeout=seconds)
        self._asking.append("")  # as in ask
        try:
            found = self._asked(ask, seconds).brokers
        except (KafkaException, WdDiError):  # no broker, or closed meanwhile
            return None
        finally:
            self._asking.pop()
        return {str(each.id): f"{each.host}:{each.port}" for each in found.values()}

    def reach(self, deadline: Deadline) -> bool:
        """Wait until a broker answers: whatever it says, it was there. False if none did, and one still may.

        All topics are asked for: a question for one that isn't known is the beginning of its time to appear, and one
        that was deleted would be made anew.
        """
        # A broker that is away answers nothing, however long it has; one that is far hears each question anew.
        seconds = ASK_SLICE if self.cut_off else ASK_SLICE_MAX / 2
        while not (self.closed or self.fault is not None):
            if deadline.passed:
                return False
            patience = deadline.slice(seconds)
            self._asking.append("")  # as in ask
            try:
                self._call(methodcaller("list_topics", timeout=patience), patience)
            except Fault:
                time.sleep(deadline.slice(BREATH))
                seconds = min(2 * seconds, ASK_SLICE_MAX)  # as for the poller's questions
            else:
                self._answered()
                break
            finally:
                self._asking.pop()
        return True

    def renew(self, topic: str, partition: int, deadline: Deadline) -> bool:
        """Ask for a topic or partition that the client doesn't know; whether it is there now.

        librdkafka asks by itself only after minutes. Who tries a wrong one again and again asks once in a second.
        """
        if time.monotonic() - self._renewed.get(topic, -1.0) < 1:
            return False
        patience = Deadline(deadline.slice(RENEWAL_MAX))
        for pause in RENEWALS:
            time.sleep(patience.slice(pause))
            seconds = ASK_SLICE
            while not (self.closed or patience.passed or self.ask(topic, patience.slice(seconds))):
                time.sleep(patience.slice(BREATH))
                seconds *= 2  # each question is asked anew: a slow link's answer would never be heard
            answer = self.topics.answer_for(topic)
            if answer is not None and (answer.partitions or 0) > partition:
                return True
        self._renewed[topic] = time.monotonic()
        return False

    def _look_up(self, topic: str) -> None:
        """Ask for the topic, at most once in a second: hundreds of records may have failed with this one."""
        now = time.monotonic()
        if min(now - self._looked_up.get(topic, -1.0), now - self._deaf) >= 1:
            self.ask(topic, ASK_SLICE)
            self._looked_up[topic] = time.monotonic()

    # -- what the answers mean ---------------------------------------------------------------------

    def verdict(self, error: Any, topic: str) -> Verdict:
        """Return what a delivery report's error means for the record."""
        code, text = error.code(), f"{self._translator.scrub(error.str())} [{error.name()}]"
        if code in PURGED:
            # On an abort librdkafka gives the sequence number of a record that waits to be sent again to the next one,
            # also if the broker has the record. So it takes the next for a repetition and acknowledges it, and nobody
            # ever sees it, though its transaction is committed (seen in 2.16.0).
            return Verdict("purged", self._given_up(topic, text), "record unanswered")
        if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return Verdict("failed", AuthorizationError(f"no right to write to {topic!r} (Write on the topic): {text}"))
        hint = self._explained(code, topic)
        # librdkafka has counted the sequence number of a record that the broker refused, and the broker hasn't: the
        # next transaction would fail with OUT_OF_ORDER_SEQUENCE_NUMBER, whatever it sends (seen in 2.16.0).
        undelivered = DeliveryError(f"a record for {topic!r} wasn't delivered: {text}{hint}")
        if code < 0:
            return Verdict("failed", undelivered, "record unanswered")
        return Verdict("failed", undelivered, "record refused" if code not in UNKNOWN_TOPIC else None)

    def _given_up(self, topic: str, text: str) -> ProduceError:
        """Return the error of a record that was purged: because of another one, it may be, or of the client's end."""
        reason = self.fault or self.reason()
        given_up = f"a record for {topic!r} was given up before the broker answered: {text}"
        if reason is None:
            return DeliveryError(given_up)
        return (DeliveryError if reason.right is None else AuthorizationError)(f"{given_up}; {reason}")

    def _explained(self, code: int, topic: str) -> str:
        """What the brokers say of the topic of a record that failed."""
        if code in UNKNOWN_TOPIC:
            self.topics.doubt(topic)
            self.topics.learn_missing(topic)
            return "; does the topic exist?"
        if code in UNKNOWN_PARTITION:
            self.topics.doubt(topic)
            self._look_up(topic)
            return self.topics.place(topic)
        if code in GONE_WITH_ITS_TOPIC:  # it waited for a partition that went away with its topic
            self.topics.doubt(topic)
            self._look_up(topic)
            return self.topics.hint(topic)
        if code in TIMED_OUT_MESSAGE:
            if self.last_error is None:
                self._look_up(topic)
            return f"{self.topics.hint(topic)}{last_error(self.last_error)}"
        return ""


def _encoded(headers: list[tuple[str, str | bytes | None]]) -> list[tuple[str, bytes | None]]:
    """Encode header values: as text, confluent-kafka would cut them at their first NUL."""
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in headers]
