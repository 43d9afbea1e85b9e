"""What a transactional producer is told where nobody says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wd_di.settings import PoolSettings

# librdkafka's 60,000 would block read_committed readers for a minute after a crash.
TRANSACTION_TIMEOUT_MS = 15_000

# Below it, a round trip of 500 ms or a broker that is busy for two seconds would already cost the connection.
_LEAST_SOCKET_TIMEOUT_MS = 3_000

# librdkafka's message.max.bytes. A larger batch may be under way for so long that we'd better not cut it off.
_USUAL_BATCH = 1_000_000

_MARGIN_MS = 100  # librdkafka's own default keeps this distance


def of_transactions(kafka: Mapping[str, object], settings: PoolSettings) -> dict[str, object]:
    """Return what comes before the user's own keys.

    A reply that is lost is asked for again after ``socket.timeout.ms``. librdkafka makes that the whole of
    ``transaction.timeout.ms``: later than the commit waits, so that one lost reply of EndTxn left it in doubt.
    """
    defaults: dict[str, object] = {"transaction.timeout.ms": TRANSACTION_TIMEOUT_MS}
    life_ms = _number(kafka, "transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)
    half_ms = max(min(settings.commit_timeout_ms, life_ms) // 2, _LEAST_SOCKET_TIMEOUT_MS)
    usual = _number(kafka, "message.max.bytes", _USUAL_BATCH) <= _USUAL_BATCH
    if usual and half_ms <= life_ms - _MARGIN_MS:
        defaults["socket.timeout.ms"] = half_ms
    return defaults


def _number(kafka: Mapping[str, object], key: str, default: int) -> int:
    return int(cast("int", kafka.get(key, default)))
