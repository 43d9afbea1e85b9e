"""Which Kafka the small examples run on: yours, or a mock in this process."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wd_di.testing import MockKafka

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def bootstrap_servers(variable: str = "KAFKA_BOOTSTRAP_SERVERS") -> Iterator[str]:
    """Give the address in the environment's variable; without one, that of a new mock cluster.

    The mock answers as Kafka does, but hides aborted records from nobody.
    """
    given = os.environ.get(variable)
    if given:
        yield given
        return
    with MockKafka() as kafka:
        yield kafka.bootstrap_servers
