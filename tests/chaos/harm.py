"""How a fault is carried out, and for how long; what was met is on record."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tests.chaos.watch import settled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.fleet import Fleet, Writer
    from tests.chaos.history import Journal
    from tests.chaos.schedule import Fault
    from tests.faults.proxy import FaultProxy
    from wd_di.testing import LocalKafka

CLIENT = "chaos-"
"""How the names of those begin whose requests may be hurt: not the reader's."""


class Harm:
    """Does it, one after the other in each lane, until it is over.

    Attributes:
        errors: What kept a lane from going on.
        met: The kinds of what was done so far, and met anybody.
    """

    def __init__(self, kafka: LocalKafka, proxy: FaultProxy, fleet: Fleet, journal: Journal) -> None:
        self._kafka, self._proxy, self._fleet, self._journal = kafka, proxy, fleet, journal
        self._over = threading.Event()
        self.errors: list[BaseException] = []
        self.met: set[str] = set()

    def run(self, lane: Iterator[Fault]) -> None:
        """Carry a lane's faults out."""
        try:
            for fault in lane:
                if self._over.wait(fault.pause):
                    return
                self._do(fault)
        except BaseException as error:  # noqa: BLE001  (told by whoever waits for the lane)
            self.errors.append(error)

    def end(self) -> None:
        """Begin no other; what is going on ends soon."""
        self._over.set()

    def heal(self) -> None:
        """Undo all that was done to brokers and the network."""
        self._proxy.reset()
        for broker in self._kafka.brokers:
            if broker.running:
                broker.resume()
            broker.start()

    def _do(self, fault: Fault) -> None:
        began = time.time()
        hits = {"brokers": self._to_broker, "network": self._to_network, "writers": self._to_writer}[fault.lane](fault)
        if hits:
            self.met.add(fault.kind)
        self._journal.write(
            "fault",
            kind=fault.kind,
            target=fault.target,
            began=round(began, 3),
            hits=hits,
            seconds=round(fault.seconds, 2),
            ms=fault.ms,
        )

    def _last(self, fault: Fault) -> None:
        self._over.wait(fault.seconds)

    def _to_broker(self, fault: Fault) -> int:
        broker = self._kafka.brokers[int(fault.target) - 1]
        if fault.way == "pause":
            broker.pause()
            self._last(fault)
            broker.resume()
        elif fault.way == "kill":
            broker.kill()
            self._last(fault)
            broker.start()
        else:
            broker.restart()
        return 1

    def _to_network(self, fault: Fault) -> int:
        proxy = self._proxy
        if fault.action is not None and fault.api is not None:
            with proxy.on(fault.api, fault.action, times=fault.times, ms=fault.ms, client=CLIENT) as rule:
                settled(lambda: rule.hits >= fault.times or self._over.is_set(), fault.seconds)
                return rule.hits
        broker = int(fault.target)
        if fault.way == "cut":
            proxy.cut(broker)
        elif fault.way == "freeze":
            proxy.freeze(broker)
            self._last(fault)
            proxy.thaw(broker)
        elif fault.way == "refuse":
            proxy.refuse(broker)
            proxy.cut(broker)
            self._last(fault)
            proxy.accept(broker)
        else:
            proxy.lag(fault.ms, broker)
            self._last(fault)
            proxy.lag(0, broker)
        return 1

    def _to_writer(self, fault: Fault) -> int:
        writer: Writer = self._fleet[fault.target]
        for each in self._fleet:
            each.revive()
        match fault.way:
            case "kill":
                writer.kill()
                writer.start()
            case "pause":
                writer.pause()
                self._last(fault)
                writer.resume()
            case "restart":
                writer.stop()
                writer.start()
            case "deploy":
                writer.replace()
            case "child":
                return int(writer.kill_child())
            case order:
                writer.tell(order)
        return 1
