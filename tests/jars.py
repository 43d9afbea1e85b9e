"""Writes the list of the jars that a broker of `LocalKafka` consists of, with the sums that it checks.

``python -m tests.jars`` asks Maven's repository which jars `KAFKA_VERSION` needs, downloads each into an empty folder
and compares it with what the repository says of it. Read what the list gains or loses before you commit it.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from jgo.maven import MavenContext
from jgo.parse import Coordinate

from wd_di.testing._jars import KAFKA_VERSION, fetched, sum_of

LIST = Path(__file__).parents[1] / "wd_di" / "testing" / "jars.sha256"
HTTP_TIMEOUT_S = 30


class Strict(logging.Handler):
    """Makes an error of what jgo only warns of: a file that isn't what the repository's own checksum says."""

    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit(record.getMessage())


def coordinates(repository: Path) -> list[str]:
    """Return what Maven calls the jars of a broker, sorted."""
    context = MavenContext(repo_cache=repository, timeout=HTTP_TIMEOUT_S)
    kafka = context.create_dependency(Coordinate("org.apache.kafka", "kafka_2.13", KAFKA_VERSION, scope="compile"))
    found = [dependency.artifact for each in context.resolver.resolve([kafka]) for dependency in each]
    # Kafka's own POM leaves out the binding from SLF4J to log4j, without which a broker logs nothing.
    log4j = next(artifact.version for artifact in found if artifact.artifactId == "log4j-core")
    binding = context.project("org.apache.logging.log4j", "log4j-slf4j-impl").at_version(log4j).artifact()
    return sorted(f"{each.groupId}:{each.artifactId}:{each.version}" for each in (*found, binding))


def main() -> None:
    """Write the list."""
    logging.getLogger("jgo").addHandler(Strict(logging.WARNING))
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        lines = [f"{sum_of(fetched(each, repository))}  {each}\n" for each in coordinates(repository)]
    LIST.write_text("".join(lines))
    print(f"{LIST}: {len(lines)} jars of Apache Kafka {KAFKA_VERSION}")  # noqa: T201


if __name__ == "__main__":
    main()
