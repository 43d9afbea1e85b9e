"""How a mutant is tried.

pytest starts once and collects all tests. Each mutant is then tried in a fork of that process, where one function gets
another code: so a trial costs the time of its tests, and no file is changed. The tests are those that run the mutated
lines, as coverage has seen them: those first that have killed a mutant of the same function, then the quick ones.
What isn't in the body of a function, as a default or a constant, was read when the module was imported. Such a mutant
is tried in a process of its own, which imports the module with it.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import inspect
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Literal

import coverage
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.mutants.mutations import Mutant, Source

Verdict = Literal["failed", "hung", "crashed", "survived", "not run"]

PATIENCE = 10.0
"""How often as long as without a mutant a test may take, and how many seconds are added, until it counts as hung."""
AT_LEAST = 4.0
EXAMPLES = 60
"""How many a test by hypothesis tries with each mutant."""

QUIET = ("-p", "no:cacheprovider", "-p", "no:terminal", "-s", "-o", "addopts=", "-o", "timeout=0")


@dataclass(frozen=True)
class Trial:
    """What became of a mutant.

    Attributes:
        verdict: ``not run``, if no test runs its lines.
        killer: The test that failed, if one did.
        seconds: How long it took.
    """

    verdict: Verdict
    killer: str | None
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether a test has noticed it."""
        return self.verdict not in ("survived", "not run")


@dataclass
class Clean:
    """What the tests did without a mutant.

    Attributes:
        seconds: How long each took.
        lines: Which of them ran a line of a file.
        failed: Those that failed.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


class Trials:
    """A plugin of pytest that tries mutants in place of running the tests.

    Args:
        sources: All files that have mutants.
        work: What is done once the tests are collected, and have been run without a mutant.

    Attributes:
        clean: What they did then.
    """

    def __init__(self, sources: Sequence[Source], work: Callable[[Trials], None]) -> None:
        self._sources = sources
        self._work = work
        self._items: dict[str, pytest.Item] = {}
        self._failed = False
        self._kills: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.clean = Clean()

    # -- what pytest calls -------------------------------------------------------------------------

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out what needs a broker, or a client of librdkafka's, whose threads don't like forks."""
        items[:] = [item for item in items if _backend(item) == "fake" and "librdkafka" not in item.name]

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Have the tests; run none of them in this process."""
        self._items = {item.nodeid: item for item in session.items}
        for item in session.items:
            _calm(item)
        gc.collect()
        gc.freeze()  # conftest.py collects before each fork
        self.clean = self._without_mutant()
        self._work(self)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See whether a test fails."""
        self._failed |= report.failed

    # -- trials ------------------------------------------------------------------------------------

    def tests_of(self, mutant: Mutant, among: Sequence[str]) -> list[str]:
        """Return the tests that run its lines, the most promising first."""
        wanted: set[str] = set()
        for source in self._sources if mutant.inside.names else [mutant.source]:
            lines = self.clean.lines[str(source.path)]
            for line in source.lines_with(mutant.inside.names) if mutant.inside.names else mutant.inside.lines:
                wanted.update(lines.get(line, ()))
        kills = self._kills[str(mutant.source.path), mutant.inside.where]
        wanted -= set(self.clean.failed)  # on a busy machine one may be too late
        mine = [test for test in wanted if test.startswith(tuple(among))]
        return sorted(mine, key=lambda test: (-kills[test], self.clean.seconds[test]))

    def try_out(self, mutant: Mutant, among: Sequence[str]) -> Trial:
        """Run its tests until one fails; only those of some files and folders."""
        started = time.monotonic()
        tests = self.tests_of(mutant, among)
        if not tests:
            return Trial("not run", None, 0.0)
        swap = _Swap.of(mutant)
        verdict, killer = self._alone(mutant, tests) if swap is None else self._forked(swap, tests)
        if killer is not None:
            self._kills[str(mutant.source.path), mutant.inside.where][killer] += 1
        return Trial(verdict, killer, time.monotonic() - started)

    def _forked(self, swap: _Swap, tests: list[str]) -> tuple[Verdict, str | None]:
        def run(tell: Callable[[object], None]) -> None:
            swap.function.__code__ = swap.code
            for test, then in zip(tests, [*tests[1:], None], strict=True):
                tell(test)
                limit = AT_LEAST + PATIENCE * self.clean.seconds[test]
                faulthandler.dump_traceback_later(limit, exit=True)  # from a thread of its own, whatever is locked
                if not self._passes(test, then):
                    os._exit(FAILED)
            os._exit(PASSED)

        status, told = _in_fork(run)
        if status == PASSED:
            return "survived", None
        killer = str(told[-1]) if told else None
        return ("failed" if status == FAILED else "hung" if status == HUNG else "crashed"), killer

    def _alone(self, mutant: Mutant, tests: list[str]) -> tuple[Verdict, None]:
        from tests.mutants import planted  # noqa: PLC0415  (a plugin, which is for the other process)

        limit = 30 + PATIENCE * sum(self.clean.seconds[test] for test in tests)
        command = [sys.executable, "-m", "pytest", "-x", "-p", planted.__name__, *QUIET, *tests]
        try:
            ended = subprocess.run(command, env=planted.environment(mutant), timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return "hung", None
        if ended.returncode == pytest.ExitCode.USAGE_ERROR:
            raise RuntimeError(f"pytest doesn't understand {command}")
        return ("survived" if ended.returncode == pytest.ExitCode.OK else "failed"), None

    def _passes(self, test: str, then: str | None) -> bool:
        item = self._items[test]
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=self._items[then] if then else None)
        except BaseException:  # noqa: BLE001  (a Ctrl-C that a test has sent itself ends a session of pytest)
            return False
        return not self._failed

    def _without_mutant(self) -> Clean:
        """Run all tests once, and see which lines each of them runs."""

        def run(tell: Callable[[object], None]) -> None:
            measured = coverage.Coverage(
                data_file=None, config_file=False, include=[str(source.path) for source in self._sources]
            )
            measured.start()
            clean = Clean()
            tests = list(self._items)
            for test, then in zip(tests, [*tests[1:], None], strict=True):
                measured.switch_context(test)
                self._failed, started = False, time.monotonic()
                if not self._passes(test, then):
                    clean.failed.append(test)
                clean.seconds[test] = time.monotonic() - started
            measured.stop()
            data = measured.get_data()
            for source in self._sources:
                clean.lines[str(source.path)] = data.contexts_by_lineno(str(source.path.resolve()))
            tell(clean)
            os._exit(PASSED)

        status, told = _in_fork(run)
        if status != PASSED or not isinstance(told[0], Clean):
            raise RuntimeError(f"the tests ended with {status}")
        return told[0]


PASSED, HUNG, FAILED = 0, 1, 3
"""How a fork ends; with 1 by faulthandler's hand."""


def _in_fork(run: Callable[[Callable[[object], None]], None]) -> tuple[int, list[object]]:
    """Let a fork do something; how it ended, and what it told."""
    with tempfile.TemporaryFile() as report:
        child = os.fork()
        if child == 0:
            os.setsid()  # so that what it starts can be ended with it

            def tell(what: object) -> None:
                os.write(report.fileno(), pickle.dumps(what))

            try:
                run(tell)
            finally:
                os._exit(FAILED)
        try:
            _, status = os.waitpid(child, 0)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        report.seek(0)
        told = []
        with suppress(EOFError):
            while True:
                told.append(pickle.load(report))  # noqa: S301  (its own child's)
        return os.waitstatus_to_exitcode(status), told


@dataclass(frozen=True)
class _Swap:
    """A function, and the code that it gets."""

    function: FunctionType
    code: CodeType

    @classmethod
    def of(cls, mutant: Mutant) -> _Swap | None:
        """Return them, if no more than that is another way."""
        if not mutant.inside.function:
            return None
        function = _function(mutant)
        code = next(code for code in _codes(mutant.code()) if _is_of(code, function))
        return cls(function, code) if code.co_freevars == function.__code__.co_freevars else None


def _function(mutant: Mutant) -> FunctionType:
    found: object = importlib.import_module(mutant.source.module)
    for name in mutant.inside.where.split("."):
        found = vars(found)[name]
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, (staticmethod, classmethod)):
        found = found.__func__
    function = inspect.unwrap(found)  # type: ignore[arg-type]  # whatever it is
    assert isinstance(function, FunctionType)
    return function


def _is_of(code: CodeType, function: FunctionType) -> bool:
    there = function.__code__
    return (code.co_qualname, code.co_firstlineno) == (there.co_qualname, there.co_firstlineno)


def _codes(code: CodeType) -> Iterable[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _backend(item: pytest.Item) -> object:
    call = getattr(item, "callspec", None)
    return "fake" if call is None else call.params.get("backend", "fake")


def _calm(item: pytest.Item) -> None:
    """Let hypothesis do the same each time, and neither keep nor shorten what has failed."""
    import hypothesis  # noqa: PLC0415  (a plugin of pytest's, which wants to be the first to import it)

    case = getattr(item, "cls", None)
    if isinstance(given := getattr(case, "settings", None), hypothesis.settings):
        quick = hypothesis.settings(
            given, max_examples=EXAMPLES, derandomize=True, database=None, phases=[hypothesis.Phase.generate]
        )
        setattr(case, "settings", quick)  # noqa: B010  (its type isn't known here)


def collect(tests: Sequence[str], trials: Trials) -> int:
    """Start pytest with what is to be done once it has its tests."""
    return pytest.main([*QUIET, *tests], plugins=[trials])
