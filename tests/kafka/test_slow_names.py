"""A name server that never answers: nothing ends a look-up of librdkafka's, and no call of ours waits for its end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.kafka.unnamed import NOT_PERMITTED
from tests.programs import PATIENCE_S, ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_every_call_ends_by_its_deadline() -> None:
    """Also the closes, which end handles whose threads can't end yet, and the program itself."""
    command = [sys.executable, "-m", "tests.kafka.unnamed"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode == NOT_PERMITTED:
        pytest.skip("namespaces of our own aren't permitted here")

    assert (0, "26 steps\n") == (done.returncode, done.stdout)
