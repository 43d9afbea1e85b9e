"""Every error's chain of causes ends, also when errors meet: a naive walk along it must come to its end."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wd_di
from tests import internals
from tests.connections import connected
from tests.scripted import OFFSETS, FaultKind, Script, fault, in_thread, make_pool, outcome, plain_pool
from wd_di import Message
from wd_di._kafka import interrupts
from wd_di._kafka.librdkafka import KafkaClient
from wd_di.errors import DeliveryError, WdDiError
from wd_di.pool import ProducerPool
from wd_di.testing import FakePool, MockKafka

SOURCES = sorted(Path(wd_di.__file__).parent.rglob("*.py"))


@pytest.fixture
def pool(script: Script) -> Iterator[ProducerPool]:
    """An open pool of one scripted transactional producer."""
    with make_pool(commit_timeout_ms=300) as pool:
        yield pool


def chain(error: BaseException | None) -> list[BaseException]:
    """The error and what it came from, as an error tracker lists them."""
    found: list[BaseException] = []
    while error is not None:
        assert len(found) < 20, f"no end: {found}"
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def test_refused_arguments_have_no_cause_of_ours(pool):
    """What is wrong with an argument is all there is to tell, and nothing was enqueued."""
    with pool.transaction() as tx:
        for given in ({"value": "caf\udce9"}, {"timestamp_ms": 2**63}, {"partition": 2**31}, {"topic": "a\0b"}):
            error = outcome(lambda given=given: tx.produce_async(**{"topic": "orders", **given}))

            assert isinstance(error, ValueError)
            assert [error] == chain(error)
        assert 0 == internals.transaction(tx).ledger.records


def test_what_the_client_raises_has_no_cause(pool, script):
    """An exception that comes through the client comes as it is."""
    script.on("produce", MemoryError("no room"))
    with pytest.raises(MemoryError) as caught, pool.transaction() as tx:
        tx.produce_async("orders")

    assert [caught.value] == chain(caught.value)


def test_a_failure_that_is_told_again_while_it_is_handled(pool, script):
    """The commit's error names the record's as its cause; asked for inside the handler, that one doesn't lead back."""
    script.failing.add("broken")
    met: list[BaseException] = []
    try:
        with pool.transaction() as tx:
            delivery = tx.produce_async("broken")
    except DeliveryError as error:
        met += [error, outcome(delivery.result), outcome(lambda: _raise(delivery.exception()))]

    assert [2, 3, 3] == [len(chain(each)) for each in met]


SHARED = {
    "result": lambda delivery: delivery.result(),
    "exception": lambda delivery: _raise(delivery.exception()),
    "awaited": lambda delivery: asyncio.run(_awaited(delivery)),
}


@pytest.mark.parametrize("ask", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("transactional", [True, False])
def test_one_error_of_many_records(ask, transactional):
    """A fake gives all its records the one error that it was told; asked for again and again, it is never its own."""
    given = OSError("out of space")
    fake = FakePool(transactional=transactional)
    fake.fail_delivery("orders", given)
    deliveries: list[Any] = []

    def work() -> None:
        with fake.transaction() if transactional else fake.producer() as producer:
            deliveries.extend(producer.produce_many_async([Message("orders")] * 3))
            if not transactional:
                producer.flush()

    met = [outcome(work)]
    for delivery in deliveries * 2:
        met.append(outcome(lambda delivery=delivery: _meanwhile(met[0], lambda: ask(delivery))))
        met.append(outcome(lambda: _meanwhile(met[-1], lambda: ask(deliveries[0]))))

    assert isinstance(met[0], DeliveryError)
    assert {OSError} == {type(error) for error in met[1:]}
    for error in [*met, *(delivery.exception() for delivery in deliveries)]:
        chain(error)


def _meanwhile(error: Any, call: Any) -> None:
    """Make the call while an error is handled that came from this one."""
    wrapped = RuntimeError("mine")
    wrapped.__cause__ = error
    try:
        _raise(wrapped)
    except RuntimeError:
        call()


async def _awaited(delivery: Any) -> None:
    await delivery


def test_each_lost_record_has_its_own_error(script):
    """What a close gives up fails with an error for each record: raised, it would else keep all others' frames."""
    script.silent = True
    pool = plain_pool()
    with pool.producer() as producer:
        deliveries = producer.produce_many_async([Message("orders")] * 3)
    pool.close(timeout_ms=0)
    errors = [delivery.exception(5_000) for delivery in deliveries]

    assert {"the producer was closed before the broker had answered"} == {str(error) for error in errors}
    assert 3 == len({id(error) for error in errors})


def test_a_broken_producer_that_is_met_again_by_the_abort(pool, script):
    """The abort meets the very fault that its own reason came from."""

    def break_down() -> None:
        raise script.clients[0].break_down(FaultKind.FENCED)

    script.on("send_offsets", break_down)
    with pytest.raises(WdDiError) as caught, pool.transaction() as tx:
        tx.send_offsets(OFFSETS, object())

    assert 2 == len(chain(caught.value))
    assert 1 <= len(chain(script.clients[0].fault))


@pytest.mark.parametrize("call", ["create", "begin", "produce", "send_offsets", "commit", "abort"])
def test_what_a_fake_fails_with_on_cue(call):
    """Each cue of a fake gives an error whose chain ends, and so do the events' errors."""
    fake = FakePool()
    if call == "create":
        fake.fence()
    fake.fail_next(call)

    def work() -> None:
        with fake.transaction(timeout_ms=500) as tx:
            tx.produce_async("orders")
            tx.send_offsets(OFFSETS, object())
            tx.produce_sync("orders")
            if call == "abort":
                _raise(ZeroDivisionError())

    met = [outcome(work), *(getattr(event, "error", None) for event in fake.events)]
    assert any(isinstance(error, BaseException) for error in met)
    for error in met:
        if isinstance(error, BaseException):
            chain(error)


def test_a_creation_that_fails_by_the_fault_that_broke_it(script):
    """The producer's fault is both what its init raised and what the client is lost by."""

    def break_down() -> None:
        raise script.clients[-1].break_down(FaultKind.FATAL)

    script.always("init", break_down)
    pool = make_pool(timeout_ms=200)
    error = outcome(pool.open)

    assert 2 <= len(chain(error))


def test_a_creation_that_fails_for_another_reason_than_it_says(script):
    """The fault that was found meanwhile comes from the one that was raised."""

    def break_down() -> None:
        script.clients[-1].break_down(FaultKind.DENIED)
        raise fault(FaultKind.RETRIABLE)

    script.always("init", break_down)
    pool = make_pool(timeout_ms=200)
    told = chain(outcome(pool.open))

    assert ["scripted denied", "scripted retriable"] == [str(error) for error in told[-2:]]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_nothing_is_raised_from_itself(source):
    """No line raises an error from the very same name."""
    raises = [each for each in ast.walk(ast.parse(source.read_text())) if isinstance(each, ast.Raise)]
    itself = [each.lineno for each in raises if isinstance(each.cause, ast.Name) and each.cause.id in _values(each.exc)]

    assert [] == itself


def _values(raised: Any) -> set[str]:
    """The names of which one may be what is raised; not those that it is made of."""
    if isinstance(raised, ast.IfExp):
        return _values(raised.body) | _values(raised.orelse)
    if isinstance(raised, ast.BoolOp):
        return set().union(*map(_values, raised.values))
    return {raised.id} if isinstance(raised, ast.Name) else set()


def _raise(error: BaseException | None) -> None:
    assert error is not None
    raise error


def test_a_call_without_a_result_in_another_thread(monkeypatch):
    """Outside of the main thread it is no Ctrl-C on Python 3.11, and comes as it is; later ones lose no Ctrl-C."""
    monkeypatch.setattr(interrupts, "_LOSSY", True)

    def fail(_: object) -> None:
        raise SystemError("returned NULL without setting an exception")

    with MockKafka() as kafka:
        config = {"bootstrap.servers": kafka.bootstrap_servers}
        client = connected(lambda answers: KafkaClient(config, None, answers))
        for call in (client._call, client._serve):
            error = in_thread(lambda call=call: call(fail, 1))

            assert isinstance(error, SystemError)
            assert [error] == chain(error)
