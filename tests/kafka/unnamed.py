"""A program whose name server never answers: ``python -m tests.kafka.unnamed``; says how long each call took."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
import tempfile
import warnings
from pathlib import Path

MS = 500
NAMESPACES = 0x10000000 | 0x00020000 | 0x40000000  # of users, mounts and networks
PRIVATE = 0x4000 | 0x40000
BIND = 0x1000
SET_FLAGS = 0x8914
UP = 1
NOT_PERMITTED = 77
SLOW_S = 8
"""Seconds that a look-up takes, in which nothing interrupts it."""


def without_names() -> socket.socket:
    """Move into namespaces of our own, where the only name server is a socket that is never read."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NAMESPACES):
        sys.exit(NOT_PERMITTED)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path("/proc/self", name).write_text(text, encoding="ascii")
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(server, SET_FLAGS, struct.pack("16sh", b"lo", UP))
    with tempfile.NamedTemporaryFile("w") as settings:
        settings.write(f"nameserver 127.0.0.1\noptions timeout:{SLOW_S} attempts:1\n")
        settings.flush()
        if libc.mount(b"none", b"/", None, PRIVATE, None) or libc.mount(
            settings.name.encode(), b"/etc/resolv.conf", None, BIND, None
        ):
            sys.exit(NOT_PERMITTED)
    server.bind(("127.0.0.1", 53))
    return server


def main() -> None:
    """Make the calls of a table that need no broker."""
    server = without_names()
    from tests.kafka.calls import TABLE  # noqa: PLC0415  (librdkafka's threads come after the namespaces)
    from tests.kafka.stage import Show, Stage  # noqa: PLC0415

    warnings.simplefilter("ignore")
    cases = [TABLE[name] for name in UNCONNECTED]
    with Stage("kafka.test:9092", "topic", MS) as stage:
        show = Show(stage, lambda: None)
        show.play(cases)
    flaws = [f"{name}: {step.flaw}" for name, steps in show.came.items() for step in steps if step.flaw]
    sys.stdout.write("".join(f"{flaw}\n" for flaw in flaws) + f"{sum(map(len, show.came.values()))} steps\n")
    sys.stdout.flush()
    server.close()


UNCONNECTED = (
    "open_transactional",
    "open_plain",
    "enter_a_pool",
    "aopen_transactional",
    "aopen_plain",
    "close_while_producers_are_made",
    "check_out_unconnected",
    "check_out_unconnected_plain",
    "acheck_out_unconnected",
    "acheck_out_unconnected_plain",
    "begin_unconnected",
    "abegin_unconnected",
    "use_unconnected",
    "ause_unconnected",
    "enter_running",
    "the_global_pool",
)
"""Cases that need no broker to get ready."""

if __name__ == "__main__":
    main()
