"""What type checkers know of settings; each ignore stands for an error that they must find."""

# ruff: noqa: D101, D103  (nothing here is run)
from __future__ import annotations

from typing import Any, assert_type

from pydantic import SecretStr

from wd_di import Configure, KafkaSettings, PoolSettings, ProducerConfig, ProducerPool, Retry, Settings


class App(Settings):
    orders: PoolSettings
    clicks: PoolSettings = PoolSettings(size=2)


pool = PoolSettings(
    size=3,
    transactional_id="a-{index}",
    kafka=KafkaSettings(
        bootstrap_servers="x:1",
        linger_ms=5,
        acks="all",
        sasl_password=SecretStr("s"),
        security_protocol="sasl_ssl",
        enable_idempotence=True,
    ),
)
other = PoolSettings(kafka=KafkaSettings.of({"bootstrap.servers": "x:1", "linger.ms": 5, "oauth_cb": print}))
app = App(orders=pool)

assert_type(app.orders.kafka, KafkaSettings)
assert_type(pool.kafka.linger_ms, float | None)
assert_type(pool.kafka.librdkafka(), dict[str, object])

PoolSettings(siz=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
PoolSettings(size="three")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
PoolSettings(order="random")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
KafkaSettings(acks="some")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# -- configure -----------------------------------------------------------------------------------


def both(config: ProducerConfig, index: int) -> None:
    assert_type(config.kafka, dict[str, Any])
    config.kafka["client.id"] = f"shop-{index}"
    config.kafka = {"bootstrap.servers": "x:1"}
    config.deliver = False


def one(config: ProducerConfig) -> ProducerConfig:
    return config


def none() -> None: ...


def kept(configure: Configure) -> ProducerPool:
    return ProducerPool(pool, configure=configure)


ProducerPool(pool, configure=both)
ProducerPool({"size": 3, "kafka": {"linger.ms": 5}})
ProducerPool(app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ProducerPool(PoolSettings)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ProducerPool()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
ProducerPool(pool, configure=one)
ProducerPool(pool, configure=lambda config: config.kafka.clear())
ProducerPool(pool, configure=lambda config, index: config.kafka.update({"client.id": str(index)}))
ProducerPool(pool, configure=none)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
kept(both)
kept(one)

# -- retry ---------------------------------------------------------------------------------------

assert_type(Retry(attempts=3, backoff_ms=5, max_backoff_ms=9, on=(KeyError, OSError)).on, tuple[type[Exception], ...])
Retry(attempts="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Retry(times=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Retry(on=KeyError)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
