"""What type checkers know of the names that are loaded lazily; each ignore stands for an error that they must find."""

# ruff: noqa: B018  (nothing here is run)
from __future__ import annotations

from typing import assert_type

import wd_di
import wd_di.testing
from wd_di import ProducerPool

assert_type(wd_di.observer, wd_di.Observer)
assert_type(wd_di.ProducerPool(wd_di.PoolSettings()), ProducerPool)
assert_type(wd_di.testing.FakePool("orders"), wd_di.testing.FakePool)

wd_di.ProducrPool  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
wd_di.testing.FakePol  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
