"""librdkafka's own thread has no time while a commit is asked for, as on a machine with too much to do."""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.kafka.readers import values
from tests.kafka.starved import TIMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wd_di.testing import Cluster

STARVED_S = 0.5
MOMENT_S = 0.01

_ATTACH, _DETACH, _ANY_THREAD = 16, 17, 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def stopped(thread: int) -> Iterator[None]:
    """Stop one thread of a child process, and no other, by attaching to it as a debugger does."""
    _ptrace(_ATTACH, thread)
    try:
        os.waitpid(thread, _ANY_THREAD)
        yield
    finally:
        _ptrace(_DETACH, thread)


def _ptrace(request: int, thread: int) -> None:
    if _libc.ptrace(request, thread, None, None):
        raise OSError(ctypes.get_errno(), f"ptrace({request}, {thread})")


@pytest.mark.parametrize("moments", [1, 3])
def test_a_commit_while_librdkafka_has_no_time(local_kafka: Cluster, topic: str, moments: int) -> None:
    """It is late, and no more. If it were asked for again meanwhile, librdkafka would end the process."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.kafka.starved", local_kafka.bootstrap_servers, topic],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        lines = iter(child.stdout.readline, "")
        said = ""
        for said in lines:
            if said[0].isdigit():
                with stopped(int(said)):
                    print(file=child.stdin, flush=True)
                    select.select([child.stdout], [], [], STARVED_S)  # until it asks again, if it does
                    time.sleep(moments * MOMENT_S)  # so far a second call would get, if there were one

    assert (0, "committed\n") == (child.returncode, said)
    assert [str(number) for number in range(TIMES)] == values(local_kafka.bootstrap_servers, topic)
