"""What a transactional producer is told where nobody says otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from wd_di import KafkaSettings, PoolSettings
from wd_di import Settings as WdDiSettings
from wd_di._slots.plan import ProducerConfig, make_plan

KEY = "socket.timeout.ms"


def told(*, kafka: dict[str, object] | None = None, configure: Any = None, **options: Any) -> object:
    """Return the socket.timeout.ms that a producer of such a pool gets, if it gets any from us."""
    given = {"transactional_id": "shop-{instance}-{index}", "instance": "7", "size": 1, **options}
    own = KafkaSettings.of({"bootstrap.servers": "kafka:9092", **(kafka or {})})
    [slot] = make_plan(PoolSettings(kafka=own, **given), name="orders", configure=configure).slots
    return slot.kafka.get(KEY)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, 5_000, id="by default"),
        pytest.param({"commit_timeout_ms": 14_000}, 7_000, id="a patient commit"),
        pytest.param({"commit_timeout_ms": 1_000}, 3_000, id="an impatient commit"),
        pytest.param({"kafka": {"transaction.timeout.ms": 8_000}}, 4_000, id="a short transaction"),
        pytest.param({"kafka": {"transaction.timeout.ms": 3_100}}, 3_000, id="the shortest one"),
        pytest.param({"kafka": {"transaction.timeout.ms": 3_099}}, None, id="one that is shorter"),
        pytest.param({"kafka": {"message.max.bytes": 1_000_000}}, 5_000, id="usual batches"),
        pytest.param({"kafka": {"message.max.bytes": 1_000_001}}, None, id="large batches"),
    ],
)
def test_a_lost_reply_is_asked_for_again_in_time(options: dict[str, Any], expected: int | None) -> None:
    """Half of a commit's deadline, but no less than 3 s; else it is librdkafka's own value that holds."""
    assert expected == told(**options)


@pytest.mark.parametrize("key", [KEY, "socket_timeout_ms"])
def test_a_value_of_ones_own_is_kept(key: str) -> None:
    """Whoever chooses a value has it, in either form of its name and whatever the deadlines are."""
    assert 900 == told(kafka={key: 900})
    assert 14_900 == told(kafka={key: 14_900, "message.max.bytes": 10_000_000})


def test_configure_goes_before() -> None:
    """What configure sets is kept, and what it makes of the other settings counts."""

    def own(config: ProducerConfig) -> None:
        config.kafka[KEY] = 900

    def larger(config: ProducerConfig) -> None:
        config.kafka["message.max.bytes"] = 10_000_000

    assert (900, None) == (told(configure=own), told(configure=larger))


def test_a_variable_goes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a variable of the environment says is kept."""
    monkeypatch.setenv("SHOP__KAFKA__SOCKET_TIMEOUT_MS", "900")
    monkeypatch.setenv("SHOP__KAFKA__BOOTSTRAP_SERVERS", "kafka:9092")

    class Settings(WdDiSettings):
        shop: PoolSettings

    given = Settings().shop.model_copy(update={"transactional_id": "shop-{instance}-{index}", "instance": "7"})

    assert {900} == {slot.kafka[KEY] for slot in make_plan(given, name="shop").slots}


def test_plain_pools_keep_librdkafkas() -> None:
    """A plain producer's requests are never in doubt: librdkafka's own time-out holds."""
    assert told(transactional_id=None, instance=None) is None
