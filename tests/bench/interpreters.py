"""What importing costs above the packages that are imported with it, and how other interpreters do.

Each turn is a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.checkout import ALL_S, memory, taking
from tests.bench.workloads import Target, Turn, Workload
from wd_di import PoolSettings, ProducerPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.workloads import Place, Way

ROOT = Path(__file__).parent.parent.parent
PACKAGES = (
    "dependency_injector.containers",
    "dependency_injector.providers",
    "dependency_injector.wiring",
    "pydantic",
    "pydantic_settings",
    "confluent_kafka",
)
DEPENDENCIES, BARE, ALL = "what it depends on", "import wd_di", "from wd_di import *"
OTHERS = ("3.12", "3.13", "3.14", "3.14t", "3.15")
ENVIRONMENTS = ROOT / ".venv-wheel"
CHECKOUT, TRANSACTION = "checkout: CPU, µs", "transaction: CPU, µs"


def imports(place: Place) -> Iterator[Workload]:
    """Give what is imported, with and without us."""
    del place
    ways: dict[str, Way] = {
        DEPENDENCIES: lambda: _import(f"import {', '.join(PACKAGES)}"),
        BARE: lambda: _import(BARE),
        ALL: lambda: _import(ALL),
    }
    asked = [
        Target(BARE, "cpu", 10_000, "at most"),
        Target(ALL, "cpu", 1.03, "at most", against=DEPENDENCIES),
    ]
    yield Workload(14, "importing", "imports", ways, "cpu", asked)


def others(place: Place) -> Iterator[Workload]:
    """Give a checkout and an empty transaction on each Python that this machine has: measured, not promised."""
    seconds = min(place.effort.seconds, ALL_S)
    pythons = {f"Python {sys.version.split()[0]}": sys.executable, **dict(_prepared())}
    ways: dict[str, Way] = {name: partial(_elsewhere, python, seconds) for name, python in pythons.items()}
    yield Workload(18, "in memory, on other Pythons", "runs", ways, CHECKOUT)


def _prepared() -> Iterator[tuple[str, str]]:
    """Give the others, each in an environment with our requirements; one that can't have them isn't measured."""
    uv = Path(sys.executable).with_name("uv")
    for version in OTHERS:
        found, python = _found(version), ENVIRONMENTS / f"bench-{version}" / "bin" / "python"
        if found is None or not uv.exists():
            continue
        steps = [
            ["venv", "--quiet", "--clear", "--no-python-downloads", "--python", found, str(python.parent.parent)],
            [
                "pip",
                "install",
                "--quiet",
                "--python",
                str(python),
                "--constraint",
                "constraints.txt",
                "-r",
                "pyproject.toml",
            ],
        ]
        if all(
            subprocess.run([uv, *step], cwd=ROOT, capture_output=True, check=False).returncode == 0 for step in steps
        ):
            yield f"Python {_version(str(python))}", str(python)


def _found(version: str) -> str | None:
    """Return the first that runs: a shim of pyenv's may be on PATH without the version being active."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    named = [f"python{version}", *map(str, sorted(pyenv.glob(f"{version.rstrip('t')}.*/bin/python{version}")))]
    return next((each for each in named if shutil.which(each) and _version(each)), None)


def _version(python: str) -> str:
    code = (
        "import sys, sysconfig; print(sys.version.split()[0] + 't' * bool(sysconfig.get_config_var('Py_GIL_DISABLED')))"
    )
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def _elsewhere(python: str, seconds: float) -> Turn:
    command = [python, "-m", "tests.bench.interpreters", str(seconds)]
    began = time.perf_counter()
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, timeout=120).stdout
    return Turn(1, time.perf_counter() - began, also=json.loads(told))


def _here(seconds: float) -> dict[str, float]:
    ids = PoolSettings(deliver=False, transactional_id="bench-{host}-{pid}-{index}")
    with memory(1) as plain, ProducerPool(ids, name="others") as pool:
        found = taking(seconds, plain.producer), taking(seconds, pool.transaction)
    return dict(zip((CHECKOUT, TRANSACTION), (each.figures()["cpu"] for each in found), strict=True))


def _import(statement: str) -> Turn:
    """Measure within the interpreter, whose own start doesn't count."""
    code = f"import time; a, b = time.perf_counter(), time.process_time(); {statement}\n"
    code += "print(time.perf_counter() - a, time.process_time() - b)"
    told = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, cwd=ROOT).stdout
    lasted, spent = map(float, told.split())
    return Turn(1, lasted, cpu=spent)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_here(float(sys.argv[1]))))
