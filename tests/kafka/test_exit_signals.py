"""Signals that meet a program at work: what their handlers raise comes out as it is, exit codes included."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.kafka.programs import PATIENCE_S, ROOT, hear
from tests.kafka.signalled import WORK

ROUNDS = 8
CODE = 143


@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.parametrize("case", WORK)
def test_what_a_handler_raises_comes_out(servers: str, topic: str, case: str) -> None:
    """Whenever the signal comes, in a flush, a wait, a commit or an abort: with its type and arguments."""
    command = [sys.executable, "-W", "error", "-m", "tests.kafka.signalled", servers, topic, case, str(ROUNDS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            told = hear(process)
            process.send_signal(signal.SIGTERM)
            code = process.wait(PATIENCE_S)
        finally:
            process.kill()

    assert ("done: 0 in use, 0 waiting", CODE) == (told, code)
