"""What is published: the wheel's files and metadata, and that it needs none of its extras."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path, PurePosixPath

import pytest

import wd_di
from tests.pages import ROOT
from wd_di._version import DISTRIBUTION

USES = "by_itself: offset 0\nin_a_container: offset 0\nfor_the_whole_program: offset 0\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Where the wheel and the source distribution are, made of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    _run("-m", "hatchling", "build", "--directory", str(folder), cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> zipfile.ZipFile:
    """The wheel, opened."""
    [path] = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel) -> Distribution:
    """What installers read of it."""
    [info] = [path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info")]
    return PathDistribution(info)  # type: ignore[arg-type]  # zipfile.Path has all that it needs


def test_the_wheel_holds_the_package_only(wheel):
    """Nothing but wd_di/, the plugin beside it and metadata: no tests, no examples; and every module of the tree.

    And two files that aren't modules: the marker for type checkers, and the sums of Kafka's jars.
    """
    names = [PurePosixPath(name) for name in wheel.namelist()]
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "wd_di").rglob("*.py")}

    assert {"wd_di", "wd_di_pytest.py", "wd_di_kafka-0.1.0.dist-info"} == {name.parts[0] for name in names}
    others = {"wd_di/py.typed", "wd_di/testing/jars.sha256"}
    assert modules | others == {str(name) for name in names if name.parts[0] == "wd_di"}


def test_the_source_distribution_can_be_tested(built):
    """Whoever packages wd_di for a system finds the tests, the examples and the page that they read."""
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        top = {PurePosixPath(name).parts[1] for name in archive.getnames()}

    assert {"wd_di", "wd_di_pytest.py", "tests", "examples", "README.md", "LICENSE", "pyproject.toml"} <= top


def test_metadata(metadata):
    """The licence is an SPDX expression with its text inside, and installers learn what they need to know."""
    fields = metadata.metadata

    assert ("wd-di-kafka", "MIT", ["LICENSE"]) == (
        fields["Name"],
        fields["License-Expression"],
        fields.get_all("License-File"),
    )
    assert ">=3.11" == fields["Requires-Python"]
    assert "text/markdown" == fields["Description-Content-Type"]
    assert str(fields.get_payload()).strip() == (ROOT / "README.md").read_text().strip()
    assert "Permission is hereby granted" in (metadata.read_text("licenses/LICENSE") or "")


def test_classifiers_name_the_pythons_that_are_tested(metadata):
    """The classifiers promise what `make matrix` runs, and types."""
    promised = metadata.metadata.get_all("Classifier") or []
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("PYTHONS ?="))

    versions = [each.rpartition(" ")[2] for each in promised if each.startswith("Programming Language :: Python :: 3.")]

    assert line.partition("=")[2].split() == versions
    assert "Typing :: Typed" in promised


def test_entry_points(metadata):
    """Pytest finds the plugin, which isn't in the package that it would import; nothing else is registered."""
    [plugin] = metadata.entry_points

    assert ("pytest11", "wd_di", "wd_di_pytest") == (plugin.group, plugin.name, plugin.value)
    assert callable(plugin.load().pytest_configure)


def test_the_wheel_brings_its_fixtures(built, tmp_path):
    """A project's test gets them from the wheel alone, and a test without them doesn't load the package."""
    [path] = built.glob("*.whl")
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        f"def test_a(): assert sys.modules['wd_di_pytest'].__file__.startswith({str(path)!r})\n"
        "def test_b(): assert 'wd_di' not in sys.modules\n"
        "def test_c(fake_pool): assert fake_pool and sys.modules['wd_di'].__file__.startswith"
        f"({str(path)!r})\n"
    )

    said = _run(
        *("-m", "pytest", "-p", "no:cacheprovider", "-p", "wd_di_pytest"),
        cwd=tmp_path,
        PYTHONPATH=str(path),
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
    )

    assert "3 passed" in said


def test_no_use_imports_test_tools(built, tmp_path):
    """Each of the three uses runs from the wheel alone, and none of them imports what only tests need."""
    [path] = built.glob("*.whl")

    said = _run(str(ROOT / "tests" / "three_uses.py"), cwd=tmp_path, PYTHONPATH=str(path))

    assert USES == said


def _run(*args: str, cwd: Path, **environment: str) -> str:
    command = [sys.executable, "-W", "error", *args]
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_nobody_is_sent_to_another_package():
    """What installs this package has one name everywhere: on the package index, wd-di is somebody else's."""
    folders = [ROOT / name for name in ("wd_di", "tests", "examples", "docs", ".ci", ".github")]
    written = [
        *ROOT.glob("*"),
        *(path for folder in folders for path in folder.rglob("*") if "_build" not in path.parts),
    ]
    kinds = ("", ".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".svg", ".css")
    texts = [path for path in written if path.suffix in kinds and path.is_file()]
    lines = [f"{path.name}: {line}" for path in texts for line in path.read_text().splitlines()]

    assert [] == [line for line in lines if re.search(r"\bwd-di\b(?!-kafka)", line) and "somebody else's" not in line]


def test_one_constant_names_the_distribution():
    """The project is called what its errors and its documentation call it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert (project["name"], project["version"]) == (DISTRIBUTION, wd_di.__version__)
