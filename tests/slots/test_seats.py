"""A seat that a host has once: who has it, who sees that, and what is left of it when a process ends."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.pools import unique, until
from tests.slots.sitters import ended, host, sitter
from wd_di._slots import seats

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wd_di._slots.seats import Host

KINDS = ["files", *(["sockets"] if sys.platform == "linux" else [])]

pytestmark = pytest.mark.skipif(not seats.HAVE_LOCKS, reason="needs locks")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """How this test's host keeps its seats."""
    return str(request.param)


@pytest.fixture
def here(kind: str, tmp_path: Path) -> Iterator[Host]:
    """The host, as this process sees it; what it leaves open is closed."""
    before = set(seats._open)
    yield host(kind, tmp_path / "seats")
    for each in seats._open - before:
        each.give_up()


@pytest.fixture
def name() -> str:
    """A seat that no other test has."""
    return unique("seat")


# -- who has it ------------------------------------------------------------------------------------


def test_a_seat_is_had_once(here: Host, name: str) -> None:
    """Who comes second gets none, and gets it when the first one has left; twice to leave is harmless."""
    seat = here.take(name)

    assert seat is not None
    assert here.take(name) is None
    assert here.take(f"{name}-other") is not None
    seat.close()
    seat.close()
    assert here.take(name) is not None


def test_of_many_one_gets_it(here: Host, name: str) -> None:
    """Of threads that come at the same moment one sits down."""
    barrier = threading.Barrier(8, timeout=10)
    got: list[seats.Seat | None] = []

    def take() -> None:
        barrier.wait()
        got.append(here.take(name))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert 8 == len(got)
    assert 7 == got.count(None)


def test_nobody_sits_there(here: Host, name: str) -> None:
    """An empty seat has no occupant, before and after somebody had it; so has one of a host that nobody was at."""
    assert here.occupant(name) is None
    seat = here.take(name)
    assert seat is not None
    seat.close()
    assert here.occupant(name) is None


def test_others_see_who_sits_there(kind: str, tmp_path: Path, here: Host, name: str) -> None:
    """The occupant has a process, the time of its start and the program's name; it is asked again and again."""
    started = time.time()
    with sitter(kind, tmp_path / "seats", name) as other:
        found = here.occupant(name)

        assert other.sits
        assert found is not None
        assert other.pid == found.pid
        assert found.since is not None
        assert abs(found.since - started) < 30
        assert "python" in found.program or "sitters" in found.program
        again = here.occupant(name)
        assert again is not None
        assert found.pid == again.pid
        assert other.do("look").startswith(f"Occupant(pid={other.pid}, ")
        other.do("leave")
        assert here.occupant(name) is None


def test_two_see_one_another(kind: str, tmp_path: Path, here: Host, name: str) -> None:
    """A question is answered while its asker has a seat of its own, and also when the asker forgot that it asked."""
    with sitter(kind, tmp_path / "seats", name) as other, sitter(kind, tmp_path / "seats", f"{name}-2") as another:
        for sits in (other, another) * 2:
            found = here.occupant(name if sits is other else f"{name}-2")
            assert found is not None
            assert sits.pid == found.pid
            here.forget(name)


# -- whatever ends, and however --------------------------------------------------------------------


def test_a_killed_process_leaves_none(kind: str, tmp_path: Path, here: Host, name: str) -> None:
    """The seat of a process that is killed is free at once, whoever has seen it there."""
    with sitter(kind, tmp_path / "seats", name) as other:
        assert here.occupant(name) is not None
        other.kill()

        assert here.occupant(name) is None
        assert here.take(name) is not None


def test_a_stopped_process_keeps_it(kind: str, tmp_path: Path, here: Host, name: str) -> None:
    """A process that can't answer is seen all the same, and nobody waits for it."""
    with sitter(kind, tmp_path / "seats", name) as other:
        other.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        found = here.occupant(name)

        assert found is not None
        assert other.pid == found.pid
        assert here.take(name) is None
        assert time.monotonic() - started < 1


def test_a_forked_child_inherits_none(kind: str, tmp_path: Path, here: Host, name: str) -> None:
    """A child ends nothing of its parent's, and one that outlives its parent keeps nothing of it."""
    with sitter(kind, tmp_path / "seats", name) as other, ended(int(other.do("fork"))) as child:
        found = here.occupant(name)
        assert found is not None
        assert other.pid == found.pid
        other.kill()

        assert until(lambda: here.take(name)) is not None
        os.kill(child, 0)  # it lives


def test_a_childs_end_leaves_its_parent_alone(here: Host, name: str) -> None:
    """What a child closes, and that it ends, changes nothing for its parent."""
    seat = here.take(name)
    assert seat is not None
    child = os.fork()
    if child == 0:
        seat.close()
        os._exit(0 if here.take(name) is None else 1)

    assert 0 == os.waitpid(child, 0)[1]
    assert here.take(name) is None
    seat.close()
    assert here.take(name) is not None


def test_a_program_that_is_started_inherits_none(kind: str, tmp_path: Path, here: Host, name: str) -> None:
    """Another program that outlives its parent keeps nothing of it, though all is handed down that can be."""
    with sitter(kind, tmp_path / "seats", name) as other, ended(int(other.do("start"))) as program:
        other.kill()

        assert until(lambda: here.take(name)) is not None
        os.kill(program, 0)


def test_a_child_that_nobody_was_told_of(kind: str, tmp_path: Path, here: Host, name: str) -> None:
    """Where a library forks behind Python's back, the seat of a parent that has ended stays taken, by nobody."""
    with sitter(kind, tmp_path / "seats", name) as other, ended(int(other.do("fork unseen"))):
        assert here.occupant(name) is not None
        other.kill()

        assert here.occupant(name) is None
        assert here.take(name) is None


# -- sockets ---------------------------------------------------------------------------------------


@pytest.mark.skipif("sockets" not in KINDS, reason="needs abstract sockets")
def test_a_full_queue(name: str, tmp_path: Path) -> None:
    """Where too many have asked before, one hears that somebody sits there, but not who."""
    here = host("sockets", tmp_path)
    seat = here.take(name)
    assert seat is not None
    for _ in range(seats.BACKLOG + 1):
        assert os.getpid() == getattr(here.occupant(name), "pid", None)
        here.forget(name)

    assert seats.Occupant(0) == here.occupant(name)
    seat.close()
    assert here.occupant(name) is None


@pytest.mark.skipif("sockets" not in KINDS, reason="needs abstract sockets")
def test_whoever_asks_for_long_keeps_its_place(name: str, tmp_path: Path) -> None:
    """One process may ask as often as it likes."""
    here = host("sockets", tmp_path)
    seat = here.take(name)
    assert seat is not None
    found = [here.occupant(name) for _ in range(2 * seats.BACKLOG)]
    here.forget(name)
    seat.close()

    assert {os.getpid()} == {each and each.pid for each in found}


# -- files -----------------------------------------------------------------------------------------


def test_another_user_can_have_the_next_turn(tmp_path: Path, name: str) -> None:
    """Folder and files are everybody's, whatever the umask; and only the owner can remove a file."""
    here = host("files", tmp_path / "seats")
    before = os.umask(0o077)
    try:
        seat = here.take(name)
    finally:
        os.umask(before)

    assert seat is not None
    assert 0o1777 == stat.S_IMODE((tmp_path / "seats").stat().st_mode)
    assert 0o666 == stat.S_IMODE((tmp_path / "seats" / name).stat().st_mode)
    seat.close()
    assert [] == list((tmp_path / "seats").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_another_user_sees_it(tmp_path: Path, name: str) -> None:
    """A process of another user sees who sits there, and has the seat when that one was killed."""
    folder = tmp_path / "seats"
    for each in (tmp_path, *list(tmp_path.parents)[:-2]):
        each.chmod(each.stat().st_mode | 0o011)

    def as_nobody() -> int:
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            here = host("files", folder)
            found = here.occupant(name)
            os._exit((1 if found is not None and found.pid == os.getppid() else 0) + (2 if here.take(name) else 0))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    seat = host("files", folder).take(name)
    assert seat is not None
    assert 1 == as_nobody()
    seat.give_up()
    assert (folder / name).exists()
    assert 2 == as_nobody()


@pytest.mark.parametrize("trap", ["symlink", "dangling", "hard link", "pipe", "folder"])
def test_a_trap_is_left_alone(tmp_path: Path, name: str, trap: str) -> None:
    """What somebody has put in a file's place isn't followed, written to or waited for; there is no seat then."""
    folder, treasure = tmp_path / "seats", tmp_path / "treasure"
    here = host("files", folder)
    warm_up = here.take(f"{name}-0")
    assert warm_up is not None
    treasure.write_text("mine")
    if trap == "symlink":
        (folder / name).symlink_to(treasure)
    elif trap == "dangling":
        (folder / name).symlink_to(tmp_path / "nothing")
    elif trap == "hard link":
        (folder / name).hardlink_to(treasure)
    elif trap == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).mkdir()

    assert here.take(name) is None
    assert here.occupant(name) is None
    assert "mine" == treasure.read_text()
    assert not (tmp_path / "nothing").exists()
    warm_up.close()


def test_a_folder_that_is_a_trap(tmp_path: Path, name: str) -> None:
    """A link in the folder's place isn't followed either."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "seats").symlink_to(tmp_path / "elsewhere")
    here = host("files", tmp_path / "seats")

    assert here.take(name) is None
    assert here.occupant(name) is None
    assert [] == list((tmp_path / "elsewhere").iterdir())


def test_a_file_that_is_removed_while_it_is_locked(tmp_path: Path, name: str) -> None:
    """Whoever tidies up takes the seat from its owner, and the owner removes nothing of its successor's."""
    here = host("files", tmp_path / "seats")
    first = here.take(name)
    assert first is not None
    (tmp_path / "seats" / name).unlink()
    second = here.take(name)
    assert second is not None
    first.close()

    assert here.take(name) is None
    second.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", seats.Occupant(0)),
        (f"{os.getpid()}", seats.Occupant(os.getpid())),
        (f"{os.getpid()} 12.5 a\x1b[2Jb c\n", seats.Occupant(os.getpid(), 12.5, "a?[2Jb c")),
        ("x y z", seats.Occupant(0)),
    ],
    ids=["nothing yet", "half of it", "control characters", "nonsense"],
)
def test_what_a_file_says(tmp_path: Path, name: str, text: str, expected: object) -> None:
    """What can't be read is left out, and nothing reaches a log that could harm whoever reads it."""
    here = host("files", tmp_path / "seats")
    seat = here.take(name)
    assert seat is not None
    (tmp_path / "seats" / name).write_text(text)

    assert expected == here.occupant(name)
    seat.close()


def test_a_line_that_is_being_written(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks between the lock and the line, as two do that start together, waits for it, and sees who is there."""
    here = host("files", tmp_path / "seats")
    seat = here.take(name)
    assert seat is not None
    file = tmp_path / "seats" / name
    line = file.read_text()
    file.write_text("")
    monkeypatch.setattr(seats.time, "sleep", lambda _: file.write_text(line))
    seen = here.occupant(name)

    assert seen is not None
    assert os.getpid() == seen.pid
    seat.close()


def test_without_locks(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a system has none of it, there are no seats and no rivals."""
    monkeypatch.setattr(seats, "HAVE_LOCKS", False)
    here = host("files", tmp_path / "seats")

    assert here.take(name) is None
    assert here.occupant(name) is None
    assert not (tmp_path / "seats").exists()
