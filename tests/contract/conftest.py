"""Runs each behaviour on each backend; where `limits` says that one can't show it, it must fail there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.backends import Backend, Fake, Mock, Real
from tests.contract.limits import BACKENDS, LIMITS
from wd_di.testing import MockKafka

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each behaviour on each backend."""
    if "backend" in metafunc.fixturenames:
        name = metafunc.function.__name__
        metafunc.parametrize("backend", [_param(name, backend) for backend in BACKENDS], indirect=True)


def _param(behaviour: str, backend: str) -> object:
    marks = [pytest.mark.kafka] if backend == "real" else []
    reason = LIMITS.get(behaviour, {}).get(backend)
    if reason is not None:
        # Strict, so that an entry is struck out when its backend has learned to show the behaviour.
        lacking = (AssertionError, pytest.fail.Exception)
        marks.append(pytest.mark.xfail(reason=reason, strict=True, raises=lacking))
    return pytest.param(backend, marks=marks)


@pytest.fixture(scope="session")
def shared_mock() -> Iterator[MockKafka]:
    """One mock cluster for all behaviours, which have topics of their own."""
    with MockKafka() as kafka:
        yield kafka


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Where this run of the behaviour takes place."""
    makers = {
        "fake": Fake,
        "mock": lambda: Mock(request.getfixturevalue("shared_mock")),
        "real": lambda: Real(request.getfixturevalue("local_kafka")),
    }
    with makers[request.param]() as backend:
        yield backend


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Refuse skips inside of a behaviour: what a backend can't show is said in `limits`, and shown."""
    report = yield
    if report.when == "call" and report.skipped and not hasattr(report, "wasxfail") and "backend" in item.fixturenames:
        report.outcome = "failed"
        report.longrepr = f"{item.name} was skipped: name the backend that can't show it in tests/contract/limits.py"
    return report
