"""Which behaviours which backend can't show, and why: the only way in which a behaviour differs between them.

``python -m tests.contract.limits`` prints the page ``docs/reference/contract.md``, which is made of this.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.backends import Backend

    Behaviour = Callable[[Backend], None]

BACKENDS = ("fake", "mock", "real")

_ANY_PARTITION = "a topic has whichever partition a record names: use `fail_delivery`"
_FENCES_NOBODY = "two owners of one id go on side by side"
_HIDES_NOTHING = "`read_committed` readers see open and aborted transactions too"
_NO_TIME_OUT = "no transaction is ever too old"
_NO_GROUP_OFFSETS = "offsets of a transaction are accepted and forgotten, whoever sends them"
_OWN_TIMESTAMP = "every record is acknowledged with the timestamp 1234"

LIMITS: dict[str, dict[str, str]] = {
    "test_a_fenced_producer_is_replaced": {"mock": _FENCES_NOBODY},
    "test_aborted_records_stay_hidden": {"mock": _HIDES_NOTHING},
    "test_an_unknown_partition": {"fake": _ANY_PARTITION},
    "test_fenced_before_a_record": {"mock": _FENCES_NOBODY},
    "test_fenced_before_produce_sync": {"mock": _FENCES_NOBODY},
    "test_fenced_before_the_abort": {"mock": _FENCES_NOBODY},
    "test_fenced_before_the_commit": {"mock": _FENCES_NOBODY},
    "test_fenced_too_often": {"mock": _FENCES_NOBODY},
    "test_fenced_while_idle": {"mock": _FENCES_NOBODY},
    "test_hidden_until_the_commit": {"mock": _HIDES_NOTHING},
    "test_offsets_move_with_the_commit": {"mock": _NO_GROUP_OFFSETS},
    "test_offsets_of_a_former_member": {"mock": _NO_GROUP_OFFSETS},
    "test_reported_timestamp": {"mock": _OWN_TIMESTAMP},
    "test_a_swallowed_rebalance_aborts_all_the_same": {"mock": _NO_GROUP_OFFSETS},
    "test_too_late": {"mock": _NO_TIME_OUT},
}

_FOLDER = Path(__file__).parent / "behaviours"
_INTRODUCTION = """\
<!-- Made by `python -m tests.contract.limits`, and checked by a test. -->
# What the fake and the mock can show

One suite of behaviours runs on all three: `FakePool`, `MockKafka` and a real broker. The real one is right.
Where another can't show a behaviour, it is named here, and the suite checks that this is still so.
"""


def behaviours() -> dict[str, Behaviour]:
    """Return every behaviour of the contract by its name."""
    modules = (import_module(f"tests.contract.behaviours.{path.stem}") for path in sorted(_FOLDER.glob("test_*.py")))
    return {name: value for module in modules for name, value in vars(module).items() if name.startswith("test_")}


def page() -> str:
    """Return the page of the documentation."""
    all_ = behaviours()
    lines = [_INTRODUCTION, "## What one of them can't show\n", "| behaviour | fake | mock |", "| --- | --- | --- |"]
    for name, limits in sorted(LIMITS.items(), key=lambda item: list(all_).index(item[0])):
        cells = [_sentence(all_[name]), *(f"no: {limits[each]}" if each in limits else "yes" for each in BACKENDS[:2])]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["\n## What all of them show\n"]
    lines += [f"- {_sentence(behaviour)}" for name, behaviour in all_.items() if name not in LIMITS]
    return "\n".join(lines) + "\n"


def _sentence(behaviour: Behaviour) -> str:
    return inspect.getdoc(behaviour) or ""


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201  (a page on standard output is what it is for)
