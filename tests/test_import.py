"""What importing wd_di costs, and that its lazily loaded names are as good as loaded ones."""

from __future__ import annotations

import ast
import pydoc
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from unittest import mock

import pytest

import wd_di
import wd_di.testing

PACKAGES = pytest.mark.parametrize("package", [wd_di, wd_di.testing], ids=lambda package: package.__name__)
FOREIGN = ("confluent_kafka", "dependency_injector", "fastapi", "pydantic", "pydantic_settings")
CONTAINERS = ("dependency_injector", "fastapi")


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import wd_di", FOREIGN),
        ("import wd_di.testing", FOREIGN),
        ("from wd_di import AbortTransaction, Observer, PoolError, TransactionCommitted", FOREIGN),
        ("import wd_di; wd_di.errors.PoolError, dir(wd_di), hasattr(wd_di, 'poool')", FOREIGN),
        ("from wd_di import Message, Producer, Retry, Transaction", (*CONTAINERS, "pydantic")),
        ("from wd_di import PoolSettings", ("confluent_kafka", *CONTAINERS)),
        ("from wd_di import ProducerPool, PoolSettings; ProducerPool(PoolSettings(deliver=False)).close()", CONTAINERS),
    ],
)
def test_only_what_is_touched_is_paid_for(statement, unwanted):
    """Foreign packages are imported by the first name that needs them, not by wd_di."""
    said = _fresh(f"import sys\n{statement}\nprint(*(each for each in {unwanted} if each in sys.modules))")

    assert "" == said


@PACKAGES
def test_all_lists_agree(package):
    """Type checkers, ``*`` and the first touch know the same names, each from the same module."""
    tree = ast.parse(Path(package.__file__).read_text())
    [split] = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {alias.name: node.module for node in split.body for alias in node.names}
    [homes] = [ast.literal_eval(node.args[1]) for node in ast.walk(tree) if _calls_lazily(node)]
    touched = {name: f"{package.__name__}.{home}" for home, names in homes.items() for name in names.split()}

    assert imported == touched
    assert sorted(package.__all__) == sorted(imported)
    assert not set(homes) & set(imported), "a module would hide what has its name"
    for name, home in touched.items():
        assert getattr(package, name) is getattr(import_module(home), name)


@PACKAGES
def test_a_misspelt_name_is_an_error(package):
    """There is no such attribute, and the error shows the one that was meant; with any other it doesn't guess."""
    right = package.__all__[-1]

    with pytest.raises(AttributeError, match=rf"'{package.__name__}' has no .*'{right}x'\. Did you mean '{right}'\?$"):
        getattr(package, f"{right}x")
    with pytest.raises(AttributeError, match=rf"'{package.__name__}' has no attribute '_zzz'$"):
        _ = package._zzz
    with pytest.raises(ImportError, match=f"cannot import name '{right}x' from '{package.__name__}'"):
        exec(f"from {package.__name__} import {right}x")  # noqa: S102  (the statement is what is tested)


def test_a_package_that_was_not_imported_is_named():
    """Who touches the test tools without their import is told of it, and of nothing that sounds alike."""
    said = _fresh("import wd_di\ntry:\n    wd_di.testing\nexcept AttributeError as error:\n    print(error)")

    assert "module 'wd_di' has no attribute 'testing': import wd_di.testing first" == said


@PACKAGES
def test_star_dir_and_help(package):
    """``*``, ``dir`` and ``help`` show every public name before any of them was touched."""
    name = package.__name__
    listed = _fresh(f"import {name} as package\nprint(*dir(package))").split()
    starred = _fresh(f"from {name} import *\nprint(*dir())").split()

    assert set(package.__all__) <= set(listed)
    assert set(package.__all__) <= set(starred)
    shown = pydoc.plain(pydoc.render_doc(package))
    assert ("class ProducerPool(" if package is wd_di else "class FakePool(") in shown


def test_public_modules_can_be_touched():
    """``wd_di.errors`` and its like need no import of their own, as before."""
    homes = ("default", "errors", "events", "lifecycle", "pool", "providers", "settings", "wiring")

    said = _fresh(f"import wd_di\nprint(*(getattr(wd_di, home).__name__ for home in {homes}))")

    assert [f"wd_di.{home}" for home in homes] == said.split()


def test_patched_names_come_back(monkeypatch):
    """A name can be replaced for a while, by mock and by monkeypatch, whether or not it was touched before."""
    untouched = "import wd_di.pool\nfrom unittest import mock\n"
    untouched += "with mock.patch('wd_di.pool.ProducerPool', 'fake'): wd_di.ProducerPool\n"
    assert "<class 'wd_di.pool.ProducerPool'>" == _fresh(f"{untouched}print(wd_di.ProducerPool)")

    real = wd_di.ProducerPool
    with mock.patch("wd_di.ProducerPool", "fake"), monkeypatch.context() as patched:
        patched.setattr(wd_di, "stats", "fake")
        assert ("fake", "fake") == (wd_di.ProducerPool, wd_di.stats)
    assert (real, wd_di.default.stats) == (wd_di.ProducerPool, wd_di.stats)


def test_many_threads_may_touch_first():
    """Whoever comes while a name is being loaded waits for it, and gets the same."""
    script = """if True:
        import sys, threading, wd_di
        sys.setswitchinterval(1e-5)
        start, got = threading.Barrier(8), []
        def touch(name):
            start.wait()
            got.append((name, getattr(wd_di, name), getattr(wd_di, name)))
        names = "ProducerPool Checkout observer inject Delivery running PoolResource PoolSettings".split()
        threads = [threading.Thread(target=touch, args=[name]) for name in names]
        for each in threads: each.start()
        for each in threads: each.join()
        print(sorted(names) == sorted(name for name, one, two in got if one is two is getattr(wd_di, name)))
    """

    assert "True" == _fresh(script)


def test_exit_handlers_of_the_program_come_first():
    """What a program registers after ``import wd_di`` may still produce, however late the first pool is made."""
    script = """if True:
        import atexit, wd_di
        @atexit.register
        def bye():
            with wd_di.producer() as producer:
                print("bye", producer.produce_sync("events", "stopped").offset)
        wd_di.setup(settings=wd_di.PoolSettings(deliver=False))
    """

    assert "bye 0" == _fresh(script)


def _calls_lazily(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "lazily"


def _fresh(script: str) -> str:
    """Return what a new interpreter prints."""
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout.strip()
