"""The table of limits says neither too much nor too little, and the documentation shows it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tests.contract.limits import BACKENDS, LIMITS, behaviours, page

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "contract.md"


def test_every_behaviour_runs_everywhere():
    """No behaviour asks for anything but a backend, or carries a mark: so each runs on all, unless a limit is named."""
    behaviours_ = behaviours()

    assert 60 < len(behaviours_)
    assert {("backend",)} == {tuple(inspect.signature(each).parameters) for each in behaviours_.values()}
    assert [] == [name for name, each in behaviours_.items() if hasattr(each, "pytestmark")]


def test_every_behaviour_is_a_sentence():
    """Each behaviour says in one line what it is: the documentation quotes it."""
    unsaid = [name for name, each in behaviours().items() if not (each.__doc__ or "").endswith(".")]
    longer = [name for name, each in behaviours().items() if "\n" in (each.__doc__ or "")]

    assert ([], []) == (unsaid, longer)


def test_no_stale_limit():
    """Each limit is of a behaviour that there is, and has a reason; the real broker has none."""
    assert [] == [name for name in LIMITS if name not in behaviours()]
    assert {"fake", "mock"} == {backend for limits in LIMITS.values() for backend in limits}
    assert all(reason for limits in LIMITS.values() for reason in limits.values())
    assert "real" in BACKENDS


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A suite of its own under the rules of the contract."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\nmarkers = kafka")
    pytester.makeconftest("from tests.contract.conftest import *")
    return pytester


def test_a_skip_is_a_failure(suite):
    """Nobody gets out of showing a behaviour by a skip inside of it."""
    suite.makepyfile("import pytest\ndef test_hard(backend): pytest.skip('too hard')")

    result = suite.runpytest("-k", "fake")

    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(["*name the backend that can't show it in tests/contract/limits.py*"])


def test_an_outgrown_limit_is_a_failure(suite):
    """A behaviour that its backend has learned to show must be struck out of the table."""
    suite.makepyfile("def test_too_late(backend): assert True")

    result = suite.runpytest("-k", "mock")

    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(["*XPASS(strict)*"])


def test_another_failure_is_no_limit(suite):
    """A limited behaviour that breaks down, instead of not showing, is a failure."""
    suite.makepyfile("def test_too_late(backend): raise KeyError")

    suite.runpytest("-k", "mock").assert_outcomes(failed=1, deselected=2)


def test_documentation():
    """The page is what the table says: python -m tests.contract.limits > docs/reference/contract.md."""
    assert page() == PAGE.read_text()
