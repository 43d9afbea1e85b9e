"""The tutorial, followed word for word in an empty virtual environment that has nothing but the built wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.pages import ROOT, blocks, shows, write_files
from wd_di_pytest import _unavailable

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "tutorial.md"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source."""
    folder = tmp_path_factory.mktemp("dist")
    _run([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)], ROOT)
    [built] = folder.glob("*.whl")
    return built


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("local_kafka")  # its jars are downloaded
def test_the_tutorial_prints_what_it_shows(wheel: Path, tmp_path: Path) -> None:
    """Every command of the page, in an empty folder and a new environment, prints what the page shows."""
    script = _script(PAGE, wheel)
    home = tmp_path / "shop-tutorial"
    home.mkdir()
    write_files(PAGE, home)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["COLUMNS"] = "80"

    printed = _run(["/bin/sh", "-ec", script], tmp_path, environment)

    assert shows("…".join(blocks(PAGE, "text")), printed)


def _script(page: Path, wheel: Path) -> str:
    """Return the page's commands; the package comes from its wheel, and from uv's cache instead of the network."""
    commands = "\n".join(blocks(page, "console"))
    install = f"'{sys.executable}' -m uv pip install --quiet --python .venv --constraint '{ROOT}/constraints.txt'"
    return (
        commands.replace("mkdir shop-tutorial", ":")
        .replace("mkdir shop\n", "")
        .replace("pip install '../wd_di[local-kafka]'", f"{install} '{wheel}[local-kafka]'")
        .replace("pip install pytest", f"{install} pytest")
    )


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)  # noqa: PLW1510  (asserted below)
    if done.returncode and ("Failed to fetch" in done.stderr or "error sending request" in done.stderr):
        _unavailable(f"no network for an empty environment: {done.stderr.strip()}")
    assert 0 == done.returncode, f"{done.stdout}\n{done.stderr}"
    return done.stdout
