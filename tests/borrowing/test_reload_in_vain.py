"""What a reload says that goes by what can't be made."""

from __future__ import annotations

import time

import pytest

from tests import internals
from tests.pools import until
from tests.scripted import FaultKind, Script, committed, fault, make_pool, watch
from wd_di._slots.slots import State
from wd_di.errors import AuthorizationError, PoolOpenError, PoolTimeoutError, PoolUnhealthyError
from wd_di.events import ConnectionPoolReloaded

LONG_MS = 60_000


@pytest.fixture(name="script")
def _script(monkeypatch: pytest.MonkeyPatch) -> Script:
    return Script.install(monkeypatch)


@pytest.mark.timeout(LONG_MS / 2000)
def test_a_right_that_is_missing_is_told_at_once(script: Script) -> None:
    """As by open, with the missing right among the causes; the pool goes on, and another reload mends it."""
    with make_pool(size=2) as pool:
        reloaded = watch(pool, ConnectionPoolReloaded)
        script.always("init", fault(FaultKind.DENIED))
        with pytest.raises(
            PoolOpenError, match=r"^orders: producers \[0, 1\] can't be replaced: producer 0: "
        ) as caught:
            pool.reload(timeout_ms=LONG_MS)
        assert [] == reloaded
        causes: list[BaseException | None] = [caught.value]
        while causes[-1] is not None:
            causes.append(causes[-1].__cause__)
        assert AuthorizationError in map(type, causes)

        with pool.transaction() as tx:  # by the one that wasn't replaced
            tx.produce_async("orders", "tea")
        script.always("init", lambda: None)
        pool.reload(timeout_ms=LONG_MS)
        assert ["tea"] == committed(pool)
        assert 1 == len(reloaded)
        assert (2, 0) == (pool.stats().idle, pool.stats().creating)


@pytest.mark.timeout(LONG_MS / 2000)
def test_ids_that_somebody_else_takes_are_told_at_once(script: Script) -> None:
    """No producer of a pool is made any more that was fenced too often."""
    with make_pool(size=2, fenced_retries=0) as pool:

        def outlast() -> None:
            """Be made when the first one is gone, if there was time to begin."""
            until(lambda: internals.table(pool).in_state(State.EMPTY))

        script.on("init", lambda: script.clients[-1].break_down(FaultKind.FENCED), outlast)
        with pytest.raises(PoolUnhealthyError, match="fenced 1 times"):
            pool.reload(timeout_ms=LONG_MS)


def test_a_late_reload_has_its_cause(script: Script) -> None:
    """What waiting may cure is waited for; then its error says what was in the way."""
    with make_pool() as pool:
        script.always("init", fault(FaultKind.OTHER))
        began = time.monotonic()
        with pytest.raises(PoolTimeoutError, match="last error: producer 0: scripted other") as caught:
            pool.reload(timeout_ms=300)
        assert time.monotonic() >= began + 0.3
        assert isinstance(caught.value.__cause__, PoolOpenError)
