"""The table of limits says neither too much nor too little, and the documentation shows it."""

from __future__ import annotations

import inspect
from pathlib import Path

from tests.contract.limits import BACKENDS, LIMITS, behaviours, page

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


def test_documentation():
    """The page is what the table says: python -m tests.contract.limits > docs/reference/contract.md."""
    assert page() == PAGE.read_text()
