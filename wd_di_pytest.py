"""What pytest gets from wd_di: ``fake_pool``, ``local_kafka`` and ``mock_kafka``, and broker logs in failure reports.

Loaded in every test run of every project that has wd_di installed. So it lies beside the package, whose import it would
cost, and imports nothing but pytest until a fixture is used.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import NoReturn

    from wd_di.testing._cluster import Cluster
    from wd_di.testing._fake import FakePool
    from wd_di.testing._mock import MockKafka

_MARKER = "kafka: needs a real Kafka; given to every test that uses local_kafka"
_TAIL_LINES = 40


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker ``kafka``."""
    config.addinivalue_line("markers", _MARKER)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a real Kafka, before ``-m`` makes its choice."""
    for item in items:
        if "local_kafka" in getattr(item, "fixturenames", ()):
            item.add_marker("kafka")


@pytest.fixture
def fake_pool() -> Iterator[Callable[..., FakePool]]:
    """Replace the pool of a container by a fake.

    Say ``orders = fake_pool(container, "orders")``; it takes the options of `FakePool` too. The real pool is put back
    at the end, and singletons that held the fake are reset.
    """
    from contextlib import ExitStack  # noqa: PLC0415  (loaded on use)

    from wd_di.testing._fake import faked  # noqa: PLC0415

    with ExitStack() as replaced:
        yield lambda container, pool, **options: replaced.enter_context(faked(container, pool, **options))


@pytest.fixture(scope="session")
def local_kafka() -> Iterator[Cluster]:
    """A real Kafka with one broker, the same for the whole run (under pytest-xdist: for each worker).

    It is a `LocalKafka`, or the cluster of your own that ``KAFKA_BOOTSTRAP_SERVERS`` names. Where neither is to be
    had the test is skipped, and fails if the environment says ``CI``. Use topic names of your own for each test.
    """
    from wd_di.errors import MissingExtraError  # noqa: PLC0415  (loaded on use)
    from wd_di.testing._errors import KafkaUnavailableError  # noqa: PLC0415

    try:
        cluster = _cluster()
    except (MissingExtraError, KafkaUnavailableError) as error:
        _unavailable(str(error))
    with cluster:
        yield cluster


@pytest.fixture
def mock_kafka() -> Iterator[MockKafka]:
    """A `MockKafka` with one broker, new for each test: it takes 3 ms, and injected faults end with their test."""
    from wd_di.testing._mock import MockKafka  # noqa: PLC0415  (loaded on use)

    with MockKafka() as kafka:
        yield kafka


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the brokers' logs in the report of a failing test."""
    report = yield
    local = sys.modules.get("wd_di.testing._local")
    if report.failed and local is not None:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, local.LocalKafka):
                report.sections.append((f"broker log of {name}", value.log_tail(_TAIL_LINES)))
    return report


def _cluster() -> Cluster:
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        from wd_di.testing._cluster import GivenKafka  # noqa: PLC0415  (loaded on use)
        from wd_di.testing._errors import KafkaUnavailableError  # noqa: PLC0415

        try:
            return GivenKafka(servers)
        except KafkaUnavailableError as error:
            raise KafkaUnavailableError(
                f"{error} Or unset KAFKA_BOOTSTRAP_SERVERS for a broker that the tests start themselves."
            ) from error
    from wd_di.testing._local import LocalKafka  # noqa: PLC0415  (loaded on use)

    return LocalKafka().start()


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("CI", "").lower() in {"", "0", "false"}:
        pytest.skip(reason)
    pytest.fail(f"{reason} (a failure, not a skip, because CI is set)", pytrace=False)
