"""What `make mutants` takes for a small mistake, and how it tells whether a test notices one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.mutants.mutations import Source
from tests.pages import ROOT


def changes(tmp_path: Path, code: str) -> list[str]:
    """What may be wrong in it."""
    file = tmp_path / "sample.py"
    file.write_text(dedent(code))
    return [mutant.what for mutant in Source(file).mutants]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a < b", {"a < b → a <= b", "a < b → a >= b"}),
        ("a is not None", {"a is not None → a is None"}),
        ("not a", {"not a → a"}),
        (
            "a and b and c",
            {"a and b and c → a or b or c", "and a → left out", "and b → left out", "and c → left out"},
        ),
        ("a - 1", {"a - 1 → a + 1", "1 → 2 in a - 1", "1 → 0 in a - 1"}),
        ("a * 0.5", {"a * 0.5 → a / 0.5", "0.5 → 1.0 in a * 0.5", "0.5 → 0.25 in a * 0.5"}),
        ("60 in a", {"60 in a → 60 not in a", "60 → 120 in 60 in a", "60 → 30 in 60 in a"}),
        ("a == 'open'", {"a == 'open' → a != 'open'", "'open' → '' in a == 'open'"}),
        ("a if b else c", {"a if b else c → c if b else a"}),
        ("any(b)", {"any(b) → all(b)"}),
        ("[b for b in a if b]", {"if b → not"}),
    ],
)
def test_a_mistake_in_an_expression(tmp_path: Path, code: str, expected: set[str]):
    """It says something a little different."""
    assert expected == set(changes(tmp_path, f"x = {code}"))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a.b()", ["a.b() → pass"]),
        ("a.b = c", ["a.b = c → pass"]),
        ("a.b, c = d", ["a.b, c = d → pass"]),
        ("a.b += c", ["a.b += c → pass", "a.b += c → a.b -= c"]),
        ("raise a", ["raise a → pass"]),
        ("return", ["return → pass"]),
        ("return a", ["return a → return None"]),
        ("return a is b", ["a is b → a is not b"]),
        ("if a: pass", ["if a → not"]),
        ("while a(): pass", ["while a() → not"]),
    ],
)
def test_a_mistake_in_a_statement(tmp_path: Path, code: str, expected: list[str]):
    """It isn't there, or goes the other way."""
    assert expected == changes(tmp_path, f"def f():\n    {code}")


def test_no_mistake_in_what_decides_nothing(tmp_path: Path):
    """Types, documentation and the words of a message are for people and for mypy."""
    code = '''
        """Says what it is."""
        from typing import TYPE_CHECKING, Literal
        if TYPE_CHECKING:
            import a
        Word = Literal["a", "b"]

        def f(a: Literal["a"] | None) -> Literal["b"]:
            """Says what it does."""
            b: int
            raise ValueError(f"said of {a:.1f}")
    '''

    assert ["raise ValueError(f'said of {a:.1f}') → pass"] == changes(tmp_path, code)


def test_two_of_a_kind_have_two_names(tmp_path: Path):
    """So that an explanation is one of the one that was meant, wherever it stands in the file."""
    code = """
        def f():
            a()
            a()
        def g():
            a()
    """

    assert ["a() → pass", "a() → pass #2", "a() → pass"] == changes(tmp_path, code)


def test_each_mistake_is_made_alone(tmp_path: Path):
    """A mutant that was compiled leaves nothing behind in the next one."""
    file = tmp_path / "sample.py"
    file.write_text("x = a is b\ny = a + b\n")
    found = []
    for mutant in Source(file).mutants:
        names: dict[str, object] = {"a": 2, "b": 3}
        exec(mutant.code(), names)  # noqa: S102  (what is tested)
        found.append((names["x"], names["y"]))

    assert [(True, 5), (False, -1)] == found


PROJECT = {
    "sample.py": """
        LIMIT = 3

        class Gate:
            open = True

            def passes(self, n, most=3):
                return n <= most

            def full(self, n):
                return n == LIMIT

            @property
            def word(self):
                return self.open and "open" or "shut"

            def wait(self):
                while not self.open:
                    pass
                return self

            def unused(self):
                return 5
    """,
    "test_sample.py": """
        from sample import Gate

        def test_who_passes():
            assert Gate().passes(2) and not Gate().passes(4)

        def test_full():
            assert Gate().full(3)

        def test_word():
            assert Gate().word == "open"

        def test_wait():
            assert Gate().wait()
    """,
    "run.py": """
        import json
        from pathlib import Path
        from tests.mutants import trying
        from tests.mutants.mutations import Source

        def work(trials):
            told = {}
            for mutant in source.mutants:
                name = f"{mutant.inside.where}: {mutant.what}"
                if name in wanted:
                    trial = trials.try_out(mutant, ["test_sample.py"])
                    told[name] = [trial.verdict, trial.killer]
            Path("told.json").write_text(json.dumps(told))

        trying.AT_LEAST = 0.5
        wanted = json.loads(Path("wanted.json").read_text())
        source = Source(Path("sample.py"))
        raise SystemExit(trying.collect(["test_sample.py"], trying.Trials([source], work)))
    """,
}


NOTICED = {
    "Gate.passes: n <= most → n < most": ["survived", None],
    "Gate.passes: n <= most → n > most": ["failed", "test_sample.py::test_who_passes"],
    "Gate.word: 'open' → '' in self.open and 'open'": ["failed", "test_sample.py::test_word"],
    "Gate.wait: not self.open → self.open": ["hung", "test_sample.py::test_wait"],
    "LIMIT: 3 → 4 in LIMIT = 3": ["failed", None],
    "Gate.passes: 3 → 2 in self, n, most=3": ["survived", None],
    "Gate.unused: 5 → 6 in return 5": ["not run", None],
}


@pytest.mark.timeout(180)
def test_who_notices_a_mistake(tmp_path: Path):
    """In a function, a property, a constant or a default; also what hangs. What no test runs isn't noticed."""
    for name, code in PROJECT.items():
        (tmp_path / name).write_text(dedent(code))
    (tmp_path / "wanted.json").write_text(json.dumps([*NOTICED]))
    where = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    subprocess.run([sys.executable, "run.py"], cwd=tmp_path, env=os.environ | where, check=True)

    assert NOTICED == json.loads((tmp_path / "told.json").read_text())
