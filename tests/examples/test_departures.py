"""The demo: what each of its parts does, and what the whole shows on the mock and on a real broker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient
from dependency_injector import providers

from examples.departures import __main__ as demo
from examples.departures import publishing, report
from examples.departures.containers import Container
from examples.departures.flights import Flight, FlightsError, read_flights
from examples.departures.publishing import Journal, Score, publish
from examples.departures.readers import Seen, read_back
from examples.departures.services import FlightCancelledError, depart
from examples.departures.settings import Settings, Topics, settings_for
from tests.pools import until
from wd_di import (
    KafkaSettings,
    Observer,
    PoolClosedError,
    PoolSettings,
    ProducerPool,
    TransactionAborted,
    TransactionCommitted,
)
from wd_di.testing import _cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wd_di.testing import Cluster, MockKafka

HEADER = "year,month,day,dep_time,sched_dep_time,dep_delay,carrier,flight,tailnum,origin,dest"
LEFT = Flight("2013-02-08", "US1117", "N197UW", "EWR", "CLT", "05:00", "04:58", -2)
CANCELLED = Flight("2013-02-08", "US2187", None, "LGA", "DCA", "19:00", None, None)


@pytest.fixture
def pool() -> Iterator[ProducerPool]:
    """A pool in memory."""
    with ProducerPool(PoolSettings(deliver=False, size=2, transactional_id="test-{host}-{index}")) as pool:
        yield pool


@pytest.fixture
def container(pool: ProducerPool) -> Iterator[Container]:
    """The application with that pool instead of its own."""
    container = Container(settings=providers.Object(Settings()))
    with container.departures.override(pool):
        yield container
    container.unwire()


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """A file of three flights, one of them cancelled."""
    path = tmp_path / "flights.csv"
    rows = (
        "2013,2,8,NA,1900,NA,US,2187,NA,LGA,DCA",
        "2013,2,8,458,500,-2,US,1117,N197UW,EWR,CLT",
        "2013,2,8,1012.0,1000,12.0,B6,7,N5,JFK,BOS",
    )
    path.write_text("\n".join((HEADER, *rows)))
    return path


class Recorder:
    """Stands in for a transaction."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str, str | None]] = []

    def produce_async(self, topic: str, value: str, key: str | None = None) -> None:
        self.records.append((topic, value, key))


# -- flights -----------------------------------------------------------------------------------


def test_the_day_is_whole():
    """The file that comes along holds the 930 flights of the blizzard, 472 of them cancelled."""
    flights = read_flights(demo.DAY)

    assert 930 == len(flights)
    assert 472 == sum(flight.departed is None for flight in flights)


def test_flights_come_by_timetable(csv):
    """Flights are in the order of their planned departure, with gaps and pandas' decimals understood."""
    first, second, third = read_flights(csv)

    assert LEFT == first
    assert ("B67", "10:12", 12) == (second.name, second.departed, second.delay)
    assert CANCELLED == third


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "can't read {path}: No such file or directory"),
        (b"", "{path} isn't a table of flights: its first line has no column year, month"),
        (HEADER.replace(",tailnum", "").encode(), "its first line has no column tailnum"),
        (HEADER.encode(), "{path} has no flights"),
        (f"{HEADER}\n2013,2,8,458,5h,-2,US,1,N1,EWR,CLT".encode(), "line 2: sched_dep_time is '5h', not a whole"),
        (f"{HEADER}\n2013,2,8,458,500,-2,US,1,N1,EWR".encode(), "line 2: dest is empty"),
        (b"\xff\xfe\x00", "{path} isn't a CSV file"),
    ],
)
def test_wrong_files_are_explained(tmp_path, text, said):
    """A file that isn't a table of flights is refused with its name, line and column."""
    path = tmp_path / "wrong.csv"
    if text is not None:
        path.write_bytes(text)

    with pytest.raises(FlightsError) as raised:
        read_flights(path)

    assert said.format(path=path) in str(raised.value)


# -- the service -------------------------------------------------------------------------------


def test_a_departure_is_two_records():
    """A flight is announced under its name and under its aircraft."""
    tx = Recorder()

    depart(LEFT, tx=tx, topics=Topics())

    assert [("departures", "US1117"), ("movements", "N197UW")] == [(topic, key) for topic, _, key in tx.records]
    assert '"departed": "04:58"' in tx.records[0][1]
    assert '{"aircraft": "N197UW", "flight": "US1117", "from": "EWR", "to": "CLT"}' == tx.records[1][1]


def test_a_departure_is_committed(container, pool):
    """A flight that left is one committed transaction of two records."""
    seen: list[TransactionCommitted] = []
    pool.observer.subscribe(TransactionCommitted, seen.append)

    depart(LEFT)

    assert [2] == [event.records for event in seen]


def test_a_cancelled_flight_is_aborted(container, pool):
    """A flight that never left takes both records back."""
    seen: list[TransactionAborted] = []
    pool.observer.subscribe(TransactionAborted, seen.append)

    with pytest.raises(FlightCancelledError, match="US2187 to DCA at 19:00 was cancelled"):
        depart(CANCELLED)

    assert [2] == [event.records for event in seen]


def test_threads_share_the_flights(container, pool):
    """Every flight is announced once, whichever thread takes it, and counted by what became of it."""
    score, journal, steps = Score(), Journal(pool.observer), []

    publish([LEFT, CANCELLED] * 20, 4, score, steps.append)

    assert (20, 20) == (score.committed, score.aborted)
    assert 40 == sum(steps)
    assert (20, 20) == (journal.events["transaction.committed"], journal.events["transaction.aborted"])
    assert 40 == len(journal.durations_ms)


def test_a_failure_ends_the_publishing(container, pool):
    """What is neither committed nor cancelled is raised, and no flight counts as done."""
    score = Score()
    pool.close()

    with pytest.raises(PoolClosedError):
        publish([LEFT] * 100, 2, score, lambda _: None)

    assert (0, 0) == (score.committed, score.aborted)


# -- the readers and the report ----------------------------------------------------------------


def test_readers_count_to_the_end(mock_kafka: MockKafka):
    """A reader counts every record of every partition, and what the mock can't show is left out."""
    topics = [mock_kafka.create_topic("a", 2), mock_kafka.create_topic("b", 1), mock_kafka.create_topic("empty", 1)]
    settings = PoolSettings(kafka=KafkaSettings(bootstrap_servers=mock_kafka.bootstrap_servers))
    with ProducerPool(settings) as pool, pool.producer() as producer:
        for number in range(30):
            producer.produce_async(topics[number % 2], "x", partition=0)
        producer.flush()
    read: list[int] = []

    seen = read_back(mock_kafka.bootstrap_servers, topics, isolates=False, read=read.append)

    assert Seen(read_committed=None, read_uncommitted=30) == seen
    assert 30 == sum(read)


def test_differences_are_named():
    """Each number that doesn't agree is said with what it should be."""
    score = Score()
    score.count(committed=True)
    score.count(committed=False)

    assert [] == report.differences(score, Seen(read_committed=2, read_uncommitted=4))
    assert [] == report.differences(score, Seen(read_committed=None, read_uncommitted=4))
    assert [
        "2 records were committed, and a read_committed reader sees 3",
        "4 records were sent, and a read_uncommitted reader sees 5",
    ] == report.differences(score, Seen(read_committed=3, read_uncommitted=5))


def test_times_are_ranked():
    """The median and the 99th percentile are transactions that there were."""
    assert "Time per transaction: median 50.0 ms, p99 99.0 ms." == report.times([float(n) for n in range(100, 0, -1)])
    assert "Time per transaction: median 7.0 ms, p99 7.0 ms." == report.times([7.0])


def test_the_environment_fills_what_the_run_leaves_open(monkeypatch):
    """Fields of the pool come from the environment; where Kafka is comes from the command line."""
    monkeypatch.setenv("DEPARTURES__SIZE", "7")
    monkeypatch.setenv("DEPARTURES__KAFKA__BOOTSTRAP_SERVERS", "elsewhere:1")

    departures = settings_for("here:1", Topics()).departures

    assert (7, "here:1") == (departures.size, departures.kafka.bootstrap_servers)
    assert "departures-{host}-{pid}-{index}" == departures.transactional_id


# -- the whole ---------------------------------------------------------------------------------


def test_demo_on_the_mock(csv, capsys):
    """On the mock the demo counts what it can, says what it can't, and writes no control characters to a file."""
    code = demo.main([str(csv), "--kafka=mock", "--threads=2"])
    out, err = capsys.readouterr()

    assert (0, "") == (code, err)
    assert ["committed by the application 2 4", "aborted by the application 1 2"] == _rows(out, "by the application")
    assert ["seen by a read_uncommitted reader 6"] == _rows(out, "read_uncommitted reader ")
    assert ["transaction.finished 3"] == _rows(out, "transaction.finished")
    assert "the mock cluster hides aborted records from nobody" in out
    assert "The numbers agree." in out
    assert "\x1b" not in out
    assert "\r" not in out


def test_demo_on_a_real_broker(local_kafka: Cluster, capsys):
    """On a real broker the day's numbers match exactly: half of the records are for read_uncommitted readers only."""
    code = demo.main([f"--kafka={local_kafka.bootstrap_servers}"])
    out, err = capsys.readouterr()

    assert (0, "") == (code, err)
    assert ["committed by the application 458 916", "aborted by the application 472 944"] == _rows(
        out, "by the application"
    )
    assert ["seen by a read_committed reader 916"] == _rows(out, "read_committed reader ")
    assert ["seen by a read_uncommitted reader 1,860"] == _rows(out, "read_uncommitted reader ")
    assert "The numbers agree." in out


def test_demo_leaves_no_topics(local_kafka: Cluster, csv):
    """A cluster that isn't the demo's own keeps none of its topics."""
    admin = AdminClient({"bootstrap.servers": local_kafka.bootstrap_servers})

    def topics() -> set[str]:
        return {name for name in admin.list_topics(timeout=10).topics if not name.startswith("__")}

    before = topics()
    code = demo.main([str(csv), f"--kafka={local_kafka.bootstrap_servers}"])

    assert 0 == code
    until(lambda: topics() <= before)  # brokers hear of a deletion a moment after it was answered


def test_numbers_that_differ_fail(csv, capsys, monkeypatch):
    """If a reader sees something else than was committed, the demo says what, and its exit code is 1."""
    monkeypatch.setattr(demo, "read_back", lambda *_, **__: Seen(read_committed=5, read_uncommitted=6))

    code = demo.main([str(csv), "--kafka=mock"])

    assert 1 == code
    assert (
        "The numbers differ: 4 records were committed, and a read_committed reader sees 5." in capsys.readouterr().out
    )


def test_no_broker_is_one_line(csv, capsys, monkeypatch):
    """A broker that nobody can reach ends the demo with one line and exit code 1, and names what else it runs on."""
    monkeypatch.setattr(_cluster, "_ANSWER_S", 0.5)
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)

    code = demo.main([str(csv), "--kafka=127.0.0.1:1"])
    out, err = capsys.readouterr()

    assert (1, "") == (code, out)
    assert err.startswith("Failed: no Kafka answers at '127.0.0.1:1'")
    assert "Or say KAFKA=mock for librdkafka's mock in the demo's own process, or KAFKA=local" in err
    assert 1 == err.count("\n")


def test_unsetting_the_environment_gives_the_mock(csv, capsys, monkeypatch):
    """Where the environment names a broker that nobody can reach, the demo says what it runs on without that."""
    monkeypatch.setattr(_cluster, "_ANSWER_S", 0.5)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")

    assert 1 == demo.main([str(csv)])
    assert "Or unset KAFKA_BOOTSTRAP_SERVERS for librdkafka's mock in the demo's own process" in capsys.readouterr().err


def test_ctrl_c_says_how_far_it_came(csv, capsys, monkeypatch):
    """Interrupted, the demo says in one line what was committed so far; its exit code is that of the signal."""

    def interrupted(flight: Flight) -> None:
        if flight == CANCELLED:
            raise KeyboardInterrupt

    monkeypatch.setattr(publishing, "depart", interrupted)

    code = demo.main([str(csv), "--kafka=mock", "--threads=1"])

    assert 130 == code
    assert "Interrupted (2 committed, 0 aborted so far)\n" == capsys.readouterr().err


def test_a_missing_file_is_one_line(capsys):
    """A file that isn't there ends the demo before any broker is asked for."""
    code = demo.main(["nowhere.csv", "--kafka=local"])

    assert 1 == code
    assert "Failed: can't read nowhere.csv: No such file or directory\n" == capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "said"),
    [("--kafka=somewhere", "neither mock, local nor HOST:PORT"), ("--threads=0", "isn't a number from 1 to 256")],
)
def test_wrong_arguments_are_explained(argument, said, capsys):
    """An argument that can't be meant is refused with what it may be."""
    with pytest.raises(SystemExit) as raised:
        demo.main([argument])

    assert 2 == raised.value.code
    assert said in capsys.readouterr().err


def test_the_environment_names_the_broker(monkeypatch):
    """Without --kafka the demo runs where KAFKA_BOOTSTRAP_SERVERS says, else on the mock."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "one:9092,two:9092")
    given = demo._parser().parse_args([]).kafka
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS")
    otherwise = demo._parser().parse_args([]).kafka

    assert ("one:9092,two:9092", "mock") == (given, otherwise)


def test_the_observer_is_the_containers():
    """Whoever subscribes at the container's observer hears the pool."""
    departures = PoolSettings(deliver=False, transactional_id="test-{host}-{index}")
    container = Container(settings=providers.Object(Settings(departures=departures)))
    names: list[str] = []
    observer: Observer = container.observer()
    observer.subscribe("*", lambda event: names.append(event.name))

    container.departures()
    container.shutdown_resources()
    container.unwire()

    assert "connection_pool.created" == names[0]
    assert "connection_pool.shutdown" == names[-1]


def _rows(text: str, part: str) -> list[str]:
    """The lines of a table that hold ``part``, without their columns' spaces."""
    return [" ".join(line.split()) for line in text.splitlines() if part in line]
