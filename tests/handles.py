"""Which of librdkafka's producers and threads live in this process."""

from __future__ import annotations

import gc
import pathlib
import threading

from confluent_kafka import cimpl

TASKS = pathlib.Path("/proc/self/task")


def handles() -> set[int]:
    """The addresses of all producers that are reachable, be it from a cycle only."""
    return {id(each) for each in gc.get_objects() if isinstance(each, cimpl.Producer)}


def threads() -> int:
    """How many threads librdkafka has, whose names begin alike; where the system doesn't tell, how many Python has."""
    if not TASKS.exists():
        return threading.active_count()
    return sum(name.startswith("rdk:") for name in map(_name, TASKS.iterdir()))


def _name(task: pathlib.Path) -> str:
    try:
        return (task / "comm").read_text()
    except OSError:  # it has ended
        return ""
