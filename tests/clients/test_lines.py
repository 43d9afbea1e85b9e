"""Which of librdkafka's own lines a pool logs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.pools import plain
from wd_di._kafka.lines import Lines
from wd_di.testing import MockKafka

REFUSED = "Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after {ms}ms in state CONNECT{more})"
AUTH = "SASL authentication error: Authentication failed (after 12ms in state AUTH_REQ)"
PLAIN_TO_TLS = (
    "Disconnected: connection closed by peer: receive 0 after POLLIN (after 3ms in state APIVERSION_QUERY): requesting "
    "ApiVersion: might be caused by incorrect security.protocol configuration (connecting to a SSL listener?)"
)
BY_ONE = "FAIL [orders-0#producer-1] [thrd:10.0.0.1:9092/1]: 10.0.0.1:9092/1: "
LOADING = (
    "Failed to acquire transactional PID from broker TxnCoordinator/1: Broker: Coordinator load in progress: retrying"
)


class Pool:
    """The lines of a pool at a clock that is set by hand."""

    def __init__(self, logger: logging.Logger) -> None:
        self.now = 1_000.0
        self.lines = Lines("orders", lambda: self.now)
        self.writer = self.lines.to(logger)

    def say(self, text: str, *, level: int = logging.ERROR, facility: str = "FAIL", producer: int = 0) -> None:
        """Log as librdkafka does, for one of the pool's producers."""
        self.writer.log(level, "%s [%s] %s", facility, f"orders-{producer}#producer-1", text)

    def fail(self, name: str, cause: str = REFUSED, *, producer: int = 0, ms: int = 0, more: str = "") -> None:
        """Tell that a producer has no connection to a broker."""
        thread = name.partition(": ")[0]
        self.say(f"[thrd:{thread}]: {name}: {cause.format(ms=ms, more=more)}", producer=producer)

    def look(self, brokers: Mapping[str, str] | None, *, after: float) -> None:
        """Ask which brokers there are, some seconds later."""
        self.now += after
        assert self.lines.due() is not None
        self.lines.looked(brokers)


@pytest.fixture
def logger() -> logging.Logger:
    """A logger at INFO."""
    return logging.getLogger("tests.lines")


@pytest.fixture
def pool(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> Iterator[Pool]:
    """A pool that logs there."""
    with caplog.at_level(logging.INFO, logger.name):
        yield Pool(logger)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The lines so far, each with its level."""
    return [(each.levelname, each.getMessage()) for each in caplog.records]


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines so far."""
    return [each.getMessage() for each in caplog.records]


def until(happened: Callable[[], object]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- outages -----------------------------------------------------------------------------------------


def test_a_broker_that_goes_and_comes_back(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """However many producers try however often, there is one line when it goes and one when it is back."""
    for second in range(26):
        for producer in range(5):
            name = ("10.0.0.1:9092/1", "TxnCoordinator: 10.0.0.1:9092", "10.0.0.1:9092/bootstrap")[second % 3]
            more = ", 3 identical error(s) suppressed" if second else ""
            pool.fail(name, producer=producer, ms=second % 2, more=more)
        pool.now += 1
    pool.look(None, after=0)
    pool.look({"1": "10.0.0.1:9092"}, after=4)

    assert told(caplog) == [
        ("ERROR", "orders: broker 10.0.0.1:9092 is away: Connect to ipv4#10.0.0.1:9092 failed: Connection refused"),
        ("WARNING", "orders: broker 10.0.0.1:9092 is back after 30.0 s (129 lines left out)"),
    ]
    assert not pool.lines.away


def test_one_broker_of_three(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """Its return is told as soon as the others list it again, though no producer may need it."""
    others = {"2": "10.0.0.2:9092", "3": "10.0.0.3:9092"}
    pool.fail("TxnCoordinator: 10.0.0.1:9092")
    pool.look(others, after=1)
    pool.look(others, after=1)
    before = len(caplog.records)
    pool.look(others | {"1": "10.0.0.1:9092"}, after=1)

    assert before == 1
    assert texts(caplog)[-1] == "orders: broker 10.0.0.1:9092 is back after 3.0 s"


def test_lines_that_come_late(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """What a producer said before the return, and nobody had heard yet, is no second outage; a later one is."""
    pool.fail("10.0.0.1:9092/1")
    pool.look({"1": "10.0.0.1:9092"}, after=1)
    pool.now += 1
    pool.fail("10.0.0.1:9092/1", producer=3)
    late = len(caplog.records), pool.lines.away
    pool.now += 3
    pool.fail("10.0.0.1:9092/1")

    assert late == (2, False)
    assert texts(caplog)[-1].startswith("orders: broker 10.0.0.1:9092 is away: ")


def test_a_lone_broker_that_answers(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """It is back, though nobody noticed that there was no answer."""
    pool.fail("10.0.0.1:9092/1")
    pool.look({"1": "10.0.0.1:9092"}, after=1)

    assert texts(caplog)[-1] == "orders: broker 10.0.0.1:9092 is back after 1.0 s"


def test_a_broker_that_comes_back_elsewhere(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """A broker with another address is known by its number."""
    pool.fail("10.0.0.1:9092/1")
    pool.look(None, after=1)
    pool.look({"1": "10.9.9.9:9092"}, after=1)

    assert texts(caplog)[-1] == "orders: broker 10.0.0.1:9092 is back after 2.0 s"


def test_a_broker_that_the_others_never_missed(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """As long as it may still be away, nobody says that it is back; librdkafka repeats itself every 30 s only."""
    listed = {"1": "10.0.0.1:9092", "2": "10.0.0.2:9092"}
    pool.fail("10.0.0.1:9092/1")
    pool.look(listed, after=40)
    before = len(caplog.records)
    pool.look(listed, after=6)

    assert before == 1
    assert texts(caplog)[-1] == "orders: broker 10.0.0.1:9092 is back, it seems: for 46 s nothing failed"


@pytest.mark.parametrize(("answers", "after"), [((None,), 2), (({"1": "10.0.0.1:9092"},), 47)])
def test_an_address_that_is_no_brokers(
    pool: Pool, caplog: pytest.LogCaptureFixture, answers: tuple[Mapping[str, str] | None], after: int
) -> None:
    """A bootstrap address that no broker calls its own is over when the cluster answers, and is told anew."""
    pool.fail("kafka.example:9092/bootstrap", "Failed to resolve 'kafka.example:9092': Name or service not known")
    for each in answers:
        pool.look(each, after=1)
    pool.look({"1": "10.0.0.1:9092"}, after=after - 1)
    pool.now += 4
    pool.fail("kafka.example:9092/bootstrap", "Failed to resolve 'kafka.example:9092': Name or service not known")

    away = (
        "orders: broker kafka.example:9092 is away: Failed to resolve 'kafka.example:9092': Name or service not known"
    )
    answered = f"orders: the cluster answers after {after}.0 s, without a broker at kafka.example:9092"
    assert texts(caplog) == [away, answered, away]


def test_another_reason(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """Each reason why a broker can't be reached is told once, the others in librdkafka's own words."""
    for _ in range(3):
        pool.fail("10.0.0.1:9092/1")
        pool.fail("10.0.0.1:9092/1", "2 request(s) timed out: disconnect (after 60002ms in state UP)")
        pool.fail("10.0.0.1:9092/1", "3 request(s) timed out: disconnect (after 61000ms in state UP)")

    assert texts(caplog) == [
        "orders: broker 10.0.0.1:9092 is away: Connect to ipv4#10.0.0.1:9092 failed: Connection refused",
        f"{BY_ONE}2 request(s) timed out: disconnect (after 60002ms in state UP)",
    ]


def test_a_port_that_closes(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """One that resets what it had begun to take says no more than one that refuses, whoever tells of it."""
    pool.fail("10.0.0.1:9092/1")
    pool.fail(
        "10.0.0.1:9092/1", REFUSED.replace("Connection refused", "Connection reset by peer").format(ms=0, more="")
    )

    assert texts(caplog) == [
        "orders: broker 10.0.0.1:9092 is away: Connect to ipv4#10.0.0.1:9092 failed: Connection refused",
    ]


def test_a_coordinator_without_an_address(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """A coordinator's line may lack the broker's name: then it counts for the broker that fails in the same way."""
    pool.fail("10.0.0.1:9092/1")
    pool.say(f"[thrd:TxnCoordinator]: TxnCoordinator: {REFUSED.format(ms=0, more='')}")

    assert len(caplog.records) == 1


def test_no_question_while_no_broker_is_away(pool: Pool) -> None:
    """Nobody is asked for brokers if nothing fails, nor twice at once, and ever more seldom."""
    assert not pool.lines.away
    assert pool.lines.due() is None
    pool.fail("10.0.0.1:9092/1")
    assert pool.lines.due() is None
    pool.now += 100
    assert pool.lines.due() == 5
    assert pool.lines.due() is None
    pool.lines.looked(None)
    pool.now += 9.9
    assert pool.lines.due() is None
    pool.now += 0.2
    assert pool.lines.due() == 5


def test_a_pool_that_is_closed_meanwhile(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """What was left out until then is told."""
    for _ in range(3):
        pool.fail("10.0.0.1:9092/1")
    pool.now += 3
    pool.lines.end()

    assert told(caplog)[-1] == (
        "INFO",
        "orders: closed while broker 10.0.0.1:9092 is away, for 3.0 s (2 lines left out)",
    )
    assert not pool.lines.away


def test_connections_that_end(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """A broker that closes connections is told once, for however many and in whatever state; nobody is away by that."""
    for name in ("10.0.0.1:9092/1", "TxnCoordinator: 10.0.0.1:9092"):
        for how in ("reset by peer (after 3ms in state APIVERSION_QUERY)", "closed by peer (after 4000ms in state UP)"):
            pool.say(f"[thrd:x]: {name}: Disconnected: connection {how}", level=logging.INFO)

    assert len(caplog.records) == 1
    assert not pool.lines.away


# -- what matters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", [AUTH, PLAIN_TO_TLS])
def test_what_waiting_does_not_cure(pool: Pool, caplog: pytest.LogCaptureFixture, cause: str) -> None:
    """A refused password or a wrong protocol is told in full, also while the broker is away, and again and again."""
    pool.fail("10.0.0.1:9092/1")
    for _ in range(4):
        pool.fail("10.0.0.1:9092/1", cause)
    pool.now += 11
    pool.fail("10.0.0.1:9092/1", cause)

    line = f"{BY_ONE}{cause}"
    assert told(caplog)[1:] == [("ERROR", line), ("ERROR", f"{line} (3 more since the last such line)")]


def test_one_of_a_kind(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """Lines that differ only in their producer and their numbers are one kind; names make another one."""
    for count in range(3):
        for topic in ("a.1", "a.2"):
            text = f"[thrd:x]: Topic {topic} [0]: {count} messages failed after {count}ms"
            pool.say(text, level=logging.WARNING, facility="MSG", producer=count)

    assert texts(caplog) == [
        f"MSG [orders-0#producer-1] [thrd:x]: Topic {topic} [0]: 0 messages failed after 0ms"
        for topic in ("a.1", "a.2")
    ]


def test_a_coordinator_that_settles(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """What every new cluster says at first is no warning, but for one that doesn't end."""
    for second in range(25):
        for producer in range(5):
            pool.say(f"[thrd:main]: {LOADING}", level=logging.WARNING, facility="GETPID", producer=producer)
        pool.now = 1_001.0 + second

    assert [each.levelname for each in caplog.records] == ["INFO", "WARNING", "WARNING"]
    assert texts(caplog)[-1].endswith("retrying (49 more since the last such line)")


def test_lines_that_were_asked_for(pool: Pool, logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    """A logger at DEBUG gets all there is: what is left out elsewhere, and librdkafka's own debug lines."""
    with caplog.at_level(logging.DEBUG, logger.name):
        for _ in range(3):
            pool.fail("10.0.0.1:9092/1")
            pool.say("[thrd:main]: a detail", level=logging.DEBUG, facility="BROKER")

    assert [each.levelname for each in caplog.records] == ["ERROR", "DEBUG", "DEBUG", "DEBUG", "DEBUG", "DEBUG"]
    assert texts(caplog)[2].endswith("10.0.0.1:9092/1: " + REFUSED.format(ms=0, more=""))


# -- a pool ------------------------------------------------------------------------------------------


def test_a_pool_whose_broker_goes(caplog: pytest.LogCaptureFixture) -> None:
    """Five producers of a pool tell together that their broker is away, and that it is back."""
    kafka = {"reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 50}
    with MockKafka() as mock, caplog.at_level(logging.INFO, "wd_di.librdkafka"):
        broker = f"orders: broker {mock.bootstrap_servers} is "
        with plain(mock.bootstrap_servers, name="orders", size=5, warm=True, kafka=kafka) as pool:
            mock.broker_down(1)
            until(lambda: f"{broker}away: " in caplog.text)
            mock.broker_up(1)
            until(lambda: f"{broker}back after " in caplog.text)
            assert pool.stats().idle == 5

    serious = [each.getMessage() for each in caplog.records if each.levelno > logging.INFO]
    assert [True, True] == [each.startswith(broker) for each in serious], serious
