"""The pool that most tests of transactions are about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scripted import Script, make_pool
from wd_di.pool import ProducerPool


@pytest.fixture
def pool(script: Script) -> Iterator[ProducerPool]:
    """An open pool of one scripted producer."""
    with make_pool(commit_timeout_ms=300, abort_timeout_ms=300) as pool:
        yield pool
