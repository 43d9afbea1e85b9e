"""Clusters of a test's own: where Kafka can't be had, whoever needs one is skipped and says why, or fails in CI."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wd_di.errors import MissingExtraError
from wd_di.testing import KafkaUnavailableError, LocalKafka
from wd_di_pytest import _unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def started(**options: Any) -> Iterator[LocalKafka]:
    """Run a `LocalKafka` with these options."""
    try:
        kafka = LocalKafka(**options).start()
    except (MissingExtraError, KafkaUnavailableError) as error:
        _unavailable(str(error))
    with kafka:
        yield kafka
