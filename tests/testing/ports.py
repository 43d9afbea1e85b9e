"""Ports, and what other processes do with them."""

from __future__ import annotations

import random
import socket
import time
from typing import TYPE_CHECKING

from wd_di.testing._kraft import HOST, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S = 20


def refuses(port: int) -> bool:
    """Whether nobody listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def free_port(count: int = 1) -> int:
    """The first of so many ports in a row that nobody uses, below those that the system gives to connections."""
    while True:
        first = random.randrange(12_000, 20_000 - count)  # noqa: S311  (no secret)
        if not any(refusal(port) for port in range(first, first + count)):
            return first


def within_deadline(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true in time; for what another process does and nobody announces."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
