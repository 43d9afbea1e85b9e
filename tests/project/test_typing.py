"""The public types: complete, and what they promise holds in the strict modes of mypy and pyright."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT

# pyright's launcher asks PyPI for a newer version, unless told not to; --verifytypes asks the python on PATH.
ENVIRONMENT = os.environ | {
    "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
}


@pytest.mark.parametrize(
    "checker",
    [
        pytest.param(["mypy", "--strict", f"--cache-dir={os.devnull}", "tests/typing"], id="mypy"),
        pytest.param(["pyright", "--project", ".", "--pythonpath", sys.executable], id="pyright"),
    ],
)
def test_strict_checkers_find_what_is_marked_and_nothing_else(checker):
    """Every assertion in tests/typing holds, and an ignore that hides no error would be an error itself."""
    checked = _run(*checker)

    assert 0 == checked.returncode, checked.stdout


def test_every_public_type_is_known():
    """Whoever checks types strictly never meets an unknown or ambiguous type behind a public name."""
    checked = _run("pyright", "--verifytypes", "wd_di", "--ignoreexternal")

    assert "Type completeness score: 100%" in checked.stdout, checked.stdout


def _run(module: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *args]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=50, check=False)
