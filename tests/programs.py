"""Small programs as processes of their own: started, watched until they say a word, and ended by their pid."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

ROOT = Path(__file__).parents[1]
PATIENCE_S = 30


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python while the block runs; it is killed at the end if it hasn't ended."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def program(code: str, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """Run Python code while the block runs."""
    return started("-c", code, *arguments)


def hear(process: subprocess.Popen[str]) -> str:
    """Return the next line that the program prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def say(process: subprocess.Popen[str], what: str = "") -> None:
    """Let the program go on from its ``input()``."""
    assert process.stdin is not None
    process.stdin.write(f"{what}\n")
    process.stdin.flush()
