"""What beginners get wrong, and the whole text that each of them reads: what it says is that it stays."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import pytest
from confluent_kafka import TopicPartition
from dependency_injector import containers, providers, wiring

import wd_di
from tests.scripted import in_thread
from wd_di import (
    AsyncTransaction,
    KafkaSettings,
    Message,
    Observer,
    PoolResource,
    PoolSettings,
    Producer,
    ProducerPool,
    Retry,
    Settings,
    Transaction,
    inject,
    injected,
)
from wd_di.testing import FakePool, Sent

KAFKA = {"bootstrap.servers": "localhost:9092"}
PLAIN = {"deliver": False}
TRANSACTIONAL = {"deliver": False, "transactional_id": "shop-{index}", "instance": "7"}

Mistake = Callable[[], None]
MISTAKES: list[tuple[Mistake, str]] = []


def mistake(text: str) -> Callable[[Mistake], Mistake]:
    """What the mistake below is answered with: the error's type and its text."""

    def note(made: Mistake) -> Mistake:
        MISTAKES.append((made, text))
        return made

    return note


@contextmanager
def plain() -> Iterator[Producer]:
    """A producer of a pool that sends nothing."""
    with ProducerPool(PLAIN, name="orders") as pool, pool.producer() as producer:
        yield producer


# -- settings ----------------------------------------------------------------------------------------


@mistake("wd_di.errors.SettingsError: default: siez: a pool has no such setting, did you mean size?, got int")
def a_misspelt_field() -> None:
    """A field of the pool is misspelt."""
    ProducerPool({"siez": 3})


@mistake(
    "pydantic_core._pydantic_core.ValidationError: 1 validation error for PoolSettings\nsiez\n  a pool has no such "
    "setting, did you mean size? [type=extra_forbidden]"
)
def a_misspelt_field_of_the_class() -> None:
    """The same, in PoolSettings itself."""
    PoolSettings(siez=3)  # type: ignore[call-arg]


@mistake(
    "pydantic_core._pydantic_core.ValidationError: 1 validation error for Shop\norders.siez\n  a pool has no such "
    "setting, did you mean size? [type=extra_forbidden]"
)
def a_misspelt_field_of_one_pool_of_several() -> None:
    """The same, in a class of all settings."""

    class Shop(Settings):
        orders: PoolSettings = PoolSettings()

    Shop(orders={"siez": 3})


@mistake("wd_di.settings.SettingsWarning: Shop: ordres is set, and no setting takes it: did you mean orders?")
def a_misspelt_pool() -> None:
    """A field of that class is misspelt."""

    class Shop(Settings):
        orders: PoolSettings = PoolSettings()

    Shop(ordres=PoolSettings())


@mistake("wd_di.errors.SettingsError: default: size: Input should be greater than or equal to 1, got int")
def no_producers() -> None:
    """A pool of none."""
    ProducerPool({"size": 0})


@mistake(
    "wd_di.errors.SettingsError: default: size: Input should be a valid integer, unable to parse string as an "
    "integer, got str"
)
def a_size_in_words() -> None:
    """A number is spelt out."""
    ProducerPool({"size": "three"})


@mistake(
    "wd_di.settings.SettingsWarning: timeout=5 is milliseconds, as in WaterDrop, and very short: say "
    "timeout_ms=5 if that is meant, timeout_ms=5000 for seconds"
)
def seconds_for_milliseconds() -> None:
    """A time-out in seconds, as WaterDrop's page and most of Python have it."""
    ProducerPool({"timeout": 5, "deliver": False})


@mistake("wd_di.errors.SettingsError: default: timeout_ms: Input should be greater than or equal to 0, got int")
def a_negative_timeout() -> None:
    """A time-out that means for ever elsewhere."""
    ProducerPool({"timeout_ms": -1})


@mistake(
    "wd_di.errors.SettingsError: default: timeout_ms: Input should be a valid integer, got a number with a "
    "fractional part, got float"
)
def a_broken_number_of_milliseconds() -> None:
    """Half a millisecond."""
    ProducerPool({"timeout_ms": 0.5})


@mistake("wd_di.errors.SettingsError: default: open_policy: Input should be 'fail' or 'background', got str")
def an_unknown_policy() -> None:
    """An enumeration's value is guessed."""
    ProducerPool({"open_policy": "lazy"})


@mistake("wd_di.errors.SettingsError: default: order: Input should be 'fifo' or 'lifo', got str")
def an_unknown_order() -> None:
    """Another one."""
    ProducerPool({"order": "random"})


@mistake(
    "wd_di.errors.SettingsError: default[0]: bootstrap.servers is missing: set kafka.bootstrap_servers, or "
    "deliver=False to keep messages in memory"
)
def no_brokers() -> None:
    """Nothing says where Kafka is."""
    ProducerPool({"size": 1})


@mistake(
    "wd_di.errors.SettingsError: default[0]: bootstrap.servers is missing (bootstrap.severs is set, and is no "
    "setting): set kafka.bootstrap_servers, or deliver=False to keep messages in memory"
)
def a_misspelt_key() -> None:
    """A key of librdkafka's is misspelt."""
    ProducerPool({"kafka": {"bootstrap_severs": "kafka:9092"}})


@mistake(
    "wd_di.errors.SettingsError: default: kafka: bootstrap.servers is given twice with different values, as "
    "'bootstrap.servers' and 'bootstrap_servers': keep one of them. Of two sources the stronger one wins, if the "
    "class is based on wd_di.Settings, got dict"
)
def a_key_given_twice() -> None:
    """One setting in two spellings."""
    ProducerPool({"kafka": {"bootstrap.servers": "a:1", "bootstrap_servers": "b:1"}})


@mistake(
    "wd_di.errors.SettingsError: default: kafka.linger.ms: Input should be a valid number, unable to parse "
    "string as a number, got str"
)
def a_value_that_librdkafka_refuses() -> None:
    """A word where a number belongs."""
    ProducerPool({"kafka": {**KAFKA, "linger.ms": "fast"}})


@mistake(
    "wd_di.settings.SettingsWarning: default: a producer ignores auto.offset.reset, which belongs to consumers: "
    "leave it out"
)
def a_consumers_setting() -> None:
    """The settings of a consumer are reused."""
    ProducerPool({"kafka": {**KAFKA, "auto.offset.reset": "earliest"}})


@mistake(
    "wd_di.errors.SettingsError: default: kafka: on_delivery can't be set for a pool's producers: a record's "
    "fate is told by Delivery.add_done_callback, or for all of them by "
    'observer.subscribe("message.acknowledged", fn) and "message.failed", got dict'
)
def a_callback_among_the_settings() -> None:
    """A delivery callback for all records, as in confluent-kafka."""
    ProducerPool({"kafka": {**KAFKA, "on_delivery": print}})


@mistake(
    "wd_di.errors.SettingsError: default: kafka: transactional.id can't be shared by the producers of a pool: "
    "set PoolSettings.transactional_id, for example 'shop-orders-{instance}-{index}', got dict"
)
def the_id_among_kafkas_settings() -> None:
    """The transactional.id where confluent-kafka wants it."""
    ProducerPool({"kafka": {**KAFKA, "transactional.id": "orders"}})


@mistake(
    "wd_di.errors.SettingsError: default: transactional_id 'orders' needs {index}: 3 producers under one id "
    "would fence each other"
)
def one_id_for_three_producers() -> None:
    """A template without the slot's number."""
    ProducerPool({"size": 3, "transactional_id": "orders", "kafka": KAFKA})


@mistake(
    "wd_di.errors.SettingsError: default: transactional_id 'orders-{indx}' has the unknown placeholder {indx}; "
    "known are {index}, {instance}, {pool}, {host}, {pid}, and a brace is '{{'"
)
def an_unknown_placeholder() -> None:
    """A template with a typing error."""
    ProducerPool({"transactional_id": "orders-{indx}", "kafka": KAFKA})


@mistake("wd_di.errors.SettingsError: default: instance: String should have at least 1 character, got str")
def no_instance() -> None:
    """The replica's own name is empty."""
    ProducerPool({"transactional_id": "orders-{instance}-{index}", "instance": "", "kafka": KAFKA})


@mistake(
    "wd_di.errors.SettingsError: default: share=4 with a transactional id: a transactional producer runs one "
    "transaction at a time. Set share=1 and a larger size"
)
def a_shared_transactional_producer() -> None:
    """Several borrowers of one transactional producer."""
    ProducerPool({"share": 4, **TRANSACTIONAL})


@mistake(
    "wd_di.errors.SettingsError: default[0]: enable.idempotence=False with a transactional id: it must be true; "
    "leave it out"
)
def transactions_without_idempotence() -> None:
    """Idempotence is switched off."""
    ProducerPool({"transactional_id": "t-{index}", "kafka": {**KAFKA, "enable.idempotence": False}})


@mistake("wd_di.errors.SettingsError: default[0]: acks=1 with a transactional id: it must be all; leave it out")
def transactions_without_all_acks() -> None:
    """One acknowledgement is thought to do."""
    ProducerPool({"transactional_id": "t-{index}", "kafka": {**KAFKA, "acks": 1}})


@mistake(
    "wd_di.errors.SettingsError: second: transactional.id 'shop-7-0' on localhost:9092 is in use by pool 'first' "
    "of this process: they would fence each other. Close that one first, as before a notebook cell runs again, "
    "or give each pool its own, for example with {pool}"
)
def the_same_ids_twice() -> None:
    """Two pools of one process have the same ids."""
    delivering = {"transactional_id": "shop-{instance}-{index}", "instance": "7", "kafka": KAFKA}
    first = ProducerPool(delivering, name="first")
    try:
        ProducerPool(delivering, name="second")
    finally:
        first.close()


@mistake(
    "wd_di.errors.SettingsError: default: the settings of a pool are a PoolSettings or a mapping of its fields, "
    "not Shop: pass one of its pools (orders), in a container settings.provided.orders"
)
def the_whole_settings() -> None:
    """The class of all settings instead of one of its pools."""

    class Shop(Settings):
        orders: PoolSettings = PoolSettings()

    ProducerPool(Shop())  # type: ignore[arg-type]


@mistake(
    "wd_di.errors.SettingsError: default: the settings of a pool are a PoolSettings or a mapping of its fields, "
    "not KafkaSettings: pass PoolSettings(kafka=...)"
)
def kafkas_settings_for_the_pools() -> None:
    """The cluster's settings instead of the pool's."""
    ProducerPool(KafkaSettings.of(KAFKA))  # type: ignore[arg-type]


@mistake(
    "wd_di.errors.SettingsError: default: the settings of a pool are a PoolSettings or a mapping of its fields, "
    "not str: a pool's name is passed as name=..."
)
def an_address_for_settings() -> None:
    """An address instead of settings."""
    ProducerPool("localhost:9092")  # type: ignore[arg-type]


@mistake("wd_di.errors.SettingsError: the name of a pool is text that isn't empty, got int")
def a_name_that_is_no_text() -> None:
    """A pool is named by a number."""
    ProducerPool(PLAIN, name=7)  # type: ignore[arg-type]


@mistake("wd_di.errors.SettingsError: default: observer must be an Observer, not builtin_function_or_method")
def an_observer_that_is_none() -> None:
    """A function instead of an observer."""
    ProducerPool(PLAIN, observer=print)  # type: ignore[arg-type]


@mistake(
    "wd_di.errors.SettingsError: default: configure must be a plain function of (config, index) or (config); "
    "configure_without_parameters.<locals>.<lambda> takes other arguments"
)
def configure_without_parameters() -> None:
    """A function that takes nothing."""
    ProducerPool(PLAIN, configure=lambda: None)  # type: ignore[arg-type,misc]


# -- records -----------------------------------------------------------------------------------------


@mistake("TypeError: value is str, bytes or None, not dict")
def a_dict_for_a_value() -> None:
    """A value that isn't serialized."""
    with plain() as producer:
        producer.produce_sync("orders", {"id": 1})  # type: ignore[arg-type]


@mistake("TypeError: key is str, bytes or None, not int")
def a_number_for_a_key() -> None:
    """An id as the key."""
    with plain() as producer:
        producer.produce_sync("orders", "v", 17)  # type: ignore[arg-type]


@mistake("TypeError: topic is a str, not NoneType")
def no_topic() -> None:
    """A topic from a setting that isn't set."""
    with plain() as producer:
        producer.produce_sync(None, "v")  # type: ignore[arg-type]


@mistake("ValueError: topic is empty")
def an_empty_topic() -> None:
    """Or that is empty."""
    with plain() as producer:
        producer.produce_sync("", "v")


@mistake("TypeError: topic is a str, not bytes")
def a_topic_in_bytes() -> None:
    """As kafka-python once had it."""
    with plain() as producer:
        producer.produce_sync(b"orders", "v")  # type: ignore[arg-type]


@mistake("TypeError: header 'attempt' is str, bytes or None, not int")
def a_number_for_a_header() -> None:
    """A header's value that isn't text."""
    with plain() as producer:
        producer.produce_sync("orders", "v", headers={"attempt": 1})  # type: ignore[dict-item]


@mistake("TypeError: headers is a mapping or (name, value) pairs, not str")
def a_list_of_header_names() -> None:
    """Names without values."""
    with plain() as producer:
        producer.produce_sync("orders", "v", headers=["attempt"])  # type: ignore[list-item]


@mistake("TypeError: partition is an int, not str")
def a_partition_as_text() -> None:
    """A partition from a setting."""
    with plain() as producer:
        producer.produce_sync("orders", "v", partition="0")  # type: ignore[arg-type]


@mistake("TypeError: timestamp_ms is an int, not datetime")
def a_time_as_an_object() -> None:
    """A datetime instead of milliseconds."""
    with plain() as producer:
        producer.produce_sync("orders", "v", timestamp_ms=datetime.now(UTC))  # type: ignore[arg-type]


@mistake("TypeError: timestamp_ms is an int, not float")
def a_time_in_seconds() -> None:
    """The float of time.time()."""
    with plain() as producer:
        producer.produce_sync("orders", "v", timestamp_ms=1764201600.5)  # type: ignore[arg-type]


@mistake("ValueError: timestamp_ms is 0, which librdkafka takes for now: leave it out for now, and 1 is the earliest")
def the_first_of_january_1970() -> None:
    """A zero that means now to librdkafka."""
    with plain() as producer:
        producer.produce_sync("orders", "v", timestamp_ms=0)


@mistake("TypeError: timeout_ms is milliseconds as an int, not float")
def a_deadline_in_seconds() -> None:
    """Seconds as a float for one call."""
    with plain() as producer:
        producer.produce_sync("orders", "v", timeout_ms=0.5)  # type: ignore[arg-type]


@mistake("TypeError: each of messages is a wd_di.Message, not tuple")
def pairs_for_messages() -> None:
    """Tuples instead of messages."""
    with plain() as producer:
        producer.produce_many_sync([("orders", "v")])  # type: ignore[list-item]


@mistake("TypeError: messages is an iterable of wd_di.Message, not Message")
def one_message_for_many() -> None:
    """A message instead of a list of one."""
    with plain() as producer:
        producer.produce_many_sync(Message("orders", "v"))  # type: ignore[arg-type]


@mistake(
    "AttributeError: 'Producer' object has no attribute 'produce': produce_sync waits until the broker has the "
    "record, produce_async returns a Delivery at once, produce_many_sync and produce_many_async take several"
)
def confluents_produce() -> None:
    """The method of confluent-kafka's producer."""
    with plain() as producer:
        producer.produce("orders", "v")  # type: ignore[attr-defined]


@mistake(
    "AttributeError: 'Producer' object has no attribute 'send': produce_sync waits until the broker has the "
    "record, produce_async returns a Delivery at once, produce_many_sync and produce_many_async take several"
)
def pythons_send() -> None:
    """The method of kafka-python's and aiokafka's."""
    with plain() as producer:
        producer.send("orders", "v")  # type: ignore[attr-defined]


@mistake(
    "TypeError: produce_async() got an unexpected keyword argument 'on_delivery': produce_async(...) returns a "
    "Delivery: delivery.add_done_callback(fn), or observer.subscribe for all of them"
)
def confluents_callback() -> None:
    """A callback for one record, as in confluent-kafka."""
    with plain() as producer:
        producer.produce_async("orders", "v", on_delivery=print)  # type: ignore[call-arg]


# -- scopes ------------------------------------------------------------------------------------------


@mistake(
    "AttributeError: 'ProducerPool' object has no attribute 'produce_sync': a producer of the pool does that: "
    "with pool.producer() as producer, or with pool.transaction() as tx"
)
def producing_on_the_pool() -> None:
    """Nobody has taken a producer."""
    with ProducerPool(PLAIN, name="orders") as pool:
        pool.produce_sync("orders", "v")  # type: ignore[attr-defined]


@mistake(
    "wd_di.errors.UnopenedScopeError: producer of pool 'orders' isn't open, so it has no 'produce_sync': "
    "decorate the function with wd_di.inject, or use 'with'"
)
def a_scope_that_was_not_opened() -> None:
    """The with is forgotten."""
    with ProducerPool(PLAIN, name="orders") as pool:
        pool.producer().produce_sync("orders", "v")  # type: ignore[attr-defined]


@mistake(
    "wd_di.errors.CheckoutReturnedError: orders: producer 0 has gone back to its pool: take one with pool.producer()"
)
def a_producer_after_its_block() -> None:
    """One that is kept for later."""
    with plain() as producer:
        pass
    producer.produce_sync("orders", "v")


@mistake("wd_di.errors.TransactionClosedError: orders: transaction shop-0#… has ended: committed")
def a_transaction_after_its_block() -> None:
    """The same with a transaction."""
    with ProducerPool(TRANSACTIONAL, name="orders") as pool:
        with pool.transaction() as tx:
            pass
        tx.produce_sync("orders", "v")


@mistake(
    "wd_di.errors.NotTransactionalError: orders: this pool has no transactional_id, so it has no transactions: set "
    "one, for example 'shop-orders-{instance}-{index}'"
)
def a_transaction_of_a_plain_pool() -> None:
    """A pool without a transactional_id."""
    with ProducerPool(PLAIN, name="orders") as pool, pool.transaction():
        pass


@mistake("wd_di.errors.ScopeError: producer of pool 'orders' is open already: ask the pool for another one")
def a_scope_opened_twice() -> None:
    """One recipe for two blocks, one within the other."""
    with ProducerPool(PLAIN, name="orders") as pool, pool.producer() as producer:
        scope = pool.producer()
        with scope, scope:
            producer.flush()


@mistake("wd_di.errors.PoolClosedError: orders: the pool is closed")
def a_closed_pool() -> None:
    """A pool that is used after its end."""
    with ProducerPool(PLAIN, name="orders") as pool:
        pass
    with pool.producer():
        pass


@mistake("wd_di.errors.PoolClosedError: orders: the pool is closed; make another one")
def a_pool_opened_again() -> None:
    """A pool that is opened after its end."""
    with ProducerPool(PLAIN, name="orders") as pool:
        pass
    pool.open()


@mistake(
    "wd_di.errors.PoolTimeoutError: orders: no producer free after 20 ms (1 of 1 in use, 0 waiting; longest held "
    "0.0 s by thread 'MainThread')"
)
def all_producers_are_lent() -> None:
    """More borrowers than producers."""
    with ProducerPool({**TRANSACTIONAL, "size": 1}, name="orders") as pool, pool.producer():
        raise in_thread(lambda: pool.producer(timeout_ms=20).__enter__())


@mistake(
    "wd_di.errors.PoolExhaustedError: orders: no second producer is idle, and the caller holds one already: "
    "waiting could wait for itself (1 of 1 in use, 0 waiting; longest held 0.0 s by thread 'MainThread')"
)
def a_second_producer_for_the_same_thread() -> None:
    """A transaction of its own within another, in a pool of one."""
    with ProducerPool({**TRANSACTIONAL, "size": 1}, name="orders") as pool, pool.transaction():
        pool.transaction(propagation="new").__enter__()


@mistake(
    "wd_di.errors.UnexpectedAbortError: orders: transaction shop-0#… was aborted: something in it failed with "
    "ZeroDivisionError('division by zero'), which was swallowed"
)
def a_swallowed_error() -> None:
    """What fails within a transaction that was joined is swallowed outside."""
    with ProducerPool(TRANSACTIONAL, name="orders") as pool, pool.transaction() as tx:
        with suppress(ZeroDivisionError), pool.transaction():
            raise ZeroDivisionError("division by zero")
        tx.produce_async("orders", "v")


@mistake("ValueError: propagation is one of join, new, mandatory, never, not 'nested'")
def an_unknown_propagation() -> None:
    """Spring's word."""
    with ProducerPool(TRANSACTIONAL, name="orders") as pool:
        pool.transaction(propagation="nested")  # type: ignore[arg-type]


@mistake("TypeError: retry is a wd_di.Retry, not int")
def a_number_of_retries() -> None:
    """A number instead of a Retry."""
    with ProducerPool(TRANSACTIONAL, name="orders") as pool:
        pool.transaction(retry=3)  # type: ignore[arg-type]


@mistake(
    "wd_di.errors.ScopeError: transaction of pool 'orders' has a retry, which needs a function to call again: "
    "pool.run(fn) or @inject"
)
def a_retry_of_a_block() -> None:
    """A block can't be run again."""
    with ProducerPool(TRANSACTIONAL, name="orders") as pool, pool.transaction(retry=Retry(attempts=3)):
        pass


@mistake("TypeError: commit_on is a tuple of Exception classes, not 'ValueError'")
def an_error_by_its_name() -> None:
    """A class of exceptions as text."""
    with ProducerPool(TRANSACTIONAL, name="orders") as pool:
        pool.transaction(commit_on=("ValueError",))  # type: ignore[arg-type]


@mistake("TypeError: run takes a function of a transaction, not NoneType")
def running_nothing() -> None:
    """The result of a function instead of the function."""
    with ProducerPool(TRANSACTIONAL, name="orders") as pool:
        pool.run(None)  # type: ignore[call-overload]


@mistake("TypeError: run takes a function that does its work when it is called, not a generator function")
def running_a_generator() -> None:
    """A function whose work would begin after the commit."""

    def work(tx: object) -> Iterator[object]:
        yield tx

    with ProducerPool(TRANSACTIONAL, name="orders") as pool:
        pool.run(work)


@mistake("TypeError: group_metadata is what consumer.consumer_group_metadata() returns, not NoneType")
def offsets_without_metadata() -> None:
    """A group's metadata are forgotten."""
    with ProducerPool(TRANSACTIONAL, name="orders") as pool, pool.transaction() as tx:
        tx.send_offsets([TopicPartition("orders", 0, 5)], None)


@mistake("ValueError: offsets are empty: send those of the batch, the last read + 1 for each partition")
def no_offsets() -> None:
    """An empty batch."""
    with ProducerPool(TRANSACTIONAL, name="orders") as pool, pool.transaction() as tx:
        tx.send_offsets([], b"CGMD")


@mistake(
    "ValueError: the offset of orders[0] is -1001, which isn't one: send the last read + 1, and leave out a "
    "partition of which nothing was read"
)
def a_partition_of_which_nothing_was_read() -> None:
    """A consumer's position before its first record."""
    with ProducerPool(TRANSACTIONAL, name="orders") as pool, pool.transaction() as tx:
        tx.send_offsets([TopicPartition("orders", 0)], b"CGMD")


@mistake(
    "wd_di.errors.SettingsError: orders: reload can't change size or transactional_id on and off: make another pool"
)
def another_size_by_reload() -> None:
    """A pool's size is no matter of a reload."""
    with ProducerPool(PLAIN, name="orders") as pool:
        pool.reload({**PLAIN, "size": 9})


@mistake(
    "ValueError: there is no event 'producer.borrowed'. Did you mean 'producer.retired'? The events are: *, "
    "connection_pool.created, connection_pool.setup, connection_pool.reload, connection_pool.reloaded, "
    "connection_pool.shutdown, checkout.timed_out, checkout.lost, error.occurred, producer.contested, "
    "producer.created, producer.closed, producer.retired, statistics.emitted, transaction.started, "
    "transaction.committed, transaction.aborted, transaction.resolved, transaction.finished, message.acknowledged, "
    "message.failed, message.purged"
)
def an_unknown_event() -> None:
    """A name that no event has."""
    Observer().subscribe("producer.borrowed", print)


@mistake("TypeError: a listener is a plain function of one argument (it is never awaited), not None")
def a_listener_that_cannot_be_called() -> None:
    """The result of a function as a listener."""
    Observer().subscribe("producer.created", None)  # type: ignore[arg-type]


# -- arguments and names -----------------------------------------------------------------------------

ONE_ARGUMENT = "all settings go into one argument, as in settings=PoolSettings(size=3, kafka=KafkaSettings(...))"


@mistake(f"TypeError: ProducerPool() got an unexpected keyword argument 'size': {ONE_ARGUMENT}")
def settings_as_arguments_of_a_pool() -> None:
    """WaterDrop's and others' way to say the size."""
    ProducerPool(size=3)  # type: ignore[call-arg]


@mistake(f"TypeError: PoolResource() got an unexpected keyword argument 'bootstrap_servers': {ONE_ARGUMENT}")
def settings_as_arguments_of_a_resource() -> None:
    """The same in a container."""
    PoolResource(bootstrap_servers="localhost:9092")  # type: ignore[call-arg]


@mistake(f"TypeError: setup() got an unexpected keyword argument 'kafka': {ONE_ARGUMENT}")
def settings_as_arguments_of_setup() -> None:
    """The same without one."""
    wd_di.setup(kafka=KAFKA)  # type: ignore[call-arg]


@mistake(f"TypeError: setup() takes its arguments by name: {ONE_ARGUMENT}")
def setup_with_a_mapping() -> None:
    """Settings without their name."""
    wd_di.setup(PLAIN)  # type: ignore[call-arg]


@mistake("TypeError: setup() got an unexpected keyword argument 'timeout': did you mean timeout_ms?")
def setup_in_rubys_spelling() -> None:
    """WaterDrop's word."""
    wd_di.setup(timeout=5)  # type: ignore[call-arg]


@mistake("TypeError: ProducerPool() got an unexpected keyword argument 'obsever': did you mean observer?")
def a_misspelt_argument_of_a_pool() -> None:
    """An argument with a letter less."""
    ProducerPool(PLAIN, obsever=Observer())  # type: ignore[call-arg]


@mistake("TypeError: open() got an unexpected keyword argument 'timeout': it is timeout_ms, in milliseconds")
def opening_within_seconds() -> None:
    """Everybody else's word."""
    ProducerPool(PLAIN, name="orders").open(timeout=5)  # type: ignore[call-arg]


@mistake("TypeError: close() got an unexpected keyword argument 'timeout': it is timeout_ms, in milliseconds")
def closing_within_seconds() -> None:
    """The same, though nothing is set up."""
    wd_di.close(timeout=5)  # type: ignore[call-arg]


@mistake("TypeError: reload() got an unexpected keyword argument 'timeout': it is timeout_ms, in milliseconds")
def reloading_within_seconds() -> None:
    """The same in a task."""

    async def main() -> None:
        async with ProducerPool(PLAIN, name="orders") as pool:
            await pool.areload(timeout=5)  # type: ignore[call-arg]

    asyncio.run(main())


@mistake("TypeError: producer() got an unexpected keyword argument 'timeout': it is timeout_ms, in milliseconds")
def borrowing_within_seconds() -> None:
    """The same for a producer."""
    with ProducerPool(PLAIN, name="orders") as pool:
        pool.producer(timeout=5)  # type: ignore[call-arg]


@mistake("TypeError: transaction() got an unexpected keyword argument 'timeout': it is timeout_ms, in milliseconds")
def a_transaction_within_seconds() -> None:
    """The same for a transaction."""
    with ProducerPool(TRANSACTIONAL, name="orders") as pool:
        pool.transaction(timeout=5)  # type: ignore[call-arg]


@mistake("TypeError: transaction() got an unexpected keyword argument 'retires': did you mean retry?")
def a_held_producers_misspelt_option() -> None:
    """The same for a producer that is held."""
    with ProducerPool(TRANSACTIONAL, name="orders") as pool, pool.producer() as producer:
        producer.transaction(retires=Retry())  # type: ignore[call-arg]


@mistake("TypeError: transaction_with() got an unexpected keyword argument 'propogation': did you mean propagation?")
def a_misspelt_option_in_a_container() -> None:
    """An option with another letter."""
    Shop.orders.transaction_with(propogation="new")  # type: ignore[call-arg]


@mistake(
    "AttributeError: 'Transaction' object has no attribute 'rollback': a transaction aborts when its block raises, as "
    "by AbortTransaction, or after tx.abort_only()"
)
def rolling_back() -> None:
    """A database's word."""
    with ProducerPool(TRANSACTIONAL, name="orders") as pool, pool.transaction() as tx:
        tx.rollback()  # type: ignore[attr-defined]


@mistake(
    "AttributeError: 'AsyncProducer' object has no attribute 'begin_transaction': async with producer.transaction() "
    "begins, commits at the end of its block, and aborts if that raises"
)
def beginning_a_transaction_in_a_task() -> None:
    """confluent-kafka's way, in a task."""

    async def main() -> None:
        async with ProducerPool(TRANSACTIONAL, name="orders") as pool, pool.producer() as producer:
            producer.begin_transaction()  # type: ignore[attr-defined]

    asyncio.run(main())


@mistake(
    "AttributeError: 'PoolResource' object has no attribute 'produce_sync': it provides a pool, or what is injected: "
    "see PoolResource.producer and transaction"
)
def producing_by_a_provider() -> None:
    """The provider for a producer."""
    Shop().orders.produce_sync("orders", "v")  # type: ignore[attr-defined]


@mistake(
    "AttributeError: 'PoolResource' object has no attribute 'stats': it provides a pool, and gives it when called, as "
    "container.orders().stats(); init and shutdown are its own"
)
def asking_a_provider() -> None:
    """The provider for its pool."""
    Shop().orders.stats()  # type: ignore[attr-defined]


NOT_INJECTED = (
    "nothing was injected: put @inject directly above the function, from wd_di; dependency-injector's own gives "
    "nothing until its container is wired: container.wire(modules=[...])"
)


@mistake(f"AttributeError: this is what injected(...) gives, without 'produce_sync': {NOT_INJECTED}")
def inject_is_forgotten() -> None:
    """Only the default is there."""

    def place(producer: Producer = injected(Shop.orders.producer)) -> None:
        producer.produce_sync("orders", "v")

    place()


@mistake(f"AttributeError: this is what injected(...) gives, without 'flush': {NOT_INJECTED}")
def the_other_inject_is_not_wired() -> None:
    """dependency-injector's own decorator, which hands over the default until its container is wired."""

    @wiring.inject
    def place(producer: Producer = injected(Shop.orders.producer)) -> None:
        producer.flush()

    place()


@mistake(f"TypeError: this is what injected(...) gives, and nothing for 'with': {NOT_INJECTED}")
def entering_what_is_not_injected() -> None:
    """A block of the default."""

    def place(pool: ProducerPool = injected(Shop.orders)) -> None:
        with pool:
            pass

    place()


@mistake(f"TypeError: this is what injected(...) gives, and nothing for 'async with': {NOT_INJECTED}")
def entering_what_is_not_injected_in_a_task() -> None:
    """A block of the default, in a task."""

    async def place(pool: ProducerPool = injected(Shop.orders)) -> None:
        async with pool:
            pass

    asyncio.run(place())


# -- event loops -------------------------------------------------------------------------------------


@mistake(
    "wd_di.errors.ScopeError: orders: open would block the event loop that runs in this thread: await "
    "pool.aopen(), or 'async with' the pool or running(...), move it to asyncio.to_thread, or set "
    "allow_blocking_in_loop=True in a notebook"
)
def opening_on_a_loop() -> None:
    """With instead of async with."""

    async def main() -> None:
        with ProducerPool(PLAIN, name="orders"):
            pass

    asyncio.run(main())


@mistake(
    "wd_di.errors.ScopeError: orders: reload would block the event loop that runs in this thread: await "
    "pool.areload(), move it to asyncio.to_thread, or set allow_blocking_in_loop=True in a notebook"
)
def reloading_on_a_loop() -> None:
    """A plain reload in a task."""

    async def main() -> None:
        async with ProducerPool(PLAIN, name="orders") as pool:
            pool.reload()

    asyncio.run(main())


@mistake(
    "wd_di.errors.ScopeError: default: reload would block the event loop that runs in this thread: await "
    "asyncio.to_thread(wd_di.reload, ...), or set allow_blocking_in_loop=True in a notebook"
)
def reloading_the_global_pool_on_a_loop() -> None:
    """A reload in a task of who has no pool at hand."""

    async def main() -> None:
        wd_di.setup(settings=PLAIN)
        wd_di.reload()

    try:
        asyncio.run(main())
    finally:
        wd_di.close(timeout_ms=0, force=True)


@mistake(
    'wd_di.errors.ScopeError: default: setup with open_policy="fail" would block the event loop that runs in this '
    "thread: await asyncio.to_thread(wd_di.setup, ...), leave out open_policy, so that the first use connects, or set "
    "allow_blocking_in_loop=True in a notebook"
)
def setting_up_on_a_loop() -> None:
    """A setup that would connect, in a task."""

    async def main() -> None:
        wd_di.setup(settings={**PLAIN, "open_policy": "fail"})

    asyncio.run(main())


@mistake(
    "wd_di.errors.ScopeError: orders: a transaction would block the event loop that runs in this thread: use "
    "'async with' and await its calls, move it to asyncio.to_thread, or set allow_blocking_in_loop=True in a "
    "notebook"
)
def a_transaction_on_a_loop() -> None:
    """A plain block in a task."""

    async def main() -> None:
        async with ProducerPool(TRANSACTIONAL, name="orders") as pool:
            with pool.transaction():
                pass

    asyncio.run(main())


@mistake(
    "wd_di.errors.ScopeError: orders: produce_sync would block the event loop that runs in this thread: use "
    "'async with' and await its calls, move it to asyncio.to_thread, or set allow_blocking_in_loop=True in a "
    "notebook"
)
def waiting_for_a_record_on_a_loop() -> None:
    """A producer for threads in a task."""

    async def main() -> None:
        async with ProducerPool(PLAIN, name="orders") as pool:
            with pool.producer() as producer:
                producer.produce_sync("orders", "v")

    asyncio.run(main())


@mistake(
    "wd_di.errors.ScopeError: orders: a transactional producer sends only inside a transaction: use 'async with "
    "producer.transaction()', or await produce_sync, which is a transaction of its own"
)
def a_transaction_of_its_own_without_await() -> None:
    """The call that doesn't wait, in a task on a transactional pool."""

    async def main() -> None:
        async with ProducerPool(TRANSACTIONAL, name="orders") as pool, pool.producer() as producer:
            producer.produce_async("orders", "v")

    asyncio.run(main())


# -- containers --------------------------------------------------------------------------------------


class Shop(containers.DeclarativeContainer):
    """A container with a pool."""

    orders = PoolResource(PoolSettings(deliver=False, transactional_id="shop-{index}", instance="7"))


@mistake(
    "wd_di.errors.ScopeError: nobody_wired.<locals>.place: nothing was injected for 'tx': "
    "container.wire(modules=['test_mistakes']) wasn't called for the function's module"
)
def nobody_wired() -> None:
    """The container was made, and wire is forgotten."""

    @inject
    def place(tx: Transaction = injected(Shop.orders.transaction)) -> None:
        tx.produce_async("orders", "v")

    place()


@mistake(
    "wd_di.errors.ScopeError: wired_before_it_was_defined.<locals>.place: nothing was injected for 'tx': "
    "'test_mistakes' was wired before this function was made, or another container's unwire() has taken it back: "
    "call container.wire(modules=['test_mistakes']) now, or use running(container), which does it at the start"
)
def wired_before_it_was_defined() -> None:
    """The function is defined after its module was wired."""
    shop = Shop()
    shop.wire(modules=[__name__])

    @inject
    def place(tx: Transaction = injected(Shop.orders.transaction)) -> None:
        tx.produce_async("orders", "v")

    try:
        place()
    finally:
        shop.unwire()


@mistake(
    "TypeError: a_transaction_for_threads_in_a_coroutine.<locals>.place: the parameter 'tx' is a producer or "
    "transaction for threads: opening and committing it would block the event loop. Inject async_producer or "
    "async_transaction"
)
def a_transaction_for_threads_in_a_coroutine() -> None:
    """Transaction instead of async_transaction."""

    @inject
    async def place(tx: Transaction = injected(Shop.orders.transaction)) -> None:
        tx.produce_async("orders", "v")

    asyncio.run(place())


@mistake(
    "TypeError: a_transaction_for_tasks_in_a_function.<locals>.place: the parameter 'tx' is a producer or "
    "transaction for coroutine functions. Inject producer or transaction"
)
def a_transaction_for_tasks_in_a_function() -> None:
    """async_transaction instead of transaction."""

    @inject
    def place(tx: AsyncTransaction = injected(Shop.orders.async_transaction)) -> None:
        tx.produce_async("orders", "v")

    place()


@mistake("dependency_injector.wiring.DIWiringWarning: @inject is not required here")
def injecting_nothing() -> None:
    """Inject without a marker, as when a default was forgotten."""

    @inject
    def place(tx: Transaction) -> None:
        tx.produce_async("orders", "v")

    place(FakePool())  # type: ignore[arg-type]


@mistake(
    "wd_di.errors.SettingsError: orders: the pool has no settings: pass them, PoolResource(settings.provided.orders)"
)
def settings_that_are_none() -> None:
    """A pool is declared without settings, and Kafka is nowhere."""

    class Bare(containers.DeclarativeContainer):
        orders = PoolResource()

    Bare().orders()


@mistake(
    "wd_di.errors.SettingsError: orders: the pool has no settings: the configuration option config.orders isn't "
    "defined, or not loaded yet: check its name and load the configuration before, with config.from_yaml or "
    "config.from_dict for example"
)
def a_configuration_that_is_empty() -> None:
    """An option of a Configuration that nobody has filled."""

    class Configured(containers.DeclarativeContainer):
        config = providers.Configuration()
        orders = PoolResource(config.orders)

    Configured().orders()


@mistake("wd_di.errors.NotConfiguredError: wd_di isn't set up: call wd_di.setup() first")
def wd_di_without_setup() -> None:
    """The global pool before its setup."""
    wd_di.producer()


@mistake("wd_di.errors.AlreadyConfiguredError: wd_di is set up already: call wd_di.close() before another setup")
def setup_twice() -> None:
    """The global pool is set up by two modules."""
    try:
        wd_di.setup(settings=PLAIN)
        wd_di.setup(settings=PLAIN)
    finally:
        wd_di.close()


# -- fakes -------------------------------------------------------------------------------------------


@mistake("ValueError: call is one of create, begin, produce, send_offsets, commit, abort, not 'comit'")
def an_unknown_cue() -> None:
    """A call that a fake doesn't know."""
    FakePool().fail_next("comit")  # type: ignore[arg-type]


@mistake(
    "AssertionError: fake: not committed\n  Sent('orders', value='two')\ncommitted: 1\n  Sent('orders', "
    "value='one')\naborted: none"
)
def asserting_what_was_not_sent() -> None:
    """A record that isn't there."""
    fake = FakePool()
    with fake.transaction() as tx:
        tx.produce_async("orders", "one")
    fake.assert_committed(Sent("orders", "two"))


def told(made: Mistake) -> str:
    """What whoever makes the mistake reads last."""
    try:
        made()
    except BaseException as error:  # noqa: BLE001  (it is compared)
        notes = getattr(error, "__notes__", [])
        module = type(error).__module__
        name = type(error).__qualname__ if module == "builtins" else f"{module}.{type(error).__qualname__}"
        return re.sub(r"\n +For further information.*|(?<=#)\d+", "…", "\n".join([f"{name}: {error}", *notes]))
    return "nothing"


@pytest.mark.parametrize(("made", "text"), [pytest.param(*each, id=each[0].__name__) for each in MISTAKES])
def test_what_a_mistake_is_answered_with(made: Mistake, text: str) -> None:
    """It says what is wrong, what was given, and the way out."""
    assert text == told(made)


def test_as_many_as_were_made() -> None:
    """None is made twice."""
    assert len({text for _, text in MISTAKES}) == len(MISTAKES) >= 70
