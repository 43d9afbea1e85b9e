"""The contract is worth something: a fake that lies is caught."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.backends import Fake
from tests.contract.lies import LIES, Lie
from tests.contract.limits import LIMITS, behaviours
from wd_di import WdDiError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.limits import Behaviour


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_lie_is_caught(lie: Lie, monkeypatch: pytest.MonkeyPatch):
    """Under each lie some behaviour of the fake doesn't hold, though the fake still works."""
    lie.tell(monkeypatch)

    assert holds(behaviours()["test_an_empty_transaction_commits"])
    assert next(broken(), None) is not None


def test_the_truth_passes():
    """Without a lie every behaviour holds, so it is the lies that are caught."""
    assert [] == list(broken())


def broken() -> Iterator[str]:
    """Give the names of the behaviours that the fake doesn't show just now; one that crashes isn't among them."""
    for name, behaviour in behaviours().items():
        if "fake" not in LIMITS.get(name, {}) and not holds(behaviour):
            yield name


def holds(behaviour: Behaviour) -> bool:
    """Whether the behaviour holds, or fails in another way than by its assertions and by the pool's own errors."""
    try:
        with Fake() as backend:
            behaviour(backend)
    except (AssertionError, pytest.fail.Exception, WdDiError):
        return False
    except Exception:  # noqa: BLE001  (a fake that is merely broken catches nobody)
        return True
    return True
