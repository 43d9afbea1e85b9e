"""How a producer is made and initialised."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from wd_di._concurrency.deadline import Deadline
from wd_di._concurrency.workers import Workers
from wd_di._kafka.librdkafka import KafkaClient
from wd_di._kafka.lines import Lines
from wd_di._kafka.port import SLICE, Fault, FaultKind
from wd_di._kafka.reader import KafkaReader
from wd_di._kafka.troubles import Siblings, addresses, unanswered
from wd_di._records.connection import Connection, initialise, persist
from wd_di._slots.ids import reserve_on_cluster
from wd_di._slots.probe import Probe
from wd_di._slots.rivals import Rivals
from wd_di.events import ErrorOccurred, StatisticsEmitted

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from wd_di._kafka.memory import MemoryBroker
    from wd_di._kafka.port import Answers, Client, Reader
    from wd_di._records.connection import Services
    from wd_di._slots.plan import Plan, SlotPlan

ID_PATIENCE = 3.0
"""Seconds for a cluster's id, once a broker is there: six round trips of half a second, and nobody waits longer."""
MAKERS_MAX = 32
"""Producers of one pool that are made at once."""


class NotMadeError(Exception):
    """A producer couldn't be made.

    Attributes:
        connection: What is left of it, to be closed.
        raised: What came instead.
    """

    def __init__(self, connection: Connection | None, raised: BaseException) -> None:
        super().__init__(str(raised))
        self.connection: Connection | None = connection
        self.raised: BaseException = raised


class Maker:
    """Makes the producers of one pool by its plan.

    Args:
        plan: By which they are made; a reload brings another one.
        memory: What those connect to that deliver nothing.
        services: What they get from their pool.
        changed: Wakes who waits for something of the pool.

    Attributes:
        making: Those that aren't ready yet, by index.
        lines: What becomes of the lines that their clients log, by cluster.
        rivals: Who else of this host has their transactional ids.
    """

    def __init__(self, plan: Plan, memory: MemoryBroker, services: Services, changed: threading.Condition) -> None:
        self.plan = plan
        self.making: dict[int, Connection] = {}
        self.lines: dict[str, Lines] = {}
        self.rivals = Rivals(plan.name, services.observer)
        self._memory = memory
        self._services = services
        self._changed = changed
        self._siblings: dict[str, Siblings] = {}
        self._probers = Workers(f"wd_di-{plan.name}-probe", min(plan.settings.size, MAKERS_MAX))

    def make(
        self,
        index: int,
        *,
        wanted: Callable[[], bool],
        outdated: Callable[[], bool],
        patience: Callable[[float], float],
    ) -> Connection:
        """Return a producer that is ready.

        Args:
            index: The slot's.
            wanted: Whether anybody could still want it; asked while brokers don't answer.
            outdated: Whether another one is to take its place.
            patience: Seconds that whoever waits has patience for, given since when one has been at it.

        Raises:
            NotMadeError: It can't be made, or there is no use in it any more.
        """
        plan, connection = self.plan.slots[index], None
        try:
            connection = self.making[index] = self._connect(plan)
            if plan.transactional_id is not None:
                self._initialise(plan, connection.client, wanted, outdated)
            elif plan.deliver:
                made, connection = connection, None  # until it has answered, the probe closes it
                if not self._reached(made.client, patience):
                    made = self.making[index] = self._connect(plan, patient=True)
                connection = made
        except BaseException as error:  # whatever it is, the slot must not stay as it is
            raise NotMadeError(connection, error) from error
        finally:
            self.making.pop(index, None)
        return connection

    def trouble(self) -> str | None:
        """What went wrong last with one that isn't ready yet; if nothing did, what can be said without an error."""
        making = tuple(self.making.values())
        told = (each.client.last_error for each in making)
        return next(filter(None, told), None)

    def unanswered(self) -> str:
        """What can be said without an error."""
        return unanswered(*(slot.kafka for slot in self.plan.slots))

    def addresses(self) -> str:
        """Where the brokers are; nothing, if they are mocks."""
        return addresses(*(slot.kafka for slot in self.plan.slots))

    def _initialise(
        self, plan: SlotPlan, client: Client, wanted: Callable[[], bool], outdated: Callable[[], bool]
    ) -> None:
        """Get the transactional id, having looked who else of this host has it.

        By the cluster's id, since one cluster has many addresses. It comes with a broker's first answer, in which init
        waits, too; where it doesn't come, or there is none, the addresses have to do.

        A broker that is there may have the question for the id, and answer it later than that of another producer,
        which it would fence. So what is outdated still waits for it.
        """
        heard = False
        if plan.remote:
            patience = Deadline(ID_PATIENCE)

            def meet_rivals() -> None:
                nonlocal patience, heard
                try:
                    cluster, heard = client.cluster_id(SLICE), True
                except Fault:
                    if client.cut_off:  # then no init would come through either
                        patience = Deadline(ID_PATIENCE)
                    if not patience.passed:
                        raise
                    cluster = ""
                self._meet_rivals(plan, cluster)

            persist(meet_rivals, client, lambda: wanted() and not outdated())
        initialise(client, lambda: wanted() and not (outdated() and (client.cut_off or not heard)))

    def _meet_rivals(self, plan: SlotPlan, cluster: str) -> None:
        """Look who of this host has the id: another pool of this process mustn't, another process may.

        Raises:
            Fault: Somebody has, and that is refused.
        """
        names, refuse = self.plan.names_beside(plan), self.plan.settings.ids_held_elsewhere == "refuse"
        why = reserve_on_cluster(cluster, plan.brokers[0], names) if cluster else None
        if why is None:
            where = cluster or ",".join(plan.brokers)
            why = self.rivals.meet(plan.index, where, str(plan.transactional_id), refuse=refuse, beside=names)
        if why is not None:
            raise Fault(FaultKind.SETTINGS, why)

    def _reached(self, client: Client, patience: Callable[[float], float]) -> bool:
        """Whether a broker answers a plain producer, while nobody is in a hurry."""
        probe, since = Probe(client, self._changed), time.monotonic()
        self._probers.submit(probe.ask)
        return probe.reached(lambda: patience(since))

    def _connect(self, plan: SlotPlan, *, patient: bool = False) -> Connection:
        connect: Callable[[Answers], Client] = partial(self._memory.connect, plan.transactional_id)
        read: Callable[[], Reader] = self._memory.read
        if plan.deliver:
            connect, read = partial(self._to_kafka, plan, patient=patient), partial(KafkaReader, plan.kafka)
        shared = self.plan.settings.share > 1
        return Connection(self.plan.name, plan.index, self._services, connect, read, shared=shared)

    def _to_kafka(self, plan: SlotPlan, answers: Answers, *, patient: bool) -> Client:
        cluster, observer = str(plan.kafka.get("bootstrap.servers")), self._services.observer
        return KafkaClient(
            plan.kafka,
            plan.transactional_id,
            answers,
            statistics=partial(self._statistics, plan.index) if observer.wants(StatisticsEmitted) else None,
            trouble=partial(self._trouble, plan.index),
            siblings=self._siblings.setdefault(cluster, Siblings()),
            lines=self.lines.setdefault(cluster, Lines(self.plan.name)),
            patient=patient,
        )

    def _trouble(self, index: int, error: Exception) -> None:
        self._services.observer.emit(ErrorOccurred, pool=self.plan.name, index=index, where="client", error=error)

    def _statistics(self, index: int, json: str) -> None:
        self._services.observer.emit(StatisticsEmitted, pool=self.plan.name, index=index, json=json)
