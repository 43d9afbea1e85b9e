"""How a process takes a seat of which its host has one, and how others see who sits there.

A seat is a socket in Linux's abstract namespace, and elsewhere a locked file. Either way the kernel frees it when its
process ends, however it ends; and nobody is asked who may be stopped or hang.
"""

from __future__ import annotations

import _socket  # gevent's sockets, which take the other module's place, want a hub in each thread
import os
import socket
import stat
import struct
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from wd_di._concurrency.deadline import Deadline
from wd_di._forks import hold_over_forks, renew_in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

try:
    import fcntl
except ImportError:  # then there are no seats
    HAVE_LOCKS = False
else:
    HAVE_LOCKS = True
    CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a link in the folder, or a pipe, is somebody's trap
    FREE_FOR_ME, FREE_TO_LOOK = fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_SH | fcntl.LOCK_NB

BACKLOG = 128
"""Processes that may have asked and ended; a further one is told that somebody sits there, and not who."""
CREDENTIALS = struct.Struct("3i")
"""What the kernel says of a peer: process, user and group."""
FOLDER = Path("/tmp/wd_di-seats")  # noqa: S108  (not one of the user's own: other users' processes are on this host, too)
TRIES = 3
"""How often a file is opened anew that its last owner removed at the same moment."""
LINE_MAX = 200
WRITING = 0.1
"""Seconds for which a line that isn't whole is read again: its owner has just locked the file, and may write it yet."""


@dataclass(frozen=True, slots=True)
class Occupant:
    """Who sits there.

    Attributes:
        pid: Its process; 0 if that can't be told, as of one in another container with the same network.
        since: When it was started, in seconds since the epoch.
        program: What it runs, without arguments.
    """

    pid: int
    since: float | None = None
    program: str = ""


class Closable(Protocol):
    """What is open."""

    def close(self) -> None: ...


class Seat:
    """What this process has open: a seat of its own, or a look at another one's. A forked child gives up its copy."""

    def __init__(self, inner: Closable, leave: Callable[[], object] | None = None) -> None:
        self._inner = inner
        self._leave = leave
        _open.add(self)

    def close(self) -> None:
        """Let others have it; harmless a second time, and in a child of the process that took it."""
        with _lock:
            if self in _open:
                if self._leave is not None:
                    self._leave()
                self.give_up()

    def give_up(self) -> None:
        """Close what is open, and do no more: a parent has it open, too, and keeps its seat."""
        _open.discard(self)
        with suppress(OSError):
            self._inner.close()


class Host(Protocol):
    """The seats of this host; their names are letters, digits and dashes."""

    def take(self, name: str) -> Seat | None:
        """Take the seat; ``None`` if somebody has it, or if there is none to be had."""

    def occupant(self, name: str) -> Occupant | None:
        """Return who sits there, this process included; ``None`` if nobody does who lives."""

    def forget(self, name: str) -> None:
        """Nobody here will ask for it in a while."""


_open: set[Seat] = set()
_lock = threading.RLock()
hold_over_forks(_lock)  # a child has to know of all that is open. Nothing is logged under it: that has a lock, too


# -- Linux -----------------------------------------------------------------------------------------


class Sockets:
    """Names in the abstract namespace: they need no folder and no rights, and each network has its own.

    Who connects is told by the kernel who listens, and nobody has to accept it. The connection is kept: a question
    that is asked every few seconds, for days, must not fill the other's queue.
    """

    def __init__(self) -> None:
        self._asked: dict[str, tuple[_socket.socket, Seat]] = {}

    def take(self, name: str) -> Seat | None:
        """Listen under this name."""
        with _lock:
            listener = _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listener.bind(_abstract(name))
                listener.listen(BACKLOG)
            except OSError:
                listener.close()
                return None
            return Seat(listener)

    def occupant(self, name: str) -> Occupant | None:
        """Ask the kernel who listens there."""
        with _lock:
            if name in self._asked and _hung_up(self._asked[name][0]):
                self.forget(name)
            if name not in self._asked:
                try:
                    self._asked[name] = _connected(name)
                except BlockingIOError:  # the queue is full
                    return Occupant(0)
                except OSError:
                    return None
            told = self._asked[name][0].getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        pid: int = CREDENTIALS.unpack(told)[0]
        return _running(pid) if pid else Occupant(0)

    def forget(self, name: str) -> None:
        """Hang up."""
        with _lock:
            if name in self._asked:
                self._asked.pop(name)[1].close()


def _abstract(name: str) -> str:
    return f"\0wd_di/{name}"


def _connected(name: str) -> tuple[_socket.socket, Seat]:
    asking = _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        asking.setblocking(False)
        asking.connect(_abstract(name))
    except OSError:
        asking.close()
        raise
    return asking, Seat(asking)


def _hung_up(asked: _socket.socket) -> bool:
    try:
        return not asked.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _running(pid: int) -> Occupant | None:
    """Return what is known of the process; ``None`` if it has ended, and a child of it still has its socket."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:  # it has ended, or is hidden from other users
        return Occupant(pid) if _lives(pid) else None
    program, _, numbers = line.partition("(")[2].rpartition(") ")
    state, *others = numbers.split()
    if state in "ZX":
        return None
    since_boot = int(others[18]) / os.sysconf("SC_CLK_TCK")
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return Occupant(pid, boot + since_boot, _printable(program))


# -- elsewhere -------------------------------------------------------------------------------------


class Files:
    """Locked files that say in a line who has them.

    Whoever comes next may be another user, so everybody may lock and write each of them. Hence no link is followed,
    and nothing is written but into a plain file that has no other name.

    Args:
        folder: Where they are. It is made such that nobody can remove another's.
    """

    since: ClassVar[float] = time.time()
    """When this process began, as nearly as can be told everywhere."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder

    def take(self, name: str) -> Seat | None:
        """Lock the file, and write into it who has it."""
        with _lock, suppress(OSError), self._entered() as folder:
            for _ in range(TRIES):
                with ExitStack() as opened:
                    file = opened.enter_context(_to_write(name, folder))
                    if not _locked(file, FREE_FOR_ME):
                        return None
                    if _is_still(file, name, folder):
                        file.truncate(0)
                        file.write(f"{os.getpid()} {self.since:.3f} {_program()}\n".encode())
                        opened.pop_all()
                        return Seat(file, leave=partial(self._remove, file, name))
        return None

    def occupant(self, name: str) -> Occupant | None:
        """Look whether the file is locked, and read it."""
        with _lock, suppress(OSError), self._entered() as folder, _to_read(name, folder) as file:
            if not _locked(file, FREE_TO_LOOK):
                return _told(_line(file))
        return None

    def forget(self, name: str) -> None:
        """Nothing is kept."""

    def _remove(self, file: FileIO, name: str) -> None:
        with suppress(OSError), self._entered() as folder:
            if _is_still(file, name, folder):
                os.unlink(name, dir_fd=folder)

    @contextmanager
    def _entered(self) -> Iterator[int]:
        if not HAVE_LOCKS:
            raise OSError("no locks")
        made = False
        with suppress(FileExistsError):
            self._folder.mkdir()
            made = True
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if made:
                os.fchmod(folder, 0o1777)
            yield folder
        finally:
            os.close(folder)


def _to_read(name: str, folder: int) -> FileIO:
    return _plain(os.open(name, os.O_RDONLY | CAREFULLY, dir_fd=folder), "rb")


def _to_write(name: str, folder: int) -> FileIO:
    """Open the file, or make it: not both at once, which Linux refuses of another user's file in such a folder."""
    with suppress(FileNotFoundError):
        return _plain(os.open(name, os.O_RDWR | CAREFULLY, dir_fd=folder), "r+b")
    file = _plain(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | CAREFULLY, dir_fd=folder), "r+b")
    os.fchmod(file.fileno(), 0o666)
    return file


def _plain(number: int, mode: str) -> FileIO:
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(number)
        raise OSError("not a plain file")
    return FileIO(number, mode)


def _locked(file: FileIO, how: int) -> bool:
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    return True


def _is_still(file: FileIO, name: str, folder: int) -> bool:
    """Whether others would find the same file under the name, and not one that was made when this was removed."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(name, dir_fd=folder, follow_symlinks=False))
    return False


def _line(file: FileIO) -> str:
    deadline = Deadline(WRITING)
    while True:
        line = os.pread(file.fileno(), LINE_MAX, 0)
        if line.endswith(b"\n") or len(line) == LINE_MAX or deadline.passed:
            return line.decode(errors="replace")
        time.sleep(WRITING / 20)


def _told(line: str) -> Occupant | None:
    """Return who the file says has it, unless it has ended: then it is a child that has the file open."""
    pid, since, program = (*line.rstrip("\n").split(" ", 2), "", "", "")[:3]
    if not pid.isdigit():  # it is still being written, or never will be
        return Occupant(0)
    if not _lives(int(pid)):
        return None
    with suppress(ValueError):
        return Occupant(int(pid), float(since), _printable(program))
    return Occupant(int(pid))


def _program() -> str:
    return _printable(Path(sys.argv[0]).name if sys.argv else "")


# -- both ------------------------------------------------------------------------------------------


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _printable(text: str) -> str:
    """Return another process's text such that it can stand in a line of a log."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _renew() -> None:
    for seat in tuple(_open):
        seat.give_up()
    Files.since = time.time()


renew_in_child("seats", _renew)

host: Host = Sockets() if sys.platform == "linux" else Files()
"""Where this process takes its seats."""
