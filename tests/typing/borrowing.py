"""What type checkers know of producers, transactions and deliveries; each ignore stands for an error they must find."""

# ruff: noqa: ARG005, D103, RET503, RET504  (nothing here is run; where a return is missing is what the checkers are asked)
from __future__ import annotations

from typing import Literal, assert_type

from confluent_kafka import Consumer, TopicPartition

import wd_di
from wd_di import (
    AsyncProducer,
    AsyncTransaction,
    Checkout,
    CloseReport,
    Delivery,
    DeliveryError,
    DeliveryReport,
    Message,
    PoolSettings,
    PoolStats,
    Producer,
    ProducerPool,
    Retry,
    Transaction,
    TransactionScope,
)
from wd_di.errors import FailedDelivery

pool = ProducerPool(PoolSettings(), name="orders")

# -- recipes -------------------------------------------------------------------------------------

assert_type(pool.producer(timeout_ms=0), Checkout)
assert_type(pool.transaction(propagation="mandatory", commit_on=(KeyError,)), TransactionScope)
with pool as itself:
    assert_type(itself, ProducerPool)
with pool.producer() as producer:
    assert_type(producer, Producer)
    assert_type(producer.transaction(commit_on=(KeyError,)), TransactionScope)
with pool.transaction() as tx:
    assert_type(tx, Transaction)

pool.producer(timeout=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
pool.transaction(timeout=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
pool.transaction(5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
pool.transaction(propagation="nest")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
producer.transaction(timeout=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
producer.transaction(retry=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
pool.transaction().flush()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
pool.producer().flush()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def returns_from_inside(order: str) -> DeliveryReport:
    with pool.transaction() as tx:
        return tx.produce_sync("orders", order)


def returns_from_a_producer(order: str) -> Delivery:
    with pool.producer() as producer:
        return producer.produce_async("orders", order)


def returns_from_inside_both(order: str) -> DeliveryReport:
    with pool.producer() as producer, producer.transaction() as tx:
        return tx.produce_sync("orders", order)


def returns_sometimes(order: str) -> str:  # type: ignore[return]  # pyright: ignore[reportReturnType]
    with pool.transaction():
        if order:
            return order


def assigns_inside() -> Delivery:
    with pool.transaction() as tx:
        delivery = tx.produce_async("orders")
    return delivery


# -- producing -----------------------------------------------------------------------------------

assert_type(producer.index, int)
assert_type(producer.produce_sync("orders", "value", b"key", headers={"a": "b", "c": None}), DeliveryReport)
assert_type(producer.produce_async("orders", None, headers=[("a", b"b"), ("a", "c")], partition=1), Delivery)
assert_type(producer.produce_many_sync([Message("orders", "value", key="key")]), list[DeliveryReport])
assert_type(producer.produce_many_async(Message("orders", str(each)) for each in range(3)), list[Delivery])
producer.produce_sync("orders", 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
producer.produce_sync("orders", payload="value")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
producer.produce_sync("orders", headers={"a": 1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
producer.produce_async(b"orders")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
producer.abort_only()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

delivery = producer.produce_async("orders")
assert_type(delivery.result(timeout_ms=5), DeliveryReport)
assert_type(delivery.exception(), BaseException | None)
assert_type(delivery.outcome, Literal["pending", "delivered", "failed", "purged", "aborted"])
delivery.add_done_callback(lambda done: assert_type(done, Delivery))
assert_type(delivery.result().offset, int | None)
try:
    producer.flush(timeout_ms=5)
except DeliveryError as error:
    assert_type(error.failed, tuple[FailedDelivery, ...])

# -- transactions --------------------------------------------------------------------------------

assert_type(tx.id, str)
assert_type(tx.remaining_ms, int)
tx.before_commit(lambda: tx.produce_async("orders"))
tx.after_completion(lambda outcome: assert_type(outcome, Literal["committed", "aborted", "unknown"]))
tx.after_commit(tx.after_completion)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def place(tx: Transaction, order: str, *, count: int = 1) -> int:
    return tx.produce_sync("orders", order).partition + count


assert_type(pool.run(place, "order", count=2, retry=Retry()), int | None)
pool.run(place, "order", retry=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]

# -- tasks ---------------------------------------------------------------------------------------


async def of_a_task(order: str, consumer: Consumer) -> DeliveryReport:
    async with pool.producer() as producer, producer.transaction() as own:
        assert_type(producer, AsyncProducer)
        assert_type(own, AsyncTransaction)
        assert_type(await producer.produce_many_sync([Message("orders", order)]), list[DeliveryReport])
        assert_type(producer.produce_async("orders", order), Delivery)
        assert_type(await producer.produce_async("orders", order), DeliveryReport)
        await producer.drain(timeout_ms=5)
        own.after_commit(own.flush)
        await own.send_offsets([TopicPartition("orders", 0, 5)], consumer.consumer_group_metadata())
        await own.send_offsets([], None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await own.send_offsets(["orders"], b"")  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    async with pool.transaction() as tx:
        return await tx.produce_sync("orders", order)


async def place_async(tx: AsyncTransaction, order: str) -> int:
    return (await tx.produce_sync("orders", order)).partition


async def again() -> None:
    assert_type(await pool.run(place_async, "order", retry=Retry()), int | None)


# -- the pool's life -----------------------------------------------------------------------------

assert_type(pool.stats(), PoolStats)
assert_type(pool.stats().waiting, int)
assert_type(pool.close(force=True), CloseReport)
pool.close(timeout=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

# -- the global pool -----------------------------------------------------------------------------

wd_di.setup(size=3, timeout_ms=500, configure=lambda config: None)
wd_di.setup(timeout=500)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
wd_di.transaction(timeout=500)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
assert_type(wd_di.producer(), Checkout)
assert_type(wd_di.transaction(propagation="new"), TransactionScope)
assert_type(wd_di.stats(), PoolStats | None)
assert_type(wd_di.close(), CloseReport | None)
