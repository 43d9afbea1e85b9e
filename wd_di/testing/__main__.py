"""How to have a Kafka beside a terminal: ``python -m wd_di.testing`` runs one until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from typing import TYPE_CHECKING

from wd_di.errors import WdDiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import NoReturn

    from wd_di.testing._broker import Broker
    from wd_di.testing._local import LocalKafka
    from wd_di.testing._mock import MockKafka

# The rest of wd_di is imported where it is used: when signals are listened to already.

STOPPED, FAILED, BY_SIGNAL = 0, 1, 128
_LOOK_S = 0.2
_asked: list[int] = []


class _AskedToStop(BaseException):
    """Ctrl-C or SIGTERM: nothing failed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a Kafka until somebody asks for its end.

    Returns:
        0 when it was up and was asked to stop; 1 when it couldn't start, or a broker ended by itself; 128 and the
        signal's number when it was asked to stop before it was up. Wrong arguments exit with 2.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # a script's job in the background ignores Ctrl-C
            signal.signal(number, _ask)
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.mock and (options.port is not None or options.log or options.security):
        parser.error(
            "the mock takes neither --port nor --log nor --security: librdkafka chooses its ports, and it has no more"
        )
    try:
        (_run_mock if options.mock else _run_local)(options)
    except _AskedToStop:
        return BY_SIGNAL + _asked[0]
    except WdDiError as error:
        _say(f"Failed: {error}")
        return FAILED
    _say("Stopped.")
    return STOPPED


def _ask(number: int, _frame: object) -> NoReturn:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # cleaning up has its deadlines, and nobody shall leave it half done
    _asked.append(number)
    raise _AskedToStop


def _run_mock(options: argparse.Namespace) -> None:
    from wd_di.testing._mock import MockKafka

    with MockKafka(options.brokers) as kafka:
        _wait("librdkafka's mock of Kafka", kafka)


def _run_local(options: argparse.Namespace) -> None:
    from wd_di.testing._jars import KAFKA_VERSION
    from wd_di.testing._local import LocalKafka

    try:
        kafka = LocalKafka(options.brokers, port=options.port, security=options.security)
    except ValueError as error:
        _parser().error(str(error))
    _say(f"Starting Apache Kafka {KAFKA_VERSION} ...")
    try:
        logs = [_Log(broker) for broker in kafka.start().brokers]

        def look() -> None:
            for log in logs:
                log.look(show=options.log)

        notes = [f"The log: tail -f {log.broker.log}" for log in logs]
        _wait(f"Apache Kafka {KAFKA_VERSION}", kafka, look, [*(_secured(kafka) if options.security else ()), *notes])
    finally:
        kafka.stop()


def _secured(kafka: LocalKafka) -> Iterator[str]:
    """Say how to connect in any other way than without security."""
    from wd_di.testing._security import SECURED

    for protocol in SECURED:
        told = kafka.client_config(protocol)
        yield "\n".join([f"By {protocol}:\n", *(f"    {key}={value}" for key, value in told.items()), ""])


def _wait(
    name: str, kafka: LocalKafka | MockKafka, look: Callable[[], None] = lambda: None, notes: Sequence[str] = ()
) -> None:
    """Say where it is, and return when somebody asks for its end."""
    servers = kafka.bootstrap_servers
    addresses = f"    bootstrap.servers={servers}\n    export KAFKA_BOOTSTRAP_SERVERS={servers}"
    try:
        print("\n".join([f"{name} is up, until Ctrl-C:\n\n{addresses}\n", *notes]), flush=True)
        while not _asked:  # what a handler raises in a finalizer is lost
            look()
            time.sleep(_LOOK_S)
    except _AskedToStop:
        pass


class _Log:
    """A broker's log, as far as it has been shown."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._shown = 0

    def look(self, *, show: bool) -> None:
        """Show its new lines, and fail if the broker has ended."""
        from wd_di.testing._errors import ClusterError

        if show:
            with self.broker.log.open("rb") as file:
                file.seek(self._shown)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self._shown += len(new)
            for line in new.decode(errors="replace").splitlines():
                print(f"{self.broker.id}: {line}", file=sys.stderr)
        if not self.broker.running:
            raise ClusterError(f"broker {self.broker.id} has ended. Its log ends:\n{self.broker.log_tail()}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wd_di.testing", description="Run a Kafka on this machine until Ctrl-C; its data goes with it."
    )
    parser.add_argument("--port", type=int, help="the first broker's; the others have the next (default: free ones)")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1, help="how many (default: 1)")
    parser.add_argument("--mock", action="store_true", help="librdkafka's mock instead: at once, and without the extra")
    parser.add_argument("--security", action="store_true", help="TLS and SASL besides, on ports of their own")
    parser.add_argument("--log", action="store_true", help="show the brokers' log, from its beginning")
    return parser


if __name__ == "__main__":
    sys.exit(main())
