"""What surrounds the code: make's help, the workflows and hooks agree with each other and with what is promised."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from tests.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.search(r"^\.PHONY: ((?:.+\\\n)*.+)$", MAKEFILE, re.MULTILINE)[1].replace("\\", "").split()  # type: ignore[index]
PYTHONS = re.search(r"^PYTHONS \?= (.+)$", MAKEFILE, re.MULTILINE)[1].split()  # type: ignore[index]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def explained() -> list[str]:
    """The first words of the lines of `make help`."""
    command = ["make", "-C", str(ROOT), "help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return [words[0] for line in said.stdout.splitlines() if (words := line.split()) and len(words) > 1]


def test_help_explains_every_target(explained):
    """No target that can be asked for is missing in `make help`."""
    assert set() == set(TARGETS) - set(explained)


def test_help_explains_every_variable(explained):
    """No variable that can be set is missing in `make help`."""
    variables = re.findall(r"^([A-Z]+) \?=", MAKEFILE, re.MULTILINE)

    assert set() == set(variables) - {word.partition("=")[0] for word in explained}
    assert {"PYTHON", "PYTHONS", "KAFKA", "ARGS"} <= set(variables)


def test_every_target_is_one_of_the_phony():
    """No target's name could be taken for a file's."""
    written = set(re.findall(r"^([a-z-]+):(?!=)", MAKEFILE, re.MULTILINE))

    assert written == set(TARGETS)


def test_workflows_run_what_has_to_pass():
    """What `.ci/run` asks of a change, the workflows ask too; the matrix is theirs."""
    [steps] = re.findall(r"^for step in (.+); do$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    matrix = {"matrix": "wheel-test"}

    assert {matrix.get(step, step) for step in steps.split()} <= set(_made())


def test_what_is_run_can_be_made():
    """No workflow and no hook runs a target that isn't there."""
    hooks = [hook["entry"] for hook in _hooks()]
    made = [*_made(), *(word for entry in hooks for word in _targets(entry))]

    assert [] == [target for target in made if target not in TARGETS]


def test_workflows_test_every_python():
    """A matrix of Pythons has those that are promised, and what names one names one of them."""
    named = [versions for workflow in WORKFLOWS for versions in _values(_load(workflow), "python")]
    single = [str(each) for path in (*WORKFLOWS, ROOT / ".readthedocs.yaml") for each in _pythons(path)]

    assert [PYTHONS] * 2 == [versions for versions in named if isinstance(versions, list)]
    assert single
    assert set(single) <= set(PYTHONS)


def test_pages_name_every_python():
    """The first page and the policy promise the Pythons that are tested."""
    assert f"![Python {PYTHONS[0]} to {PYTHONS[-1]}]" in (ROOT / "README.md").read_text()
    assert f"CPython {', '.join(PYTHONS[:-1])} and {PYTHONS[-1]}" in (ROOT / "docs" / "policy.md").read_text()


def test_only_publishing_gets_an_identity():
    """One job may prove who it is, in an environment of its own, and it runs nothing of this repository."""
    jobs = [job for workflow in WORKFLOWS for job in _load(workflow)["jobs"].values()]

    [trusted] = [job for job in jobs if "id-token" in job.get("permissions", {})]

    assert "pypi" == trusted["environment"]
    assert [] == [step for step in trusted["steps"] if "run" in step]
    assert all("permissions" in _load(workflow) for workflow in WORKFLOWS)


def test_every_job_has_a_deadline():
    """No job waits for six hours, as GitHub would let it."""
    jobs = {f"{path.name}: {name}": job for path in WORKFLOWS for name, job in _load(path)["jobs"].items()}

    assert [] == [name for name, job in jobs.items() if "timeout-minutes" not in job]


def test_hooks_run_the_tools_of_the_environment():
    """A hook before a commit runs what `make lint` runs, in its versions, and fetches nothing."""
    linted = MAKEFILE.partition("\nlint-code:")[2].partition("\n\n")[0]

    for hook in _hooks():
        program = hook["entry"].split()[0]
        assert "system" == hook["language"]
        assert "make" == program or program in linted


def _load(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def _hooks() -> list[dict[str, Any]]:
    [repository] = _load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert "local" == repository["repo"]
    return list(repository["hooks"])


def _made() -> Iterator[str]:
    """Give the targets that the workflows make; a matrix's ``$TARGET`` stands for each of its values."""
    for workflow in WORKFLOWS:
        content = _load(workflow)
        targets = [each for value in _values(content, "target") for each in _listed(value) if "$" not in each]
        for command in _values(content, "run"):
            for word in _targets(command):
                yield from targets if word == "$TARGET" else [word]


def _targets(command: str) -> list[str]:
    program, *words = shlex.split(command)
    return [word for word in words if "=" not in word and not word.startswith("-")] if program == "make" else []


def _values(content: Any, key: str) -> Iterator[Any]:
    """Give the values of a key, however deep it stands."""
    if isinstance(content, dict):
        yield from [content[key]] if key in content else []
    for inner in content.values() if isinstance(content, dict) else content if isinstance(content, list) else []:
        yield from _values(inner, key)


def _pythons(path: Path) -> Iterator[str]:
    for key in ("python-version", "python"):
        for value in _values(_load(path), key):
            if isinstance(value, str) and "${{" not in value:
                yield value


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
