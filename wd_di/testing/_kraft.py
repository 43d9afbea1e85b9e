"""What a broker is told: its ports and its ``server.properties``, chosen for tests."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

HOST = "127.0.0.1"
# Below Linux' and macOS' ephemeral ports: else a client's own connection could take a killed broker's port,
# and a client that knocks at a dead port again and again could end up connected to itself.
_PORTS = range(20_000, 32_000)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A port of a broker besides the one without security; the listener is called as its protocol."""

    protocol: str
    port: int
    advertised: str


@dataclass(frozen=True, slots=True)
class Node:
    """One broker, which is also one of the cluster's controllers."""

    id: int
    port: int
    internal_port: int
    controller_port: int
    advertised: str
    secured: Sequence[Endpoint] = ()


def free_ports(count: int, *, besides: Sequence[int] = ()) -> list[int]:
    """Distinct loopback ports that nobody listens on just now, and none of those that are spoken for."""
    candidates = [port for port in _PORTS if port not in besides]
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        for port in random.sample(candidates, len(candidates)):
            if len(ports) == count:
                break
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                ports.append(port)
        return ports


def refusal(port: int) -> str | None:
    """Why the system gives this loopback port to nobody just now; ``None`` if it would."""
    with socket.socket() as probe:
        # As Java does: connections that a former broker has left in TIME_WAIT are no reason.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return error.strerror
    return None


def properties(node: Node, nodes: Sequence[Node], data: Path, overrides: Mapping[str, object]) -> str:
    """The text of one broker's ``server.properties``."""
    settings = _network(node, nodes) | _small(len(nodes)) | {"log.dirs": data} | dict(overrides)
    return "".join(f"{key}={_text(value)}\n" for key, value in settings.items())


def _network(node: Node, nodes: Sequence[Node]) -> dict[str, object]:
    # Brokers talk to each other on a listener of their own, so that a proxy that `advertised` names can hurt
    # clients without hurting the transaction coordinator.
    return {
        "process.roles": "broker,controller",
        "node.id": node.id,
        "controller.quorum.voters": ",".join(f"{n.id}@{HOST}:{n.controller_port}" for n in nodes),
        "listeners": f"CLIENT://{HOST}:{node.port},INTERNAL://{HOST}:{node.internal_port},"
        f"CONTROLLER://{HOST}:{node.controller_port}"
        + "".join(f",{each.protocol}://{HOST}:{each.port}" for each in node.secured),
        "advertised.listeners": f"CLIENT://{node.advertised},INTERNAL://{HOST}:{node.internal_port}"
        + "".join(f",{each.protocol}://{each.advertised}" for each in node.secured),
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "INTERNAL",
        "controller.listener.names": "CONTROLLER",
    }


def _small(brokers: int) -> dict[str, object]:
    in_sync = 2 if brokers > 1 else 1
    return {
        "num.partitions": 1,
        "default.replication.factor": brokers,
        "min.insync.replicas": in_sync,
        "auto.create.topics.enable": True,
        "group.initial.rebalance.delay.ms": 0,
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 500,  # the search for overlong transactions
        "offsets.topic.num.partitions": brokers,
        "offsets.topic.replication.factor": brokers,
        "transaction.state.log.num.partitions": brokers,
        "transaction.state.log.replication.factor": brokers,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": brokers,
        "share.coordinator.state.topic.min.isr": in_sync,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "log.cleaner.dedupe.buffer.size": 2 * 1024 * 1024,
        # A killed broker can register again only when the controllers have given up its former self.
        "broker.heartbeat.interval.ms": 500,
        "broker.session.timeout.ms": 3_000,
    }


def _text(value: object) -> str:
    """Java reads a file of properties as Latin-1, and ends a value with its line; its escapes are those of JSON."""
    return json.dumps(str(value).lower() if isinstance(value, bool) else str(value))[1:-1]
