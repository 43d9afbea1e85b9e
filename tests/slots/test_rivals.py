"""Two processes of one host with the same transactional id: who is told, of whom, and what is refused."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.pools import Recorder, bounded, pool, unique, until
from tests.slots.owners import Owner, opened, owner
from tests.slots.sitters import host
from wd_di import KafkaSettings, PoolOpenError, PoolSettings, ProducerContested, ProducerCreated, ProducerPool
from wd_di._kafka.librdkafka import KafkaClient
from wd_di._kafka.port import Fault, FaultKind
from wd_di._slots import making, rivals, seats
from wd_di.testing import MockKafka

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KINDS = ["files", *(["sockets"] if sys.platform == "linux" else [])]

pytestmark = pytest.mark.skipif(not seats.HAVE_LOCKS, reason="needs locks")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """How this test's host keeps its seats."""
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where they are, if they are files."""
    return tmp_path / "seats"


@pytest.fixture(autouse=True)
def _here(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process be on the same host; at the end it has no seat any more."""
    monkeypatch.setattr(seats, "host", host(kind, folder))
    before = set(seats._open)
    yield
    until(lambda: seats._open <= before)


@pytest.fixture
def word() -> str:
    """With what the test's ids begin."""
    return unique("rival")


@pytest.fixture
def there(mock_kafka: MockKafka, kind: str, folder: Path) -> Callable[..., Any]:
    """Makes another process with an open pool."""

    def make(**settings: object) -> Any:
        return opened(mock_kafka.bootstrap_servers, kind, folder, **settings)

    return make


def named(pid: int) -> str:
    """What is said of the process that has an id."""
    return rf"process {pid} of this host, up since \d\d:\d\d, has the id \(.*(python|owners).*\)"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the library has warned of."""
    return [each.getMessage() for each in caplog.records if each.name == "wd_di" and each.levelname == "WARNING"]


# -- the warning -----------------------------------------------------------------------------------


def test_the_rival_is_named(
    mock_kafka: MockKafka, there: Callable[..., Any], word: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Before a producer takes an id that another process has, a line and an event say which one; then it is taken."""
    ids, recorder = f"{word}-{{index}}-{{instance}}", Recorder()
    with there(size=1, transactional_id=ids, instance="7") as other:
        settings = {"size": 1, "transactional_id": ids, "instance": "7"}
        with pool(mock_kafka.bootstrap_servers, observer=recorder, **settings) as orders, orders.transaction() as tx:
            tx.produce_sync("t", "1")

    [line], [event] = lines(caplog), recorder.of(ProducerContested)
    assert re.match(f"orders: transactional.id '{word}-0-7': {named(other.pid)}, and is fenced now; ", line)
    for way_out in ("{host}-{pid}", "{instance}"):
        assert way_out in line
    assert ("orders", 0, f"{word}-0-7") == (event.pool, event.index, event.transactional_id)
    assert re.fullmatch(named(other.pid), event.rival)
    happened = [type(each) for each in recorder.events]
    assert happened.index(ProducerContested) < happened.index(ProducerCreated)
    assert [] == other.warnings


def test_one_line_for_all_ids(
    mock_kafka: MockKafka, there: Callable[..., Any], word: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A pool whose ids all are another one's says so once, and has an event for each."""
    settings, recorder = {"size": 5, "transactional_id": f"{word}-{{index}}-{{instance}}", "instance": "7"}, Recorder()
    with there(**settings), pool(mock_kafka.bootstrap_servers, observer=recorder, **settings):
        assert [0, 1, 2, 3, 4] == sorted(event.index for event in recorder.of(ProducerContested))

    assert 1 == len(lines(caplog))


def test_several_rivals_are_counted(
    mock_kafka: MockKafka, there: Callable[..., Any], word: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who comes later is told of the first, and how many others there are; the others were told, too."""
    settings = {"size": 1, "transactional_id": f"{word}-{{instance}}", "instance": "7"}
    with there(**settings) as first, there(**settings) as second, pool(mock_kafka.bootstrap_servers, **settings):
        assert re.search(named(first.pid), second.warnings[0])

    assert re.search(rf"{named(first.pid)}, as have 1 more", lines(caplog)[0])


def test_more_than_there_are_seats(
    mock_kafka: MockKafka, there: Callable[..., Any], word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who finds no seat goes without, and sees the others."""
    monkeypatch.setattr(rivals, "SEATS", 1)
    settings, recorder = {"size": 1, "transactional_id": f"{word}-{{instance}}", "instance": "7"}, Recorder()
    with there(**settings), pool(mock_kafka.bootstrap_servers, observer=recorder, **settings):
        assert 1 == len(recorder.of(ProducerContested))


def test_one_cluster_has_many_addresses(mock_kafka: MockKafka, there: Callable[..., Any], word: str) -> None:
    """Rivals that know a cluster by other names are rivals."""
    settings, recorder = {"size": 1, "transactional_id": f"{word}-{{instance}}", "instance": "7"}, Recorder()
    port = mock_kafka.bootstrap_servers.rpartition(":")[2]
    with there(**settings) as other, pool(f"localhost:{port}", observer=recorder, **settings):
        [event] = recorder.of(ProducerContested)
        assert re.fullmatch(named(other.pid), event.rival)


def test_two_clusters_may_have_the_same_id(there: Callable[..., Any], word: str) -> None:
    """Nobody is fenced by the owner of the same id on another cluster, and nobody is warned."""
    settings, recorder = {"size": 1, "transactional_id": f"{word}-{{instance}}", "instance": "7"}, Recorder()
    with MockKafka() as another, there(**settings) as other:
        with pool(another.bootstrap_servers, observer=recorder, **settings):
            assert [] == recorder.of(ProducerContested)
        assert [] == other.warnings


def test_a_cluster_without_an_id(
    mock_kafka: MockKafka, kind: str, folder: Path, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a cluster has no id its addresses have to do, in whatever order."""
    monkeypatch.setattr(KafkaClient, "cluster_id", lambda *_: "")
    port = mock_kafka.bootstrap_servers.rpartition(":")[2]
    settings, recorder = {"size": 1, "transactional_id": f"{word}-{{instance}}", "instance": "7"}, Recorder()
    with owner(f"127.0.0.1:{port},localhost:{port}", kind, folder, **settings) as other:
        other.do("nameless")
        assert "open" == other.do("open")
        with pool(f"LOCALHOST:{port}, 127.0.0.1:{port}", observer=recorder, **settings):
            [event] = recorder.of(ProducerContested)
            assert re.fullmatch(named(other.pid), event.rival)


def test_an_id_that_doesnt_come(mock_kafka: MockKafka, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that answers everything but that keeps nobody from opening."""

    def unheard(client: KafkaClient, seconds: float) -> str:
        raise Fault(FaultKind.RETRIABLE, "nothing heard")

    monkeypatch.setattr(KafkaClient, "cluster_id", unheard)
    with (
        bounded(int(making.ID_PATIENCE * 1000) + 1_000),
        pool(mock_kafka.bootstrap_servers, size=1, transactional_id=f"{word}-{{instance}}"),
    ):
        pass


# -- nobody to warn of -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"deliver": False},
        {"kafka": KafkaSettings(test_mock_num_brokers=1)},
    ],
    ids=["in memory", "a mock of its own"],
)
def test_without_a_shared_cluster_there_are_no_seats(settings: dict[str, Any], word: str) -> None:
    """What talks to nobody's cluster takes no seat."""
    before = set(seats._open)
    with ProducerPool(PoolSettings(size=1, transactional_id=f"{word}-{{index}}", **settings)):
        assert before == seats._open


def test_a_successor_isnt_warned(
    mock_kafka: MockKafka, there: Callable[..., Any], word: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever comes after a pool was closed, or its process killed, meets nobody."""
    settings = {"size": 2, "transactional_id": f"{word}-{{index}}-{{instance}}", "instance": "7"}
    with there(**settings) as other:
        other.do("close")
        with pool(mock_kafka.bootstrap_servers, **settings):
            pass
    with there(**settings) as other:
        other.kill()
        with pool(mock_kafka.bootstrap_servers, **settings):
            pass

    assert [] == lines(caplog)


def test_a_reload_meets_nobody_of_its_own(mock_kafka: MockKafka, word: str, caplog: pytest.LogCaptureFixture) -> None:
    """A pool's own producers aren't rivals of those that replace them, nor is one that was closed by another."""
    settings = {"size": 2, "transactional_id": f"{word}-{{index}}-{{instance}}", "instance": "7"}
    with pool(mock_kafka.bootstrap_servers, **settings) as orders:
        orders.reload()
        orders.reload()

    assert [] == lines(caplog)


@pytest.mark.parametrize("choice", ["warn", "refuse"])
def test_pools_of_one_process(mock_kafka: MockKafka, word: str, choice: str) -> None:
    """The second of them is refused where it knows the cluster by another name, too, until the first is closed."""
    settings: dict[str, Any] = {"size": 3, "transactional_id": f"{word}-{{instance}}-{{index}}", "instance": "7"}
    port, recorder = mock_kafka.bootstrap_servers.rpartition(":")[2], Recorder()

    def others() -> ProducerPool:
        return pool(f"localhost:{port}", name="others", observer=recorder, ids_held_elsewhere=choice, **settings)

    with pool(mock_kafka.bootstrap_servers, **settings) as orders:
        with pytest.raises(
            PoolOpenError, match=rf"'{word}-7-\d' on cluster \S+ is in use by pool 'orders' of this pro"
        ):
            others().open()
        with orders.transaction() as tx:
            tx.produce_sync("t", "1")
    with others():
        assert [] == recorder.of(ProducerContested)


def test_a_forked_child_is_no_rival(mock_kafka: MockKafka, there: Callable[..., Any], word: str) -> None:
    """A child that goes on with the parent's pool has ids of its own; its parent's seats stay its parent's."""
    settings = {"size": 2, "transactional_id": f"{word}-{{index}}-{{instance}}", "instance": "7"}
    recorder = Recorder()
    with there(**settings) as other:
        other.do("fork")
        assert "committed" == other.do("transact t")
        assert [] == other.warnings
        with pool(mock_kafka.bootstrap_servers, observer=recorder, **settings):
            assert all(f"process {other.pid} " in event.rival for event in recorder.of(ProducerContested))
            assert 2 == len(recorder.of(ProducerContested))


def test_workers_that_are_forked_before_their_pools_are_made(
    mock_kafka: MockKafka, kind: str, folder: Path, word: str
) -> None:
    """Each makes a pool of the same settings, as under gunicorn without preload: the second is told of the first."""
    settings = {"size": 1, "transactional_id": f"{word}-{{host}}"}
    with ExitStack() as running:
        workers = [
            running.enter_context(owner(mock_kafka.bootstrap_servers, kind, folder, **settings)) for _ in range(2)
        ]
        children = [worker.do("fork") for worker in workers]
        assert ["open", "open"] == [worker.do("open") for worker in workers]

        assert [] == workers[0].warnings
        [line] = workers[1].warnings
        assert f"process {children[0]} of this host" in line


# -- refused ---------------------------------------------------------------------------------------


def test_a_held_id_can_be_refused(mock_kafka: MockKafka, there: Callable[..., Any], word: str) -> None:
    """With ids_held_elsewhere='refuse' open fails at once, and says who has which id, and what can be done."""
    settings = {"size": 2, "transactional_id": f"{word}-{{index}}-{{instance}}", "instance": "7"}
    with there(**settings) as other:
        refusing = pool(mock_kafka.bootstrap_servers, ids_held_elsewhere="refuse", **settings)
        with bounded(2_000), pytest.raises(PoolOpenError, match=named(other.pid)) as caught:
            refusing.open()

        for part in ("orders", f"{word}-", "ids_held_elsewhere='refuse'", "{host}-{pid}", "{instance}"):
            assert part in str(caught.value)
        assert isinstance(caught.value.__cause__, PoolOpenError)
        other.do("close")
        with pool(mock_kafka.bootstrap_servers, ids_held_elsewhere="refuse", **settings):
            pass


def test_who_refuses_is_seen(mock_kafka: MockKafka, there: Callable[..., Any], word: str) -> None:
    """A pool that refuses has its seats itself, and is named to those that come later."""
    settings = {"size": 1, "transactional_id": f"{word}-{{instance}}", "instance": "7"}
    recorder = Recorder()
    with there(ids_held_elsewhere="refuse", **settings) as other:
        with pool(mock_kafka.bootstrap_servers, observer=recorder, **settings):
            [event] = recorder.of(ProducerContested)
            assert re.fullmatch(named(other.pid), event.rival)
            other.do("close")
            refused = other.do("open")
            assert refused.startswith("PoolClosedError")
        with pool(mock_kafka.bootstrap_servers, ids_held_elsewhere="refuse", **settings):
            pass


def test_who_comes_second_is_refused_where_the_first_seat_is_free(
    mock_kafka: MockKafka, there: Callable[..., Any], word: str
) -> None:
    """A rival that had come second, and outlived the first, is still there."""
    settings = {"size": 1, "transactional_id": f"{word}-{{instance}}", "instance": "7"}
    with there(**settings) as first, there(**settings) as second:
        first.do("close")
        with pytest.raises(PoolOpenError, match=named(second.pid)):
            pool(mock_kafka.bootstrap_servers, ids_held_elsewhere="refuse", **settings).open()


@pytest.mark.parametrize("size", [1, 5])
def test_of_all_who_refuse_one_stays(mock_kafka: MockKafka, kind: str, folder: Path, word: str, size: int) -> None:
    """Of processes that start at the same moment, and all refuse, one opens, and the others name it."""
    ids = f"{word}-{{index}}-{{instance}}"
    settings = {"size": size, "transactional_id": ids, "instance": "7", "ids_held_elsewhere": "refuse"}
    with ExitStack() as running:
        workers: list[Owner] = [
            running.enter_context(owner(mock_kafka.bootstrap_servers, kind, folder, **settings)) for _ in range(3)
        ]
        for worker in workers:
            worker.say("open")
        said = [worker.hear() for worker in workers]

        assert 1 == said.count("open")
        winner = workers[said.index("open")]
        assert 2 == sum(f"process {winner.pid} of this host" in each for each in said)


@pytest.mark.parametrize("size", [1, 3])
def test_a_refused_checkout_is_tried_again(
    mock_kafka: MockKafka, there: Callable[..., Any], word: str, size: int
) -> None:
    """A pool that starts in the background takes its ids as soon as the owner of some of them has ended."""
    settings: dict[str, Any] = {"transactional_id": f"{word}-{{instance}}-{{index}}", "instance": "7"}
    refuse = {"ids_held_elsewhere": "refuse", "open_policy": "background", **settings, "size": size}
    with there(size=1, **settings) as other, pool(mock_kafka.bootstrap_servers, **refuse) as orders:
        with pytest.raises(PoolOpenError, match=named(other.pid)), orders.transaction(timeout_ms=10_000):
            pass
        other.kill()

        def transacted() -> bool:
            try:
                with orders.transaction(timeout_ms=10_000) as tx:
                    tx.produce_sync("t", "1")
            except PoolOpenError:
                return False
            return True

        assert until(transacted)
