from __future__ import annotations

import logging
import threading
import time
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import ThrottleEvent
from pydantic import SecretStr

from tests import internals
from tests.connections import connected
from tests.pools import plain
from tests.scripted import in_thread, outcome
from wd_di import PoolOpenError, PoolTimeoutError
from wd_di._errorlog import ErrorLog
from wd_di._kafka import callbacks
from wd_di._kafka.callbacks import LaterLogger, TokenSource
from wd_di._kafka.librdkafka import KafkaClient
from wd_di._kafka.port import Fault, FaultKind
from wd_di.testing import MockKafka

SECRET = "s3cr3t-value"  # noqa: S105  (what must not be seen)
OAUTH = {
    "bootstrap.servers": "127.0.0.1:1",
    "log_level": 0,
    "security.protocol": "sasl_plaintext",
    "sasl.mechanism": "OAUTHBEARER",
}
PATIENCE = 10.0


@pytest.fixture(autouse=True)
def _told_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is left out because an earlier test has logged the same."""
    monkeypatch.setattr(callbacks, "log_error", ErrorLog().write)


def connect(config: dict[str, Any], **options: Any) -> KafkaClient:
    """A client that nobody else knows."""
    client: KafkaClient = connected(lambda answers: KafkaClient(config, None, answers, **options))
    return client


def fresh(_: object) -> tuple[str, float]:
    """A token for a while."""
    return "token", time.time() + 300


# -- oauth_cb ----------------------------------------------------------------------------------------


def _raises(_: object) -> tuple[str, float]:
    raise ConnectionError("no way to the token service")


def _exits(_: object) -> tuple[str, float]:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("oauth_cb", "text"),
    [
        (_raises, "oauth_cb failed: ConnectionError: no way to the token service"),
        (_exits, "oauth_cb failed: SystemExit: 3"),
        (lambda: None, "oauth_cb failed: TypeError: .*takes 0 positional arguments"),
        (lambda _: "token", r"oauth_cb failed: TypeError: oauth_cb returns \(token, expiry\) or .*, not str"),
        (lambda _: None, "not NoneType"),
        (lambda _: ("token",), "not tuple"),
        (lambda _: (b"token", 9e9), "among these is a bytes"),
        (lambda _: ("token", "9e9"), "among these is a str"),
        (lambda _: ("token", 9e9, None), "among these is a NoneType"),
        (lambda _: ("token", 9e9, "me", {"a": 1}), "are text"),
        (lambda _: ("to\0ken", 9e9), "are text"),
        (lambda _: ("to\udce9ken", 9e9), "are text"),
        (lambda _: ("token", 300), r"expiry must lie in the future, in seconds since 1970: time\.time\(\) \+ 300"),
    ],
)
def test_without_a_token_there_is_no_client(oauth_cb: Any, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """What oauth_cb raises, or returns in its place, is told at once and logged; confluent-kafka drops it."""
    started = time.monotonic()
    with pytest.raises(Fault, match=text) as caught:
        connect({**OAUTH, "oauth_cb": oauth_cb})

    assert caught.value.kind is FaultKind.DENIED
    assert time.monotonic() - started < 5
    assert ["oauth_cb failed"] == [message.split(":")[0] for message in caplog.messages]


def test_a_failing_oauth_cb_hides_secrets() -> None:
    """A secret among the settings isn't shown by the failure of the callback that was given it."""

    def tell(config: object) -> Any:
        raise ValueError(f"bad config {config}")

    with pytest.raises(Fault, match=r"oauth_cb failed: ValueError: bad config \*\*\*"):
        connect({**OAUTH, "oauth_cb": tell, "sasl.oauthbearer.config": SecretStr(SECRET)})


def test_an_oauth_cb_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback that doesn't answer in time is told so."""
    monkeypatch.setattr(callbacks, "TOKEN_PATIENCE", 0.05)
    answer = threading.Event()
    with pytest.raises(Fault, match=r"oauth_cb hasn't answered within 0\.05 s"):
        connect({**OAUTH, "oauth_cb": lambda _: fresh(answer.wait(PATIENCE))})
    answer.set()


@pytest.mark.parametrize("wrong", [{"sasl.mechanism": "PLAIN"}, {"security.protocol": "ssl"}, {"sasl.mechanism": None}])
def test_an_oauth_cb_that_nobody_would_ask(wrong: dict[str, Any]) -> None:
    """Without the mechanism that asks for tokens the error says what is missing."""
    with pytest.raises(Fault, match=r"oauth_cb would never be asked: set sasl\.mechanism=OAUTHBEARER"):
        connect({**OAUTH, "oauth_cb": fresh, **wrong})


def test_the_first_token_is_asked_for_once() -> None:
    """The token that was asked for in advance is what librdkafka gets; the callback sees the settings' text."""
    asked: list[object] = []

    def note(config: object) -> tuple[str, float]:
        asked.append(config)
        return fresh(config)

    client = connect({**OAUTH, "oauth_cb": note, "sasl.oauthbearer.config": SecretStr("principal=me")})
    client.close()

    assert ["principal=me"] == asked


def test_a_token_that_cannot_be_renewed_costs_no_client() -> None:
    """While the token at hand is good, a failed renewal is an error that names oauth_cb, and the client lives on."""
    asked, told = [0], []

    def once(_: object) -> tuple[str, float]:
        asked[0] += 1
        if asked[0] > 1:
            raise ConnectionError("token service is down")
        return "token", time.time() + 2

    client = connect({**OAUTH, "oauth_cb": once}, trouble=told.append)
    until = time.monotonic() + PATIENCE
    while not any("oauth_cb" in str(each) for each in told) and time.monotonic() < until:
        client.poll(0.1)
    client.close()

    assert "oauth_cb failed: ConnectionError: token service is down" in map(str, told)
    assert client.fault is None


def test_a_pool_says_that_oauth_cb_failed() -> None:
    """Opening a pool fails at once with what the callback raised."""
    pool = plain("127.0.0.1:1", size=1, kafka={**OAUTH, "oauth_cb": _raises})

    with pytest.raises(PoolOpenError, match="oauth_cb failed: ConnectionError: no way to the token service"):
        pool.open()


def test_a_token_source_is_asked_again() -> None:
    """A renewal that works again ends the failure."""
    answers = [fresh(None), None, fresh(None)]
    source = TokenSource({**OAUTH, "oauth_cb": lambda _: answers.pop(0)})
    source(None)
    with pytest.raises(TypeError):
        source(None)
    failed = source.failure
    source(None)

    assert (True, None) == (failed is not None, source.failure)


# -- throttle_cb and logger --------------------------------------------------------------------------


def _given(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[KafkaClient, dict[str, Any]]:
    """Return a client and what it gave to confluent-kafka."""
    given: dict[str, Any] = {}
    real = confluent_kafka.Producer

    def note(settings: dict[str, Any]) -> Any:
        given.update(settings)
        return real(settings)

    with monkeypatch.context() as patch:
        patch.setattr(confluent_kafka, "Producer", note)
        return connect(config), given


def test_throttle_cb_is_called_by_the_poller(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Throttling is told by the call that serves callbacks, and an exception of it is logged, never raised there."""
    told: list[Any] = []

    def note(event: Any) -> None:
        told.append(event)
        raise KeyError("mine")

    with MockKafka() as kafka:
        client, given = _given({"bootstrap.servers": kafka.bootstrap_servers, "throttle_cb": note}, monkeypatch)
        event = ThrottleEvent("broker", 1, 0.5)
        given["throttle_cb"](event)
        before = list(told)
        client.poll(0)
        client.close()

    assert ([], [event]) == (before, told)
    assert any("throttle_cb failed" in message for message in caplog.messages)


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, KeyboardInterrupt])
def test_a_callback_that_exits_on_a_thread_of_ours(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """What a callback raises there is its own, whatever it is: it is logged, and the next one is called."""
    told: list[Any] = []

    def fail(event: Any) -> None:
        told.append(event)
        raise error

    client = connect({"bootstrap.servers": "127.0.0.1:1", "log_level": 0, "throttle_cb": fail})
    client._throttles.extend([1, 2])
    raised = in_thread(lambda: client.poll(0))
    client.close()

    assert (None, [1, 2]) == (raised, told)
    assert any(f"throttle_cb failed: {error()!r}" in message for message in caplog.messages)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_a_signals_handler_raises_in_a_callback_passes(error: type[BaseException]) -> None:
    """On the main thread it is nobody's own, and comes out of the call that has served the callback."""

    def interrupt(_: object) -> None:
        raise error

    client = connect({"bootstrap.servers": "127.0.0.1:1", "log_level": 0, "throttle_cb": interrupt})
    client._throttles.append(1)
    with pytest.raises(error):
        client.poll(0)
    client.close()


def test_what_a_signals_handler_raises_in_a_logger_passes() -> None:
    """It comes out when the call is over; the lines that are left are written by the next one."""
    lines = _Lines(SystemExit(143))
    client = connect({"bootstrap.servers": "127.0.0.1:1", "log_level": 0, "logger": lines})
    client._log.lines.extend([(6, "first"), (6, "second")])
    raised = [outcome(lambda: client.poll(0)) for _ in range(2)]
    client.close()

    assert ["first", "second"] == lines.lines
    assert ["143", "143"] == [str(error) for error in raised if isinstance(error, SystemExit)]


def test_a_client_class_that_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What replaces the class of clients, and raises something else than an Exception, costs no slot."""

    def leave(*_: object) -> None:
        raise SystemExit(3)

    pool = plain("127.0.0.1:1", size=1)
    with monkeypatch.context() as patch:
        patch.setattr(confluent_kafka, "Producer", leave)
        with pytest.raises(PoolTimeoutError, match="producer 0: 3"):
            pool.producer(timeout_ms=300).__enter__()
    assert 0 == pool.stats().creating
    pool.close()


class _Lines:
    """The least that confluent-kafka wants of a logger."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.lines: list[str] = []
        self._error = error

    def log(self, _: int, message: str, *args: object) -> None:
        """Keep one line, or fail."""
        self.lines.append(message % args)
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("error", [None, ValueError("mine"), SystemExit(3), GeneratorExit("mine")])
def test_a_logger_is_used_and_can_do_no_harm(error: BaseException | None, caplog: pytest.LogCaptureFixture) -> None:
    """The given logger gets librdkafka's lines; what that raises on a thread of the pool's is logged, and ends none."""
    lines = _Lines(error)
    client = connect({"bootstrap.servers": "127.0.0.1:1", "logger": lines})

    def serve() -> None:
        until = time.monotonic() + PATIENCE
        while not lines.lines and time.monotonic() < until:
            client.poll(0.1)
        client.close()

    assert in_thread(serve) is None
    assert any("Connection refused" in line for line in lines.lines)
    assert (error is not None) == any("logger failed" in message for message in caplog.messages)


def test_lines_are_logged_when_the_call_is_over() -> None:
    """No handler runs inside of a call, which it would keep waiting, and what it causes is logged by the next one."""
    seen: list[bool] = []

    class Inside:
        def log(self, *_: object) -> None:
            seen.append(bool(client._calls._inside))
            client._log.log(20, "from a handler")
            client._log.write()

    client = connect({"bootstrap.servers": "127.0.0.1:1", "logger": Inside()})
    until = time.monotonic() + PATIENCE
    while not seen and time.monotonic() < until:
        client.poll(0.1)
    came = len(seen)
    client.close()

    assert not any(seen)
    assert came <= 5  # one line after its cause, and not one within the other


def test_lines_that_another_thread_logs() -> None:
    """Two threads that log the same client's lines leave out none, and log none twice."""
    logged: list[object] = []

    class Slow:
        def log(self, number: int, *_: object) -> None:
            if number == 0:
                in_thread(later.write)
            logged.append(number)

    later = LaterLogger(Slow())
    for number in range(5):
        later.log(number, "line")
    later.write()

    assert [1, 2, 3, 4, 0] == logged


def test_a_pool_takes_a_logger(caplog: pytest.LogCaptureFixture) -> None:
    """A logger among the settings survives the planning, also one that logging doesn't know."""
    logger = logging.Logger("unregistered")  # noqa: LOG001  (that's the point)
    with plain("127.0.0.1:1", kafka={"logger": logger}, open_policy="background") as pool:
        assert internals.plan(pool).slots[0].kafka["logger"] is logger
