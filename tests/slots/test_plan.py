from __future__ import annotations

import functools
import gc
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from pydantic import SecretStr

from wd_di._slots import ids as _ids
from wd_di._slots.ids import free_ids, reserve_ids, reserve_on_cluster
from wd_di._slots.plan import Plan, ProducerConfig, make_plan
from wd_di._slots.template import default_instance
from wd_di.errors import SettingsError
from wd_di.pool import ProducerPool
from wd_di.settings import KafkaSettings, PoolSettings, SettingsWarning

SECRET = "s3cr3t-value"  # noqa: S105  (what must not be seen)
KAFKA = KafkaSettings(bootstrap_servers="kafka:9092")


def settings(**given: Any) -> PoolSettings:
    """Settings of two plain producers, but for what is given."""
    return PoolSettings.model_validate({"kafka": KAFKA, "size": 2, **given})


def transactional(**given: Any) -> PoolSettings:
    """Settings of two transactional producers, but for what is given."""
    return settings(**{"transactional_id": "shop-{instance}-{index}", "instance": "7", **given})


def plan_of(pool: PoolSettings, name: str = "orders", **given: Any) -> Plan:
    """The plan of a pool that is called orders."""
    return make_plan(pool, name=name, **given)


def ids(plan: Plan) -> list[str | None]:
    """The slots' transactional ids."""
    return [slot.transactional_id for slot in plan.slots]


def kafka(**given: object) -> KafkaSettings:
    """Settings of a reachable cluster under dotted names."""
    return KafkaSettings.of({"bootstrap.servers": "kafka:9092", **given})


class Owner:
    """Stands for a pool."""


@pytest.fixture(autouse=True)
def _no_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ids._registry, "owners", {})


# -- what a plan holds -----------------------------------------------------------------------------


def test_plain_pool() -> None:
    """A plain pool is lazy and LIFO, and its slots carry what was set and a client id."""
    plan = plan_of(settings(instance="7", kafka=kafka(**{"linger.ms": 1})))

    assert not plan.transactional
    assert not plan.warm
    assert plan.order == "lifo"
    assert not any(ids(plan))
    expected = {"bootstrap.servers": "kafka:9092", "linger.ms": 1, "client.id": f"orders-7-{os.getpid()}-1"}
    assert expected == dict(plan.slots[1].kafka)


def test_transactional_pool() -> None:
    """A transactional pool is warm and FIFO, with an id for each slot and a short transaction timeout."""
    plan = plan_of(transactional())

    assert plan.transactional
    assert plan.warm
    assert plan.order == "fifo"
    expected = ["shop-7-0", "shop-7-1"]
    assert expected == ids(plan) == [slot.kafka["transactional.id"] for slot in plan.slots]
    assert {15_000, plan.transaction_timeout_ms} == {slot.kafka["transaction.timeout.ms"] for slot in plan.slots}


def test_order_and_warm_can_be_chosen() -> None:
    """What the settings say goes before the kind's default."""
    plan = plan_of(transactional(order="lifo", warm=False))

    assert (plan.order, plan.warm) == ("lifo", False)


def test_given_settings_are_kept() -> None:
    """A client id and a transaction timeout of one's own aren't replaced."""
    plan = plan_of(transactional(kafka=kafka(**{"client.id": "mine", "transaction.timeout.ms": 20_000})))

    assert plan.transaction_timeout_ms == 20_000
    assert {"mine"} == {slot.kafka["client.id"] for slot in plan.slots}
    assert {20_000} == {slot.kafka["transaction.timeout.ms"] for slot in plan.slots}


def test_a_slots_keys_cannot_be_changed() -> None:
    """The plan is the same for its whole life."""
    slot = plan_of(settings()).slots[0]

    with pytest.raises(TypeError, match="does not support item assignment"):
        slot.kafka["linger.ms"] = 3  # type: ignore[index]


def test_a_real_producer_takes_the_plan() -> None:
    """The client accepts the keys of a transactional slot as planned."""
    plan = plan_of(transactional(kafka=KafkaSettings(test_mock_num_brokers=1, linger_ms=1, acks="all")))

    producer = Producer(dict(plan.slots[0].kafka))
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce("orders", b"x")
    producer.commit_transaction(10)

    assert producer.close()


# -- ids -------------------------------------------------------------------------------------------


def test_all_placeholders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template knows the index, the instance, the pool, the host and the process, with formats and braces."""
    monkeypatch.setattr(socket, "gethostname", lambda: "pod_1.shop/ä")
    plan = plan_of(transactional(transactional_id="{{{pool}}}-{host}-{pid}-{instance}-{index:03d}"))

    assert f"{{orders}}-pod_1.shop--{os.getpid()}-7-001" == plan.slots[1].transactional_id


def test_instance_can_be_replaced() -> None:
    """A forked child plans the same settings under an instance of its own, without a warning."""
    expected = ["shop-8-0", "shop-8-1"]

    assert expected == ids(plan_of(transactional(), instance="8"))
    assert expected == ids(plan_of(transactional(instance=None), instance="8"))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("shop-{instance}", r"needs \{index\}: 2 producers under one id would fence each other"),
        (
            "shop-{idx}",
            r"unknown placeholder \{idx\}; known are \{index\}, \{instance\}, \{pool\}, \{host\}, \{pid\}",
        ),
        ("shop-{}-{index}", r"unknown placeholder \{\}"),
        ("shop-{index.real}", r"unknown placeholder \{index.real\}"),
        ("shop-{index", r"expected '\}'"),
        ("shop-{index:!}", "'!'"),
        ("shop-{index:{width}}", "width"),
    ],
)
def test_bad_templates(template: str, text: str) -> None:
    """A template that can't be rendered is an error with the pool's name and the way out."""
    with pytest.raises(SettingsError, match=rf"^orders: transactional_id .*{text}"):
        plan_of(transactional(transactional_id=template))


def test_one_producer_needs_no_index() -> None:
    """At size 1 a template may do without the index."""
    (slot,) = plan_of(transactional(size=1, transactional_id="shop-{instance}")).slots

    assert slot.transactional_id == "shop-7"


def test_the_instance_of_a_process_stays() -> None:
    """All threads of a process get the same short random instance."""
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(default_instance())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)

    assert {default_instance()} == set(found)
    assert len(default_instance()) == 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_another_start_and_a_fork_have_other_instances() -> None:
    """A forked child and a second start draw their own instance; in the child ids can be claimed at once."""
    program = """
import os, sys
from wd_di._slots import ids, template
mine = template.default_instance()
ids._registry.lock.acquire()
pid = os.fork()
if pid == 0:
    free = []
    import threading
    thread = threading.Thread(target=lambda: free.append(ids.free_ids(object())), daemon=True)
    thread.start(); thread.join(5)
    os.write(1, f"{mine} {template.default_instance()} {len(free)}".encode())
    os._exit(0)
os.waitpid(pid, 0)
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(_ids.__file__).parents[2],
        timeout=30,
    )

    parent, child, released = result.stdout.split()
    assert len({parent, child, default_instance()}) == 3
    assert released == "1"


# -- warnings --------------------------------------------------------------------------------------


def test_an_id_without_the_process_warns() -> None:
    """An id that every replica has in common is one warning that says what to add, at the line that made the pool."""
    settings = transactional(transactional_id="shop-{index}")
    said = (
        r"^orders: .* a second replica would fence this one: add \{instance\} and set PoolSettings\.instance, or add "
        r"\{host\} and \{pid\} \(\{host\} alone where each host, such as a pod, runs one process\)$"
    )

    with pytest.warns(SettingsWarning, match=said) as caught:
        pool = ProducerPool(settings, name="orders")
    pool.close()

    assert [__file__] == [each.filename for each in caught]


def test_a_random_instance_warns() -> None:
    """An id with an instance that nobody gave is one warning that names the setting."""
    with pytest.warns(SettingsWarning, match=r"Set PoolSettings\.instance") as caught:
        plan = plan_of(transactional(instance=None))

    assert len(caught) == 1
    assert [f"shop-{default_instance()}-{index}" for index in range(2)] == ids(plan)


def numbered(monkeypatch: pytest.MonkeyPatch, namespace: str | None) -> None:
    """Let this process have its number from this namespace; from none where there are none."""

    def read(path: Path) -> Path:
        assert Path("/proc/self/ns/pid") == path
        if namespace is None:
            raise FileNotFoundError(path)
        return Path(namespace)

    monkeypatch.setattr(Path, "readlink", read)


def test_a_number_in_a_container_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that only a process's number tells apart is one warning in a container, where the next has the same."""
    numbered(monkeypatch, "pid:[4026532447]")
    said = rf"^orders: .*'shop-\{{pid\}}-\{{index\}}' .* is likely {os.getpid()}, too, .* Add \{{host\}}$"
    with pytest.warns(SettingsWarning, match=said) as caught:
        plan_of(transactional(instance=None, transactional_id="shop-{pid}-{index}"))

    assert len(caught) == 1


@pytest.mark.parametrize("namespace", ["pid:[4026531836]", None], ids=["the host's", "no Linux"])
@pytest.mark.parametrize(
    "pool",
    [
        settings(),
        settings(instance=None, kafka=kafka(**{"client.id": "a"})),
        transactional(),
        transactional(instance=None, transactional_id="shop-{host}-{index}"),
        transactional(instance=None, transactional_id="shop-{pid}-{index}"),
        transactional(transactional_id="shop-{index}", deliver=False),
        transactional(transactional_id="shop-{index}", kafka=KafkaSettings(test_mock_num_brokers=3)),
    ],
    ids=str,
)
def test_nothing_wrong_nothing_said(pool: PoolSettings, namespace: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain pools, told instances, hosts, numbers of a host and pools without a shared cluster don't warn."""
    numbered(monkeypatch, namespace)
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        assert plan_of(pool).slots


# -- configure -------------------------------------------------------------------------------------


def test_the_seeds_configure() -> None:
    """A configure of config and index sets the keys whole and makes the pool transactional."""

    def configure(config: ProducerConfig, index: int) -> None:
        config.kafka = {"bootstrap.servers": "localhost:9092", "transactional.id": f"my-app-{index}"}
        config.deliver = True

    plan = plan_of(PoolSettings(size=5), configure=configure)

    assert [f"my-app-{index}" for index in range(5)] == ids(plan)
    assert plan.transactional
    assert plan.slots[4].kafka["transaction.timeout.ms"] == 15_000


def test_configure_of_config_alone() -> None:
    """A configure with one parameter is called once for every index with the slot's own config."""
    seen: list[ProducerConfig] = []
    plan = plan_of(settings(), configure=seen.append)

    assert len(seen) == len(plan.slots) == 2
    assert seen[0].kafka is not seen[1].kafka


def configure_method(self: object, config: ProducerConfig, index: int) -> None:
    """Leave the index in the configuration."""
    config.kafka["client.rack"] = str(index)


@pytest.mark.parametrize(
    "configure",
    [
        functools.partial(configure_method, None),
        configure_method.__get__(object()),
        lambda config, index=9: configure_method(None, config, index),
        lambda *both: configure_method(None, *both),
    ],
)
def test_any_callable_of_two(configure: Any) -> None:
    """Partials, methods, defaults and star arguments get the index too."""
    expected = ["0", "1"]

    assert expected == [slot.kafka["client.rack"] for slot in plan_of(settings(), configure=configure).slots]


async def coroutine(config: ProducerConfig) -> None:
    """Never be called."""
    raise AssertionError


@pytest.mark.parametrize(
    ("configure", "text"),
    [
        (lambda: None, "takes other arguments"),
        (lambda _a, _b, _c: None, "takes other arguments"),
        (lambda _config, *, _index: None, "takes other arguments"),
        (coroutine, "coroutine isn't"),
        ({"sasl.password": SECRET}, "dict isn't"),
        (functools.partial(lambda *, _secret: None, _secret=SECRET), "partial takes other arguments"),
    ],
)
def test_not_a_configure(configure: Any, text: str) -> None:
    """A configure that can't be called so is an error that says what is expected, and shows no arguments."""
    with pytest.raises(SettingsError, match=rf"^orders: .* \(config, index\) or \(config\); .*{text}") as caught:
        plan_of(settings(), configure=configure)

    assert SECRET not in str(caught.value)


def test_configures_own_errors_pass_unchanged() -> None:
    """An exception of configure comes out as it is, also a TypeError."""
    error = TypeError("mine")

    def configure(config: ProducerConfig) -> None:
        raise error

    with pytest.raises(TypeError) as caught:
        plan_of(settings(), configure=configure)

    assert error is caught.value


def test_configure_changes_its_own_slot_only() -> None:
    """What configure changes stays in one slot, nested values too, and never reaches the settings."""
    pool = settings(kafka=kafka(**{"default.topic.config": {"acks": "all"}}))

    def configure(config: ProducerConfig, index: int) -> None:
        config.kafka["default.topic.config"]["partitioner"] = str(index)
        config.deliver = index == 0

    plan = plan_of(pool, configure=configure)

    expected = [({"acks": "all", "partitioner": "0"}, True), ({"acks": "all", "partitioner": "1"}, False)]
    assert expected == [(slot.kafka["default.topic.config"], slot.deliver) for slot in plan.slots]
    assert "partitioner" not in str(pool.kafka.librdkafka())


def test_callables_and_loggers_are_not_copied() -> None:
    """What can't or mustn't be copied reaches every slot as the same object."""

    class Token:
        def __call__(self, _: object) -> tuple[str, float]:
            return "", 0.0

        def __copy__(self) -> Token:
            raise AssertionError("was copied")

    given = {"oauth_cb": Token(), "throttle_cb": print, "logger": logging.Logger("nobody's")}  # noqa: LOG001
    plan = plan_of(settings(kafka=kafka(**given)))

    assert all(slot.kafka[key] is value for slot in plan.slots for key, value in given.items())


def test_configure_can_unset_a_key() -> None:
    """None takes a key back."""

    def configure(config: ProducerConfig) -> None:
        config.kafka["linger.ms"] = None

    plan = plan_of(settings(kafka=kafka(**{"linger.ms": 3})), configure=configure)

    assert "linger.ms" not in plan.slots[0].kafka


def _setting(**changes: Any) -> Any:
    def configure(config: ProducerConfig) -> None:
        for name, value in changes.items():
            setattr(config, name, value)

    return configure


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kafka": [SECRET]}, "must leave a dict in config.kafka, not list"),
        ({"kafka": {1: SECRET}}, "keys are strings, not int"),
        ({"kafka": {"retries": SECRET}}, r"retries: .*valid integer.*, got str"),
        ({"kafka": {"sasl.password": [SECRET]}}, r"sasl\.password: .*, got list"),
        ({"kafka": {"linger.ms": 1, "linger_ms": 2}}, r"linger\.ms is given twice"),
        ({"kafka": {"transactional.id": 3}}, r"transactional\.id must be text that isn't empty, got int"),
        ({"kafka": {"transactional.id": ""}}, r"transactional\.id must be text that isn't empty, got str"),
        ({"kafka": {"transactional.id": "a", "transactional_id": "b"}}, r"transactional\.id is given twice"),
        ({"deliver": SECRET}, "must leave a bool in config.deliver, not str"),
        ({"kafka": {"error_cb": print}}, r"error_cb can't be set .*error\.occurred"),
        ({"kafka": {"on_delivery": SECRET}}, r"on_delivery can't be set .*Delivery\.add_done_callback"),
        ({"kafka": {"sasl": {"password": SECRET}, "sasl.password": "b"}}, r"sasl\.password is given twice"),
        ({"kafka": {"ssl": {"key": {"password": [SECRET]}}}}, r"ssl\.key\.password: .*, got list"),
        ({"kafka": {"sasl": SECRET}}, r"sasl is no setting, only the beginning"),
        (
            {"kafka": {"plugin": functools.partial(print, SECRET)}},
            r"plugin can't be a callable: .*oauth_cb and thr",
        ),
        ({"kafka": {"default.topic.config": {"sasl.password": SECRET}}}, r"sasl\.password can't stand in default"),
    ],
)
def test_what_configure_sets_is_checked(changes: dict[str, Any], text: str) -> None:
    """A wrong key or value is an error with pool, index, key and kind, never the value."""
    with pytest.raises(SettingsError, match=rf"^orders\[0\]: .*{text}") as caught:
        plan_of(settings(), configure=_setting(**changes))

    assert SECRET not in str(caught.value)


def test_nothing_secret_is_shown() -> None:
    """Secrets are hidden in the configuration that configure sees, in slots, plans and callbacks."""
    seen: list[str] = []

    def configure(config: ProducerConfig, index: int) -> None:
        config.kafka |= {
            "sasl.password": SECRET,
            "my.token": SECRET,
            "oauth_cb": functools.partial(print, SECRET),
            "ssl.key.pem": SecretStr(SECRET),
            "ssl": {"key": {"password": SECRET}, "keystore": {"password": SecretStr(SECRET)}},
        }
        seen.append(repr(config))

    plan = plan_of(settings(), configure=configure)

    assert "kafka:9092" in seen[0]
    assert not any(SECRET in text for text in (*seen, repr(plan), repr(plan.slots[0])))
    assert SecretStr(SECRET) == plan.slots[0].kafka["sasl.password"] == plan.slots[0].kafka["my.token"]
    assert SecretStr(SECRET) == plan.slots[0].kafka["ssl.key.password"] == plan.slots[0].kafka["ssl.keystore.password"]


def test_a_config_with_anything_in_it_can_be_shown() -> None:
    """The repr of a config that was assigned nonsense still works."""
    assert "<list>" in repr(ProducerConfig([SECRET], deliver=True))  # type: ignore[arg-type]


# -- clashes ---------------------------------------------------------------------------------------


def _ids_by(ids_of: dict[int, str]) -> Any:
    def configure(config: ProducerConfig, index: int) -> None:
        if index in ids_of:
            config.kafka["transactional_id"] = ids_of[index]

    return configure


@pytest.mark.parametrize(
    ("pool", "configure", "text"),
    [
        (transactional(), _ids_by({0: "a"}), r"set by PoolSettings\.transactional_id .* and again by configure"),
        (settings(), _ids_by({0: "a"}), r"1 of 2 producers have a transactional\.id and index 1 has none"),
        (settings(), _ids_by({0: "a", 1: "a"}), r"indices \[0, 1\] share transactional\.id 'a'"),
        (transactional(share=2), None, "share=2 with a transactional id"),
        (settings(kafka=KafkaSettings()), None, r"bootstrap\.servers is missing: .*deliver=False"),
    ],
)
def test_clashes(pool: PoolSettings, configure: Any, text: str) -> None:
    """Settings that contradict each other are found when the pool is planned, with its name and the way out."""
    with pytest.raises(SettingsError, match=rf"^orders.*{text}"):
        plan_of(pool, configure=configure)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("acks", 1),
        ("request.required.acks", 0),
        ("enable.idempotence", False),
        ("retries", 0),
        ("max.in.flight", 6),
        ("message.timeout.ms", 15_001),
        ("delivery.timeout.ms", 0),
        ("socket.timeout.ms", 15_001),
        ("linger.ms", 15_000),
    ],
)
def test_transactions_demand(key: str, value: object) -> None:
    """A key that transactions can't live with is refused with its value."""
    with pytest.raises(SettingsError, match=rf"^orders\[0\]: \S+={value}"):
        plan_of(transactional(kafka=kafka(**{key: value})))

    assert plan_of(settings(kafka=kafka(**{key: value})))


@pytest.mark.parametrize(("key", "value"), [("acks", 1), ("request.required.acks", 0), ("delivery.timeout.ms", 15_001)])
def test_topic_defaults_hold_too(key: str, value: object) -> None:
    """What stands in default.topic.config is checked like what stands beside it, since it goes over that."""
    with pytest.raises(SettingsError, match=rf"^orders\[0\]: \S+={value}"):
        plan_of(transactional(kafka=kafka(**{"default.topic.config": {key: value}})))

    assert plan_of(settings(kafka=kafka(**{"default.topic.config": {key: value}})))


@pytest.mark.parametrize(
    ("key", "value"),
    [("acks", "all"), ("acks", -1), ("retries", 1), ("message.timeout.ms", 15_000), ("socket.timeout.ms", 15_000)],
)
def test_what_transactions_allow(key: str, value: object) -> None:
    """The limits themselves are allowed."""
    assert plan_of(transactional(kafka=kafka(**{key: value}))).transactional


def test_linger_past_the_message_timeout() -> None:
    """A batch that waits longer than its messages live is refused on plain pools too."""
    with pytest.raises(SettingsError, match=r"linger\.ms=5 doesn't end before message\.timeout\.ms=5"):
        plan_of(settings(kafka=kafka(**{"linger.ms": 5, "message.timeout.ms": 5})))


@pytest.mark.parametrize("text", ["secret\0", "secret\udce9"], ids=["NUL", "surrogate"])
@pytest.mark.parametrize("key", ["client.id", "sasl.password", "transactional.id", "ssl.key.pem", "pool"])
def test_text_that_c_would_cut(key: str, text: str) -> None:
    """A setting with a NUL character, or without UTF-8, is refused by name and never shown, whoever sets it."""

    def configure(config: ProducerConfig) -> None:
        if key != "pool":
            config.kafka[key] = text

    name = text if key == "pool" else "orders"
    with pytest.raises(SettingsError) as caught:
        make_plan(settings(size=1, kafka=kafka()), name=name, configure=configure)

    assert re.search(r"(NUL|surrogate|unicode)", str(caught.value))
    assert ("client.id" if key == "pool" else key) in str(caught.value)
    assert (key == "pool") == ("made of the pool's name" in str(caught.value))
    assert key == "pool" or "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        {"commit_timeout_ms": 9_000},
        {"abort_timeout_ms": 2_000},
        {"resolve_timeout_ms": 9_000},
        {"implicit_transactions": False},
        {"fenced_retries": 2},
        {"ids_held_elsewhere": "refuse"},
        {"transactional_id_expiry_ms": 1_000},
        {"kafka": kafka(**{"transaction.timeout.ms": 9_000})},
    ],
)
def test_transactional_options_need_an_id(option: dict[str, Any]) -> None:
    """An option of transactions that was changed on a plain pool is refused by name."""
    name = "transaction.timeout.ms" if "kafka" in option else next(iter(option))

    with pytest.raises(SettingsError, match=rf"^orders: {name} without a transactional id"):
        plan_of(settings(**option))


def test_an_option_at_its_default_needs_nothing() -> None:
    """Defaults that were spelled out, as partial updates of nested settings do, are no wish for transactions."""
    spelled_out = PoolSettings(**PoolSettings(deliver=False).model_dump(exclude={"kafka"}))

    assert plan_of(spelled_out).transactional is False


@pytest.mark.parametrize("key", ["commit_timeout_ms", "abort_timeout_ms"])
def test_a_deadline_past_the_transactions_end(key: str) -> None:
    """A set deadline that outlasts the transaction is refused; one that equals it isn't."""
    with pytest.raises(SettingsError, match=rf"^orders: {key}=15001 exceeds transaction\.timeout\.ms=15000"):
        plan_of(transactional(**{key: 15_001}))

    assert plan_of(transactional(**{key: 15_000})).transactional


def test_default_deadlines_follow_a_short_transaction() -> None:
    """Default deadlines are lowered to a shorter transaction.timeout.ms, and planning the result again is fine."""
    plan = plan_of(transactional(kafka=kafka(**{"transaction.timeout.ms": 2_000})))

    assert (plan.settings.commit_timeout_ms, plan.settings.abort_timeout_ms) == (2_000, 2_000)
    assert plan == plan_of(plan.settings)


def test_settings_that_fit_are_the_plans() -> None:
    """Settings in which nothing has to be lowered are kept as they are."""
    pool = transactional()

    assert pool is plan_of(pool).settings


def test_one_transaction_timeout_for_all() -> None:
    """Configure can't give slots different transaction timeouts."""

    def configure(config: ProducerConfig, index: int) -> None:
        config.kafka["transaction.timeout.ms"] = 10_000 + index

    with pytest.raises(SettingsError, match=r"must be the same for every index, got \[10000, 10001\]"):
        plan_of(transactional(), configure=configure)


def test_without_delivery_no_broker_is_needed() -> None:
    """Pools in memory and on librdkafka's mock cluster need no bootstrap servers."""
    assert not plan_of(settings(deliver=False, kafka=KafkaSettings())).slots[0].remote
    assert not plan_of(settings(kafka=KafkaSettings(test_mock_num_brokers=1))).slots[0].remote


def reserve(plan: Plan, owner: object) -> None:
    """Keep the plan's ids for the owner."""
    reserve_ids(plan.ids, plan.name, owner)


# -- ids -------------------------------------------------------------------------------------------


@pytest.fixture
def first() -> Iterator[Owner]:
    """A pool that is called orders and holds two ids."""
    owner = Owner()
    reserve(plan_of(transactional()), owner)
    yield owner
    free_ids(owner)


@pytest.mark.parametrize("servers", ["kafka:9092", "KAFKA", "other:1, kafka:9092"])
def test_two_pools_cannot_have_one_id(first: Owner, servers: str) -> None:
    """A second pool with an id of the first on the same cluster is refused, naming both, and claims nothing."""
    other = plan_of(transactional(size=3, kafka=KafkaSettings(bootstrap_servers=servers)), name="clicks")
    before = _ids._registry.owners

    with pytest.raises(SettingsError, match=r"^clicks: transactional\.id 'shop-7-0' on kafka:9092 is .* pool 'orders'"):
        reserve(other, Owner())

    assert before == _ids._registry.owners


def test_the_same_id_elsewhere(first: Owner) -> None:
    """Another cluster, another id, a plain pool and a pool in memory don't clash."""
    for pool in (
        transactional(kafka=KafkaSettings(bootstrap_servers="elsewhere:9092")),
        transactional(instance="8"),
        transactional(deliver=False),
        transactional(kafka=KafkaSettings(test_mock_num_brokers=1, bootstrap_servers="kafka:9092")),
        settings(),
    ):
        owner = Owner()
        reserve(plan_of(pool), owner)
        free_ids(owner)

    with pytest.raises(SettingsError):
        reserve(plan_of(transactional()), Owner())


def test_one_cluster_by_two_addresses(first: Owner) -> None:
    """Once the cluster's id is known, another pool gets all of its ids there or none, by whatever address."""
    second, third = Owner(), Owner()
    reserve(plan_of(transactional(size=3, kafka=kafka(**{"bootstrap.servers": "broker2"}))), second)
    reserve(plan_of(transactional(size=3, kafka=kafka(**{"bootstrap.servers": "broker3"}))), third)
    ids = [f"shop-7-{index}" for index in range(3)]

    assert reserve_on_cluster("c", "kafka:9092", ids[:2]) is None
    assert reserve_on_cluster("c", "kafka:9092", ids[:2]) is None
    assert re.match(
        "transactional.id 'shop-7-[01]' on cluster c is in use by pool 'orders' of this process: ",
        str(reserve_on_cluster("c", "broker2:9092", ids)),
    )
    assert reserve_on_cluster("c", "broker3:9092", ids[2:]) is None
    assert reserve_on_cluster("d", "broker2:9092", ids) is None
    free_ids(first)
    free_ids(third)
    assert reserve_on_cluster("c", "broker2:9092", ids) is None


def test_a_cluster_of_a_pool_that_is_gone() -> None:
    """What it has left claims nothing."""
    owner = Owner()
    reserve(plan_of(transactional()), owner)
    del owner

    assert reserve_on_cluster("c", "kafka:9092", ["shop-7-0"]) is None
    assert not any(where == "cluster c" for where, _ in _ids._registry.owners)


def test_the_ids_on_one_cluster() -> None:
    """Those of all slots with the same brokers, but for what never leaves the process."""

    def configure(config: ProducerConfig, index: int) -> None:
        config.deliver = index != 1
        if index == 3:
            config.kafka["bootstrap.servers"] = "elsewhere"

    plan = plan_of(transactional(size=5), configure=configure)

    assert ["shop-7-0", "shop-7-2", "shop-7-4"] == plan.names_beside(plan.slots[0])
    assert ["shop-7-3"] == plan.names_beside(plan.slots[3])


def test_a_reload_claims_again(first: Owner) -> None:
    """The same owner may claim its ids again and more."""
    reserve(plan_of(transactional(size=4)), first)

    with pytest.raises(SettingsError, match="shop-7-3"):
        reserve(plan_of(transactional(size=1, transactional_id="shop-{instance}-3")), Owner())


def test_release_frees(first: Owner) -> None:
    """Released ids can be claimed by another pool, and releasing again does no harm."""
    free_ids(first)
    free_ids(first)
    second = Owner()

    reserve(plan_of(transactional()), second)

    with pytest.raises(SettingsError):
        reserve(plan_of(transactional()), first)


def test_a_forgotten_pool_claims_nothing() -> None:
    """A pool that was dropped without closing is neither kept alive nor in the way."""
    owner = Owner()
    gone = weakref.ref(owner)
    reserve(plan_of(transactional()), owner)
    del owner
    gc.collect()

    assert gone() is None
    reserve(plan_of(transactional()), Owner())


def test_garbage_keeps_no_id() -> None:
    """A pool that only a reference cycle keeps, as the former one of a notebook's cell, has its ids no more."""
    plan, former = plan_of(transactional()), Owner()
    vars(former)["itself"] = former
    reserve(plan, former)
    del former
    reserve(plan, Owner())


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"linger.ms\0": "7"}, r"'linger\.ms.x00' has a NUL"),
        ({"transactional.id\0": "abc"}, "has a NUL"),
        ({"default.topic.config": {"partitioner": "murmur2\0x"}}, r"partitioner|default\.topic\.config"),
        ({"plugin.library.paths": Path("a\udce9")}, r"plugin\.library\.paths isn't valid Unicode"),
    ],
)
def test_text_that_c_would_cut_in_names_and_within(given: dict[str, Any], named: str) -> None:
    """Names, nested settings and paths are looked at, too."""
    with pytest.raises(SettingsError, match=named):
        make_plan(settings(size=1, kafka=kafka()), name="orders", configure=lambda config: config.kafka.update(given))
