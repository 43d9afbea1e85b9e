"""Addresses of brokers that are away."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a broker that takes connections and says nothing, as a frozen one."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def nowhere() -> str:
    """An address at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture(params=["silent", "nowhere"])
def dead(request: pytest.FixtureRequest) -> str:
    """The address of a broker that can't be reached."""
    return str(request.getfixturevalue(request.param))
