"""What a real broker of LocalKafka does, and what becomes of it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from tests.faults.proxy import FaultProxy
from tests.testing.ports import DEADLINE_S, free_port, refuses, within_deadline
from wd_di.testing import ClusterError, LocalKafka, _broker, _cluster, _kraft
from wd_di.testing._broker import Broker
from wd_di.testing._cluster import answers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUIET = {"log_level": 0}
CREATE_TOPICS, DELETE_TOPICS = 19, 20


@pytest.fixture
def topic(kafka: LocalKafka) -> str:
    """A new topic."""
    return kafka.create_topic(f"t-{uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="module")
def three() -> Iterator[LocalKafka]:
    """A cluster of three."""
    with LocalKafka(3) as kafka:
        yield kafka


def transactional(kafka: LocalKafka, transactional_id: str) -> Producer:
    """An initialised transactional producer."""
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": transactional_id, **QUIET},
    )
    producer.init_transactions(DEADLINE_S)
    return producer


def produce(producer: Producer, topic: str, value: bytes) -> None:
    """Begin a transaction and deliver one record in it."""
    producer.begin_transaction()
    producer.produce(topic, value)
    assert producer.flush(DEADLINE_S) == 0


def committed(kafka: LocalKafka, topic: str, count: int) -> list[bytes | None]:
    """The first values that a read_committed reader sees.

    Not those up to the partition's end: a commit is answered before its markers are written, so that the last stable
    offset follows a moment later.
    """
    config = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "group.id": "g",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        **QUIET,
    }
    with Consumer(config) as consumer:
        consumer.assign([TopicPartition(topic, 0, 0)])
        return [message.value() for message in consumer.consume(count, DEADLINE_S) if message.error() is None]


def test_read_committed(kafka, topic):
    """A read_committed reader sees what was committed and nothing of what was aborted."""
    producer = transactional(kafka, topic)

    produce(producer, topic, b"aborted")
    producer.abort_transaction(DEADLINE_S)
    produce(producer, topic, b"committed")
    producer.commit_transaction(DEADLINE_S)

    assert [b"committed"] == committed(kafka, topic, 1)


def test_fencing(kafka, topic):
    """A second producer with the same transactional.id fences the first one."""
    first = transactional(kafka, topic)
    produce(first, topic, b"from the first")

    transactional(kafka, topic)

    with pytest.raises(KafkaException) as raised:
        first.commit_transaction(DEADLINE_S)
    assert KafkaError._FENCED == raised.value.args[0].code()


def test_kill(kafka, topic):
    """A killed broker is gone at once, and comes back on its port with what had been committed just before."""
    producer = transactional(kafka, topic)
    produce(producer, topic, b"before")
    producer.commit_transaction(DEADLINE_S)
    broker = kafka.brokers[0]
    pid = broker.pid

    broker.kill()

    assert not broker.running
    assert refuses(broker.port)
    with pytest.raises(ClusterError, match="isn't running"):
        _ = broker.pid
    broker.restart()
    assert pid != broker.pid
    assert [b"before"] == committed(kafka, topic, 1)


def test_pause(kafka, topic):
    """A paused broker answers nothing until it is resumed, and loses nothing."""
    producer = transactional(kafka, topic)
    producer.begin_transaction()
    broker = kafka.brokers[0]

    broker.pause()
    try:
        producer.produce(topic, b"meanwhile")
        left = producer.flush(0.5)
    finally:
        broker.resume()
    producer.commit_transaction(DEADLINE_S)

    assert left == 1
    assert broker.running
    assert [b"meanwhile"] == committed(kafka, topic, 1)


def test_stop_while_paused(kafka):
    """A paused broker can be stopped in good order and started again."""
    broker = kafka.brokers[0]
    broker.pause()

    broker.stop()

    assert not broker.running
    assert "due to signal SIGTERM" in broker.log_tail(200)
    broker.start()
    assert broker.running


def test_ctrl_c_is_for_the_test(kafka):
    """A broker is in a session of its own, so that Ctrl-C in the terminal doesn't end it."""
    assert os.getsid(0) != os.getsid(kafka.brokers[0].pid)


def test_create_topic(kafka):
    """A topic has its partitions and settings when create_topic returns; a second one of its name is refused."""
    name = kafka.create_topic(f"t-{uuid.uuid4().hex[:8]}", partitions=3, config={"retention.ms": 60_000})

    found = Producer({"bootstrap.servers": kafka.bootstrap_servers}).list_topics(name, timeout=DEADLINE_S)
    assert 3 == len(found.topics[name].partitions)
    with pytest.raises(ClusterError, match="already exists"):
        kafka.create_topic(name)
    kafka.delete_topic(name)
    with pytest.raises(ClusterError, match="couldn't be deleted"):
        kafka.delete_topic(name)


@pytest.mark.kafka
def test_a_question_without_an_answer(monkeypatch):
    """It is asked again by another client, and what was done after all counts as done; else the error says how long."""
    monkeypatch.setattr(_cluster, "_ANSWER_S", 1.0)
    with FaultProxy() as proxy, LocalKafka(advertise=proxy.advertise) as kafka:
        for action in ("swallow request", "swallow reply"):
            obeyed = [proxy.on(api, action) for api in (CREATE_TOPICS, DELETE_TOPICS)]
            kafka.create_topic("slowly")
            kafka.delete_topic("slowly")
            assert [1, 1] == [rule.hits for rule in obeyed]
        proxy.on(CREATE_TOPICS, "swallow request", times=None)
        with pytest.raises(ClusterError, match="topic 'never' couldn't be created: no answer within 200 ms"):
            kafka.create_topic("never", timeout_ms=200)


def test_three_brokers(kafka, three):
    """Of three brokers one may die: what acks=all promised is still there and more can be committed."""
    topic = three.create_topic("survivor")
    producer = transactional(three, "survivor")
    produce(producer, topic, b"before")
    producer.commit_transaction(DEADLINE_S)
    leader = producer.list_topics(topic, timeout=DEADLINE_S).topics[topic].partitions[0].leader

    next(broker for broker in three.brokers if broker.id == leader).kill()
    produce(producer, topic, b"after")
    producer.commit_transaction(DEADLINE_S)

    assert [b"before", b"after"] == committed(three, topic, 2)


def test_ends_with_its_process(kafka, tmp_path, monkeypatch):
    """A broker ends, and its data goes, when the Python process that started it is killed."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    script = (
        "from wd_di.testing import LocalKafka\n"
        "kafka = LocalKafka().start()\n"
        "print(kafka.brokers[0].port, flush=True)\n"
        "input()"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) == 0

        process.send_signal(signal.SIGKILL)

        assert within_deadline(lambda: refuses(port))
        assert within_deadline(lambda: not list(tmp_path.glob("wd_di-kafka-*")))


def test_wrong_setting(kafka):
    """A setting that Kafka doesn't accept is named in the error, and nothing stays behind."""
    broken = LocalKafka(config={"num.partitions": "many"})

    with pytest.raises(ClusterError, match=r"num\.partitions"):
        broken.start()
    assert repr(broken).endswith(": stopped>")


def test_died_at_start(kafka):
    """A broker that dies at its start shows the end of its log."""
    broken = LocalKafka(config={"log.dirs": "/dev/null/nowhere"}, start_timeout_ms=30_000)

    with pytest.raises(ClusterError, match=re.escape("/dev/null/nowhere")):
        broken.start()


def test_too_slow(kafka):
    """A start is bounded, and says by how much."""
    with pytest.raises(ClusterError, match="after 10 ms"):
        LocalKafka(start_timeout_ms=10).start()


def test_not_started():
    """A cluster that isn't started says so."""
    kafka = LocalKafka()

    with pytest.raises(ClusterError, match="isn't running: start"):
        _ = kafka.bootstrap_servers
    with pytest.raises(ClusterError, match="isn't running: start"):
        _ = kafka.brokers
    kafka.stop()


def test_a_port_that_was_just_left_is_free():
    """Connections that a former broker has closed, and that the system remembers for a minute, are no reason."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        taken = _kraft.refusal(port)
        with socket.create_connection(("127.0.0.1", port)) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""

    assert taken
    assert _kraft.refusal(port) is None


@pytest.mark.parametrize("brokers", [1, 3])
def test_a_port_that_is_taken(brokers, monkeypatch, tmp_path):
    """A port that somebody else uses is named at once, before anything is downloaded; of three brokers each one's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", free_port(3) + brokers - 1)) as other:
        taken = other.getsockname()[1]
        kafka = LocalKafka(brokers, port=taken - brokers + 1)

        with pytest.raises(ClusterError, match=rf"^port {taken}, .* in use\. .*lsof -i :{taken} .* none for one"):
            kafka.start()

    assert not list(tmp_path.iterdir())
    assert repr(kafka).endswith(": stopped>")


def test_ports_that_cannot_be():
    """A port has to exist, and the other brokers' have to, too."""
    with pytest.raises(ValueError, match="port is a number from 1 to 65535, not 0"):
        LocalKafka(port=0)
    with pytest.raises(ValueError, match="port is a number from 1 to 65533, not 65534"):
        LocalKafka(3, port=65_534)


def test_a_given_port_is_not_given_twice(monkeypatch):
    """What a broker was told to use isn't chosen for something else."""
    monkeypatch.setattr(_kraft, "_PORTS", range(20_000, 20_040))

    assert not set(_kraft.free_ports(20, besides=range(20_000, 20_010))) & set(range(20_000, 20_010))


def test_a_broker_of_another_cluster_is_not_ready(kafka):
    """Who answers on a port counts only if it is of the cluster that was started."""
    [broker] = kafka.brokers
    cluster_id = Producer({"bootstrap.servers": kafka.bootstrap_servers}).list_topics(timeout=DEADLINE_S).cluster_id

    alone = {"bootstrap.servers": f"127.0.0.1:{broker.port}"}
    assert answers(broker.id, alone, cluster_id)
    assert not answers(broker.id, alone, "another")


def test_ctrl_c_while_a_process_starts(tmp_path: Path, monkeypatch):
    """Ctrl-C in the moment in which a broker is started comes when it is known, and guarded."""
    node = _kraft.Node(1, 1, 2, 3, "localhost:1")
    broker = Broker(node, command=["sleep", "60"], log=tmp_path / "log", is_ready=lambda: True, timeout_ms=1)
    start = subprocess.Popen

    def interrupted(*args, **options):
        process = start(*args, **options)
        signal.raise_signal(signal.SIGINT)
        return process

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(_broker.subprocess, "Popen", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            broker.launch()
        running, guarded = broker.running, broker._guard is not None
    finally:
        signal.signal(signal.SIGINT, before)
        broker.kill()

    assert (True, True) == (running, guarded)
    assert not broker.running
