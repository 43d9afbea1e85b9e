"""Signals that meet a program at work: what their handlers raise comes out as it is, exit codes included."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from tests.kafka.readers import values
from tests.kafka.signalled import WORK
from tests.programs import PATIENCE_S, ROOT, hear

ROUNDS = 8
CODE = 143


@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.parametrize("case", WORK)
def test_what_a_handler_raises_comes_out(servers: str, topic: str, case: str) -> None:
    """Whenever the signal comes, in a flush, a wait, a commit or an abort; and what it says of an outcome is so."""
    command = [sys.executable, "-W", "error", "-m", "tests.kafka.signalled", servers, topic, case, str(ROUNDS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            notes, told = [], hear(process)
            while " transaction " in told:
                notes.append(told)
                told = hear(process)
            process.send_signal(signal.SIGTERM)
            code = process.wait(PATIENCE_S)
        finally:
            process.kill()

    assert ("done: 0 in use, 0 waiting", CODE) == (told, code)
    assert notes or case not in ("commit", "abort")
    visible = set(values(servers, topic)) if notes else set()
    for note in notes:
        [(transaction, outcome)] = re.findall(r"transaction (\S+) was (\w+)$", note)
        assert {"committed": True, "aborted": False}[outcome] == (transaction in visible), note
