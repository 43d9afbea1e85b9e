from __future__ import annotations

import multiprocessing
import pkgutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

import wd_di
from tests.scripted import make_pool
from tests.standin import at_once
from wd_di import (
    AlreadyConfiguredError,
    CloseReport,
    Event,
    KafkaSettings,
    NotConfiguredError,
    PoolClosedError,
    PoolOpenError,
    PoolSettings,
    PoolTimeoutError,
    ProducerConfig,
    ProducerCreated,
    ProducerPool,
    SettingsError,
    Transaction,
    TransactionCommitted,
    TransactionOptions,
    inject,
    injected,
    running,
)
from wd_di.default import DefaultContainer, container

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wd_di.testing import MockKafka

PATIENCE = 10.0
MEMORY = PoolSettings(deliver=False)
MEMORY_IDS = PoolSettings(deliver=False, size=2, transactional_id="t-{instance}-{index}", instance="7")
DEAD = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}

forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 warns of just this


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Each test begins and ends without a global pool."""
    assert not wd_di.is_active()
    yield
    wd_di.close(timeout_ms=0, force=True)


@pytest.fixture
def seen() -> Iterator[list[Event]]:
    """Every event of the test."""
    events: list[Event] = []
    with wd_di.observer.subscribe(Event, events.append):
        yield events


def deliver_to(servers: str) -> Callable[[ProducerConfig, int], None]:
    """Return the seed's block: a cluster, and an id for each index."""

    def configure(config: ProducerConfig, index: int) -> None:
        config.kafka = {"bootstrap.servers": servers, "transactional.id": f"my-app-{index}"}
        config.deliver = True

    return configure


def names(events: list[Event]) -> list[str]:
    """Return what happened, in order."""
    return [event.name for event in events]


def in_child(job: Callable[[], Any]) -> Any:
    """Return what the job returns in a forked child."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=lambda: sender.send(job()))
    child.start()
    sender.close()
    try:
        assert receiver.poll(PATIENCE)
        return receiver.recv()
    finally:
        child.kill()
        child.join(PATIENCE)


# -- not set up ------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [wd_di.producer, wd_di.transaction, container.pool])
def test_use_without_setup_says_what_to_call(use: Callable[[], object]) -> None:
    """Whoever asks for a producer before ``setup`` is told to call it."""
    with pytest.raises(NotConfiguredError, match=r"call wd_di\.setup\(\)"):
        use()


def test_nothing_is_harmless() -> None:
    """Without a pool there are no stats, and nothing to reload or to close."""
    wd_di.reload()

    assert (False, None, None) == (wd_di.is_active(), wd_di.stats(), wd_di.close())


# -- set up ----------------------------------------------------------------------------------------


def test_setup_by_the_environment(mock_kafka: MockKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``setup`` isn't told it reads from the environment."""
    monkeypatch.setenv("WD_DI__KAFKA__BOOTSTRAP_SERVERS", mock_kafka.bootstrap_servers)
    monkeypatch.setenv("WD_DI__SIZE", "3")
    wd_di.setup(size=10, timeout_ms=5000)
    with wd_di.producer() as producer:
        report = producer.produce_sync("events", "my message")
    stats = wd_di.stats()

    assert ("events", 0) == (report.topic, report.offset)
    assert (10, True) == (stats.size if stats else 0, wd_di.is_active())


def test_setup_by_a_function_of_config_and_index(mock_kafka: MockKafka, seen: list[Event]) -> None:
    """``configure`` gives each index its own transactional id, and both ways to a transaction commit."""
    wd_di.setup(size=2, configure=deliver_to(mock_kafka.bootstrap_servers))
    with wd_di.transaction() as tx:
        tx.produce_sync("orders", "order")
        tx.produce_sync("inventory", "update")
    with wd_di.producer() as producer, producer.transaction() as tx:
        tx.produce_sync("orders", "order")

    assert [2, 1] == [event.records for event in seen if isinstance(event, TransactionCommitted)]
    made = [event for event in seen if isinstance(event, ProducerCreated)]
    assert made
    assert [f"my-app-{event.index}" for event in made] == [event.transactional_id for event in made]


def test_setup_by_a_function_of_config_alone(mock_kafka: MockKafka) -> None:
    """``configure`` may leave out the index, and change single keys."""

    def configure(config: ProducerConfig) -> None:
        config.kafka["bootstrap.servers"] = mock_kafka.bootstrap_servers

    wd_di.setup(size=2, configure=configure)
    with wd_di.producer() as producer:
        assert 0 == producer.produce_sync("events", "x").offset


def test_settings_replace_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """With settings given, the environment isn't read; size and timeout_ms override theirs."""
    monkeypatch.setenv("WD_DI__KAFKA__LINGER_MS", "not a number")
    wd_di.setup(timeout_ms=0, settings=PoolSettings(deliver=False, size=1, timeout_ms=60_000))

    with wd_di.producer(), ThreadPoolExecutor(1) as executor:
        late = executor.submit(lambda: wd_di.producer().__enter__())
        with pytest.raises(PoolTimeoutError, match="no producer free after 0 ms"):
            late.result(PATIENCE)


def test_one_checkout_may_have_another_deadline() -> None:
    """``timeout_ms`` of a checkout and the options of a transaction are the pool's."""
    wd_di.setup(settings=MEMORY_IDS)

    with pytest.raises(ValueError, match="timeout_ms"):
        wd_di.producer(timeout_ms=-1)
    with pytest.raises(ValueError, match="propagation"):
        wd_di.transaction(**TransactionOptions(propagation="always"))  # type: ignore[typeddict-item]


def test_setup_twice_is_refused() -> None:
    """A second setup without a close changes nothing."""
    wd_di.setup(settings=MEMORY)

    with pytest.raises(AlreadyConfiguredError, match=r"call wd_di\.close\(\)"):
        wd_di.setup(size=7, settings=MEMORY)

    assert 5 == getattr(wd_di.stats(), "size", None)


def test_setup_again_after_close(seen: list[Event]) -> None:
    """After a close everything can be set up anew, and the observer is still there."""
    for size in (1, 2):
        wd_di.setup(size=size, settings=MEMORY)
        with wd_di.producer() as producer:
            producer.produce_sync("events", "x")
        wd_di.close()

    once = ["created", "setup", "shutdown"]
    assert [f"connection_pool.{each}" for each in once * 2] == [name for name in names(seen) if "pool" in name]
    with pytest.raises(NotConfiguredError):
        wd_di.producer()


@pytest.mark.parametrize(
    ("variable", "error"), [("WD_DI__SIZE", ValidationError), ("WD_DI__TRANSACTIONAL_ID", SettingsError)]
)
def test_a_failed_setup_leaves_nothing(
    variable: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch, seen: list[Event]
) -> None:
    """Wrong values and clashes show at once, and don't stand in the way of the next setup."""
    monkeypatch.setenv(variable, "-1")

    with pytest.raises(error):
        wd_di.setup()

    assert ([], False) == (seen, wd_di.is_active())
    wd_di.setup(settings=MEMORY)
    assert wd_di.is_active()


def test_a_raising_configure_leaves_nothing() -> None:
    """What ``configure`` raises comes out of ``setup``; called from within, ``setup`` is refused."""
    with pytest.raises(AlreadyConfiguredError):
        wd_di.setup(settings=MEMORY, configure=lambda _: wd_di.setup(settings=MEMORY))

    assert not wd_di.is_active()


# -- when it connects ------------------------------------------------------------------------------


def test_the_first_use_connects(seen: list[Event]) -> None:
    """``setup`` makes no producer; the first checkout does."""
    wd_di.setup(settings=MEMORY)
    before = names(seen)
    with wd_di.producer():
        after = names(seen)

    assert "producer.created" not in before
    assert "producer.created" in after


def test_a_dead_broker_costs_a_checkout_its_own_deadline() -> None:
    """The first use waits no longer than any other, and the next one tries again."""
    wd_di.setup(
        settings=PoolSettings(size=1, timeout_ms=50, transactional_id="{host}-{pid}", kafka=KafkaSettings.of(DEAD))
    )

    for _ in range(2):
        with pytest.raises(PoolTimeoutError, match="after 50 ms"), wd_di.transaction():
            pytest.fail("there is no broker")

    assert wd_di.is_active()


def test_setup_connects_if_told_to() -> None:
    """With ``open_policy="fail"`` a broker that isn't there fails the setup, and nothing is set up."""
    dead = PoolSettings(size=1, open_timeout_ms=200, open_policy="fail", kafka=KafkaSettings.of(DEAD))

    with pytest.raises(PoolOpenError):
        wd_di.setup(settings=dead)

    assert not wd_di.is_active()
    wd_di.setup(settings=MEMORY_IDS.model_copy(update={"open_policy": "fail"}))
    assert 2 == getattr(wd_di.stats(), "idle", None)


# -- reload and close ------------------------------------------------------------------------------


def test_reload_replaces_the_producers(seen: list[Event]) -> None:
    """Every producer is replaced, also by ones with new settings."""
    wd_di.setup(settings=MEMORY)
    wd_di.reload()
    with wd_di.producer():
        pass
    wd_di.reload(PoolSettings(deliver=False, timeout_ms=1), timeout_ms=5_000)

    assert 2 == getattr(wd_di.stats(), "generation", None)
    assert 2 == names(seen).count("connection_pool.reloaded")


def test_close_reports() -> None:
    """``close`` says what became of the messages, and takes back what is held if told to."""
    wd_di.setup(settings=MEMORY)
    with wd_di.producer(), ThreadPoolExecutor(1) as executor:
        report = executor.submit(lambda: wd_di.close(timeout_ms=10)).result(PATIENCE)

    assert isinstance(report, CloseReport)
    assert [0] == [holder.index for holder in report.held]
    assert wd_di.close() is None


def test_a_transaction_finishes_while_the_pool_drains() -> None:
    """While ``close`` waits for a transaction, functions called inside of it still join it."""
    wd_di.setup(settings=MEMORY_IDS)
    with ThreadPoolExecutor(1) as executor:
        with wd_di.transaction() as tx:
            closing = threading.Event()
            with container.pool().observer.subscribe("producer.closed", lambda _: closing.set()):
                report = executor.submit(wd_di.close)
                assert closing.wait(PATIENCE)
            with wd_di.transaction() as inner:
                inner.produce_async("orders", "last")
            assert tx is inner
            assert wd_di.is_active()
        closed = report.result(PATIENCE)

    assert closed is not None
    assert closed.clean
    assert not wd_di.is_active()


def test_a_container_that_was_closed_stays_closed() -> None:
    """What ``running`` has closed isn't opened again behind its back, until ``close`` and ``setup``."""
    wd_di.setup(settings=MEMORY)
    with running(container), wd_di.producer() as producer:
        producer.produce_sync("events", "x")

    with pytest.raises(PoolClosedError):
        wd_di.producer()
    report = wd_di.close()
    wd_di.setup(settings=MEMORY)
    with wd_di.producer() as producer:
        assert 0 == producer.produce_sync("events", "x").offset

    assert report is not None
    assert report.clean


# -- threads ---------------------------------------------------------------------------------------


def test_one_setup_wins(seen: list[Event]) -> None:
    """Of eight threads that set up at once one does, and one pool is built."""
    results = at_once(8, lambda: wd_di.setup(settings=MEMORY))

    assert [None] == [each for each in results if not isinstance(each, AlreadyConfiguredError)]
    assert 1 == names(seen).count("connection_pool.created")


def test_first_uses_at_once_share_one_pool(seen: list[Event]) -> None:
    """Eight threads that ask first get producers of one pool."""
    wd_di.setup(size=8, settings=MEMORY)
    together = threading.Barrier(8, timeout=PATIENCE)

    def use() -> object:
        with wd_di.producer() as producer:
            together.wait()
            return producer.index

    assert set(range(8)) == set(at_once(8, use))
    assert 1 == names(seen).count("connection_pool.created")


def test_closes_at_once_are_one(seen: list[Event]) -> None:
    """Eight threads that close at once get the one report, or find nothing left to close."""
    wd_di.setup(settings=MEMORY)
    with wd_di.producer():
        pass
    reports = [each for each in at_once(8, wd_di.close) if each is not None]

    assert 1 == len({id(each) for each in reports})
    assert isinstance(reports[0], CloseReport)
    assert 1 == names(seen).count("connection_pool.shutdown")


def test_a_late_close_spares_the_next_pool() -> None:
    """Whoever closed the former pool too late doesn't take the next one with it."""
    wd_di.setup(settings=MEMORY)
    former = container.pool()
    wd_di.close()
    wd_di.setup(settings=MEMORY)
    wd_di.default._place.free(former)
    with wd_di.producer() as producer:
        assert 0 == producer.produce_sync("events", "x").offset


# -- forks and the end -----------------------------------------------------------------------------


@forks
def test_a_forked_child_has_a_pool_of_its_own(seen: list[Event]) -> None:
    """The child's producers have other ids, its close leaves the parent's alone, and it can set up anew."""
    wd_di.setup(settings=MEMORY_IDS)

    def child() -> list[object]:
        seen.clear()
        with wd_di.transaction() as tx:
            tx.produce_sync("orders", "x")
        ids = [event.transactional_id for event in seen if isinstance(event, ProducerCreated)]
        closed = wd_di.close()
        wd_di.setup(settings=MEMORY)
        return [ids, closed is not None and closed.clean, wd_di.is_active()]

    with wd_di.transaction() as tx:
        ids, clean, active = in_child(child)
        tx.produce_sync("orders", "x")

    assert ids
    assert {"t-7-0", "t-7-1"}.isdisjoint(ids)
    assert (True, True) == (clean, active)
    assert {"t-7-0", "t-7-1"} >= {event.transactional_id for event in seen if isinstance(event, ProducerCreated)}


@forks
def test_a_child_forked_during_a_setup_can_set_up() -> None:
    """In the child nobody goes on with the setup that another thread of the parent had begun."""

    def child() -> bool:
        wd_di.setup(settings=MEMORY)
        return wd_di.is_active()

    answers: list[bool] = []
    wd_di.setup(size=1, settings=MEMORY, configure=lambda _: answers.append(in_child(child)))

    assert [True] == answers


def test_the_end_of_the_program_closes_it() -> None:
    """Who forgets to close still loses nothing: the interpreter's exit does it."""
    program = """
import wd_di
wd_di.observer.subscribe("connection_pool.shutdown", lambda event: print(event.report.clean))
wd_di.setup(settings=wd_di.PoolSettings(deliver=False))
with wd_di.producer() as producer:
    producer.produce_async("events", "x")
"""
    root = Path(wd_di.__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], cwd=root, capture_output=True, text=True, timeout=30, check=True
    )

    assert ("True\n", "") == (ended.stdout, ended.stderr)


# -- the container ---------------------------------------------------------------------------------


@pytest.fixture
def fake() -> Iterator[ProducerPool]:
    """A pool to put in place of the global one."""
    with make_pool(name="fake", size=2) as pool:
        yield pool


@pytest.mark.parametrize("first", ["override", "setup"])
def test_the_pool_can_be_overridden(fake: ProducerPool, first: str) -> None:
    """Inside of an override every function works the fake, set up or not, and ``close`` leaves it to its owner."""
    if first == "setup":
        wd_di.setup(settings=MEMORY)
        with wd_di.producer():
            pass
    with container.pool.override(fake):
        with wd_di.transaction() as tx:
            tx.produce_async("orders", "x")
        wd_di.reload()
        stats, active = wd_di.stats(), wd_di.is_active()
        wd_di.close()
        with wd_di.producer() as producer:
            producer.produce_async("orders", "y")

    assert (2, 1) == (getattr(stats, "size", None), getattr(stats, "generation", None))
    assert (True, False) == (active, wd_di.is_active())
    assert 2 == fake.stats().idle


def test_code_that_sets_up_can_run_on_a_fake(fake: ProducerPool) -> None:
    """A program's own ``setup`` and ``close`` run inside of an override, and reach no broker."""
    with container.pool.override(fake):
        wd_di.setup(settings=PoolSettings(kafka=KafkaSettings.of(DEAD)))
        with wd_di.transaction() as tx:
            tx.produce_sync("orders", "x")
        report = wd_di.close()

    assert report is not None
    assert "default" == report.pool
    assert 2 == fake.stats().idle


def test_settings_can_be_overridden() -> None:
    """The container's settings stand for the environment."""
    with container.settings.override(PoolSettings(deliver=False, size=3)):
        wd_di.setup()

    assert 3 == getattr(wd_di.stats(), "size", None)


def test_the_observer_is_the_containers() -> None:
    """There is one observer for all pools, before and after ``setup``."""
    wd_di.setup(settings=MEMORY)

    assert wd_di.observer is container.observer()
    assert wd_di.observer is container.pool().observer


@inject
def place(tx: Transaction = injected(DefaultContainer.pool.transaction)) -> None:
    """A service that names the global pool."""
    tx.produce_async("orders", "x")


def test_functions_can_be_injected_with_it(seen: list[Event]) -> None:
    """The container can be wired as any other: its pool's scopes can be named in markers."""
    wd_di.setup(settings=MEMORY_IDS)
    container.wire(modules=[__name__])
    try:
        place()
    finally:
        container.unwire()

    assert [1] == [event.records for event in seen if isinstance(event, TransactionCommitted)]


def test_no_module_is_hidden_by_a_name() -> None:
    """No submodule shares its name with what the package exports."""
    modules = {module.name for module in pkgutil.iter_modules(wd_di.__path__)}

    assert set() == modules & set(wd_di.__all__)
