"""What a type checker says of settings; each ignore stands for an error that it must find."""

from __future__ import annotations

from typing import assert_type

from pydantic import SecretStr

from wd_di.settings import KafkaSettings, PoolSettings, Settings


class App(Settings):
    """An application's."""

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

PoolSettings(siz=3)  # type: ignore[call-arg]
PoolSettings(size="three")  # type: ignore[arg-type]
PoolSettings(order="random")  # type: ignore[arg-type]
KafkaSettings(acks="some")  # type: ignore[arg-type]
