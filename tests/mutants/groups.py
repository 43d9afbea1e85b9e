"""Which files have mutants, which tests are to notice them, and which mutants none can."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.mutants.mutations import Mutant

ENOUGH = 0.9
"""The share of a group's mutants that is to be killed."""

EXPLAINED = Path(__file__).with_name("explained.toml")


@dataclass(frozen=True)
class Group:
    """Files that belong together.

    Attributes:
        what: What they are.
        files: The files, with their mutants.
        tests: Files and folders of tests that need no broker, and no more time than they are worth.
    """

    what: str
    files: tuple[str, ...]
    tests: tuple[str, ...]


GROUPS = {
    "table": Group(
        "the slot table",
        tuple(f"wd_di/_slots/{name}.py" for name in ("decisions", "slots", "table")),
        (
            "tests/slots/test_table.py",
            "tests/slots/test_table_mending.py",
            "tests/slots/test_table_machine.py",
            "tests/borrowing/test_scope.py",
        ),
    ),
    "transactions": Group(
        "the transaction's state machine",
        tuple(
            f"wd_di/_transactions/{name}.py"
            for name in ("transaction", "ending", "writing", "resolution", "failures", "hooks", "options")
        ),
        (
            "tests/transactions",
            "tests/borrowing/test_transaction.py",
            "tests/borrowing/test_async_transaction.py",
            "tests/borrowing/test_doubt.py",
            "tests/borrowing/test_late_offsets.py",
            "tests/borrowing/test_held_expiry.py",
            "tests/borrowing/test_interrupts.py",
            "tests/borrowing/test_async_cancel.py",
            "tests/borrowing/test_scope.py",
            "tests/borrowing/test_lost.py",
            "tests/clients/test_missing_topics.py",
            "tests/test_events.py",
            "tests/contract/behaviours",
        ),
    ),
}

Key = tuple[str, str, str]


def key(mutant: Mutant) -> Key:
    """Return how the list of the explained names a mutant: without its line, which other changes move."""
    return str(mutant.source.path), mutant.inside.where, mutant.what


def explained() -> dict[Key, str]:
    """Return why no test can notice which mutant."""
    return {
        (entry["file"], where, what): entry["why"]
        for entry in tomllib.loads(EXPLAINED.read_text("utf-8"))["survivors"]
        for where, survivors in entry["mutants"].items()
        for what in survivors
    }
