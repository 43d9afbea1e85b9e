"""A new version of a service starts with the ids of the old one, which goes on for a while: it settles, and soon."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.kafka.readers import by_key, read
from tests.pools import unique, until
from tests.programs import PATIENCE_S, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FENCED_RETRIES = 3
"""By default."""
SOME = 30
SETTLED = 100
"""Transactions in a row of which none meets anybody."""
ENOUGH_MS = 60_000

pytestmark = pytest.mark.timeout(180)


class Version:
    """One of them, as a process."""

    def __init__(self, folder: Path, servers: str, topic: str, version: str, *settings: str) -> None:
        self._log = folder / version
        command = [sys.executable, "-m", "tests.kafka.deployed", servers, topic, version, *settings]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.DEVNULL)

    def said(self, *words: str) -> list[list[str]]:
        """Return what it has said of these so far, or all."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if not words or line[0] in words]

    def until_more(self, count: int, word: str) -> None:
        """Return when it has said that so many times more."""
        wanted = len(self.said(word)) + count
        until(lambda: len(self.said(word)) >= wanted, timeout_ms=ENOUGH_MS)

    def until_settled(self) -> None:
        """Return when it has met nobody for a while."""
        until(lambda: {"committed"} == {line[0] for line in self.said()[-SETTLED:]}, timeout_ms=ENOUGH_MS)

    def stop(self) -> None:
        """Ask it to end, which it does in good order."""
        self.process.send_signal(signal.SIGTERM)
        assert 0 == self.process.wait(PATIENCE_S)
        assert ["closed", "", "True", ""] == self.said()[-1]


@pytest.fixture
def versions(tmp_path: Path, servers: str, topic: str, size: int) -> Iterator[list[Version]]:
    """The old version and the new one, which starts when the old one is at work."""
    settings = unique("i"), str(size)
    old = Version(tmp_path, servers, topic, "old", *settings)
    started = [old]
    try:
        old.until_more(SOME, "committed")
        started.append(Version(tmp_path, servers, topic, "new", *settings))
        yield started
    finally:
        for version in started:
            version.process.kill()
            version.process.wait(PATIENCE_S)


def check(servers: str, topic: str, versions: list[Version], size: int) -> None:
    """Assert that all that was said is true, and that nobody was fenced for long."""
    old, new = versions
    lines = [line for version in versions for line in version.said()]
    found = by_key(read(servers, topic))
    seen = Counter((value or b"").decode() for value in found[b"a"])
    committed = {name for word, name, *_ in lines if word == "committed"}
    unknown = {name for _, name, _, outcome in lines if outcome == "unknown"}

    assert dict.fromkeys(committed, 1) == {name: times for name, times in seen.items() if name not in unknown}
    assert {1} == set(seen.values())
    assert Counter(found[b"a"]) == Counter(found[b"b"])
    assert 1 <= len(old.said("FencedError")) <= FENCED_RETRIES + size
    assert len(new.said("FencedError")) <= FENCED_RETRIES
    assert [] == new.said("PoolUnhealthyError")


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_short_grace(servers: str, topic: str, versions: list[Version], size: int) -> None:
    """The old version is asked to end when the new one is open: nothing is lost, and the new one is soon alone."""
    old, new = versions
    new.until_more(1, "open")
    until(lambda: old.said("FencedError"))
    old.stop()
    new.until_settled()
    new.stop()

    check(servers, topic, versions, size)
    assert f"process {old.process.pid} of this host" in new.said("contested")[0][2]
    assert any(f"process {new.process.pid} of this host" in text for _, _, text, _ in old.said("FencedError"))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_long_grace(servers: str, topic: str, versions: list[Version], size: int) -> None:
    """An old version that isn't asked to end gives up its ids after a few attempts, and the new one has them."""
    old, new = versions
    new.until_more(1, "open")
    until(lambda: old.said("PoolUnhealthyError"), timeout_ms=ENOUGH_MS)
    new.until_settled()
    old.stop()
    new.until_settled()
    new.stop()

    check(servers, topic, versions, size)
