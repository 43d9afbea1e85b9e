"""A short run of the checker with a fixed seed: what was reported is true, and a lie would have been found out."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chaos.history import read_journals
from tests.chaos.report import kind_of, markdown, rows, write_up
from tests.chaos.rules import Violation, violations
from tests.chaos.running import WRITERS, Options, Result, run
from wd_di.errors import MissingExtraError
from wd_di.testing import KafkaUnavailableError
from wd_di_pytest import _unavailable

if TYPE_CHECKING:
    from tests.chaos.history import History

KINDS = 10
OPTIONS = Options(seconds=10.0, seed=4, calm=2.0, haste=4.0, kinds=KINDS)

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run leaves everything."""
    return tmp_path_factory.mktemp("chaos")


@pytest.fixture(scope="module")
def result(folder: Path) -> Result:
    """The run, the same for all tests."""
    try:
        found = run(OPTIONS, folder)
    except (MissingExtraError, KafkaUnavailableError) as error:
        _unavailable(str(error))
    if found.violations:
        write_up(found, folder)
    return found


@pytest.fixture
def tampered(folder: Path, tmp_path: Path) -> Path:
    """A copy of the journals, to lie in."""
    return shutil.copytree(folder / "journals", tmp_path / "journals", ignore=shutil.ignore_patterns("celery"))


def retold(result: Result, journals: Path) -> History:
    """Return the run's history as these journals tell it; what was seen and how processes ended stays."""
    history = copy.copy(result.history)
    history.transactions = read_journals(journals.glob("*.jsonl")).transactions
    return history


def rewrite(result: Result, journals: Path, old: str, new: str) -> None:
    """Change the first line with these words, if it may be one of somebody who lived, and so must know all."""

    def killed(path: Path) -> bool:
        return result.history.processes[path.stem].end not in ("finished", "replaced")

    for path in sorted(journals.glob("*.jsonl"), key=killed):
        text = path.read_text()
        if old in text:
            path.write_text(text.replace(old, new, 1))
            return
    raise AssertionError(f"no journal has {old}")


def test_what_was_reported_is_true(result: Result, folder: Path) -> None:
    """Whatever was done to brokers, network and writers: nothing is lost, doubled, torn, stuck or leaked."""
    assert [] == result.violations, f"see {folder}/README.md"


def test_it_was_no_calm_sea(result: Result) -> None:
    """Faults of many kinds were met, and writers of all kinds worked through them, with and without success."""
    met = {fault["kind"] for fault in result.faults if fault["hits"]}
    kinds = {kind_of(each).partition(":")[0] for each in result.history.transactions.values()}
    busy = {each.process.partition(".")[0] for each in result.history.transactions.values() if each.outcome}

    assert KINDS <= len(met)
    assert {"committed", "aborted on purpose"} <= kinds
    assert set(WRITERS) == busy
    assert any(each.source is not None for each in result.history.seen)


@pytest.mark.parametrize(
    ("told", "instead", "rule"),
    [
        ('"said":"committed","told":["committed"]', '"said":"aborted","told":["aborted"]', "aborted_is_hidden"),
        ('"said":"aborted","told":["aborted"]', '"said":"committed","told":["committed"]', "committed_is_there"),
        ('"said":"committed","told":["committed"]', '"said":"committed","told":["aborted"]', "accounts_agree"),
        ('"said":"committed","told":["committed"]', '"said":null,"told":[]', "all_are_answered"),
    ],
)
def test_a_tampered_journal_is_found_out(result: Result, tampered: Path, told: str, instead: str, rule: str) -> None:
    """One line of a journal that doesn't tell the truth breaks the rule that is there for it."""
    rewrite(result, tampered, told, instead)

    assert rule in {each.rule for each in violations(retold(result, tampered))}


def test_a_record_of_another_topic_is_found_out(result: Result, tampered: Path) -> None:
    """What a reader found must be what its own transaction announced, in the topic that it named."""
    seen = next(each for each in result.history.seen if each.number == 0)
    announced = f'"tx":"{seen.transaction}","records":[["'
    rewrite(result, tampered, announced + seen.topic, announced + "chaos-x")

    assert "all_was_intended" in {each.rule for each in violations(retold(result, tampered))}


def test_a_run_that_went_wrong_leaves_its_story(result: Result, folder: Path, tmp_path: Path) -> None:
    """The folder of a run tells how to run it again, and all that is known of the transactions at issue."""
    name = next(each.name for each in result.history.transactions.values() if each.outcome == "committed")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    broken = Result(OPTIONS, result.history, result.faults, [Violation("a_rule", "it is broken", (name,))], 1.0)
    write_up(broken, tmp_path)
    story = (tmp_path / "README.md").read_text()

    assert f"make chaos MINUTES={OPTIONS.seconds / 60:g} SEED={OPTIONS.seed}" in story
    assert f"### {name}" in story
    assert '"what": "intent"' in story
    assert '"said": "committed"' in story
    assert '{"seen": ' in story


def test_the_summary_is_a_page(result: Result) -> None:
    """The summary is Markdown on demand, with what counts at its top."""
    page = markdown(result)
    [(_, run), *_] = rows(result)

    assert ("violations", "0") in run
    assert "| violations | 0 |" in page
    assert f"| transactions | {len(result.history.transactions):,} |" in page
