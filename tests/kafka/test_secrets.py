"""No password, token or key is shown by anything that a whole run tells: no repr, no line, no event, no error."""

from __future__ import annotations

import base64
import dataclasses
import logging
import time
import traceback
import urllib.parse
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.pools import settings, unique
from wd_di import LoggingObserver, ProduceError, ProducerPool, WdDiError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.issuer import Issuer
    from wd_di.testing import LocalKafka

WRONG = "mallorys-password"
SENSITIVE = (
    "sasl.password",
    "ssl.key.password",
    "ssl.key.pem",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
)
"""Keys whose values are secret."""


class Kafkas(NamedTuple):
    """Where to log in, and who issues tokens for one of them."""

    easy: LocalKafka
    strict: LocalKafka
    issuer: Issuer


@pytest.fixture
def kafkas(secured_kafka: LocalKafka, strict: LocalKafka, issuer: Issuer) -> Kafkas:
    """Those that all tests share."""
    return Kafkas(secured_kafka, strict, issuer)


class Told(logging.Handler):
    """All that was told. As a handler, it keeps every line with its traceback."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter())
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.texts += [self.format(record), repr(vars(record))]

    def note(self, *things: object) -> None:
        """Keep how each of these shows itself; of errors also what a tracker of errors would show."""
        for thing in things:
            self.texts += [repr(thing), str(thing)]
            if isinstance(thing, BaseException):
                self.texts += traceback.format_exception(thing)
                self.note(*_locals(thing), *getattr(thing, "failed", ()))
            elif dataclasses.is_dataclass(thing):
                self.note(*(getattr(thing, field.name) for field in dataclasses.fields(thing)))

    def shows(self, secrets: Iterable[str]) -> list[str]:
        """What shows one of these, as it is or in a form in which it travels."""
        forms = [form for secret in secrets for form in _forms(secret)]
        return [text for text in self.texts if any(form in text for form in forms)]


def _locals(error: BaseException) -> Iterator[object]:
    """Return what stood in the variables of our frames, of this error and of those that it comes from."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).startswith("wd_di"):
            yield from (value for value in frame.f_locals.values() if not isinstance(value, BaseException))
    for other in (error.__cause__, error.__context__):
        if other is not None:
            yield from _locals(other)


def _forms(secret: str) -> Iterator[str]:
    yield from (secret, repr(secret)[1:-1], urllib.parse.quote(secret))
    yield from (base64.b64encode(f"{before}{secret}".encode()).decode().rstrip("=") for before in ("", "alice:"))


@contextmanager
def listening() -> Iterator[Told]:
    """Keep every line of every logger, of whatever level."""
    told, root = Told(), logging.getLogger()
    ours, level = logging.getLogger("wd_di"), root.level
    root.addHandler(told)
    root.setLevel(logging.DEBUG)
    ours.setLevel(logging.DEBUG)
    yield told
    ours.setLevel(logging.NOTSET)
    root.setLevel(level)
    root.removeHandler(told)


def run(config: dict[str, Any], told: Told, kafka: LocalKafka) -> bool:
    """Open a pool, use it in every way, have it fail, and close it; whether it could be opened."""
    topic, forbidden = kafka.create_topic(unique("t")), kafka.create_topic(unique("forbidden"))
    kafka.grant("alice", "Write", topic=topic)
    kafka.grant("alice", "Write", "Describe", transactional_id="wd_di-*")
    observer = LoggingObserver(messages=True, statistics=True)
    observer.subscribe("*", told.note)
    try:
        of_pool = settings("", kafka={"debug": "all", **config}, size=2)
        told.note(of_pool, of_pool.kafka, of_pool.model_dump(), of_pool.model_dump_json(fallback=repr))
        pool = ProducerPool(of_pool, name="orders", observer=observer)
        told.note(pool)
        try:
            pool.open(timeout_ms=10_000)
            use(pool, topic, forbidden, told)
        finally:
            told.note(pool.stats(), pool.close(timeout_ms=5_000))
    except WdDiError as error:
        told.note(error)
        return False
    return True


def use(pool: ProducerPool, topic: str, forbidden: str, told: Told) -> None:
    """Send what arrives and what doesn't, by itself and in transactions."""
    with pool.producer() as producer:
        told.note(producer, producer.produce_sync(topic, "stored"))
    with pool.transaction() as tx:
        told.note(tx, tx.produce_async(topic, "stored"))
    for sent in (lambda tx: tx.produce_sync(forbidden, "lost"), lambda tx: tx.produce_async(forbidden, "lost")):
        with pytest.raises(ProduceError) as raised:
            pool.run(sent)
        told.note(raised.value)
    pool.reload()


def logins(kafkas: Kafkas) -> dict[str, tuple[LocalKafka, dict[str, Any]]]:
    """Ways to be alice, by name, each with whom."""
    easy, strict, issuer = kafkas
    by_ssl = easy.client_config("SSL", user="alice")
    file = by_ssl["ssl.key.location"]
    key, end, certificate = Path(file).read_text().partition("-----END ENCRYPTED PRIVATE KEY-----")
    inline = {name: value for name, value in by_ssl.items() if value != file}
    inline |= {"ssl.key.pem": key + end, "ssl.certificate.pem": certificate}
    bearer = strict.client_config("SASL_PLAINTEXT", mechanism="OAUTHBEARER")
    return {
        "PLAIN": (easy, easy.client_config("SASL_PLAINTEXT", user="alice", mechanism="PLAIN")),
        "SCRAM": (easy, easy.client_config("SASL_SSL", user="alice")),
        "key": (easy, by_ssl),
        "key in the settings": (easy, inline),
        "OIDC": (strict, {**bearer, **issuer.client_config("alice")}),
        "oauth_cb": (strict, {**bearer, "sasl.oauthbearer.config": "open=sesame"}),
    }


WAYS = ["PLAIN", "SCRAM", "key", "key in the settings", "OIDC", "oauth_cb"]
REFUSABLE = {
    "PLAIN": "sasl.password",
    "SCRAM": "sasl.password",
    "key": "ssl.key.password",
    "key in the settings": "ssl.key.password",
    "OIDC": "sasl.oauthbearer.client.secret",
}
"""What has to be wrong to be refused."""


def given(config: dict[str, Any]) -> list[str]:
    """The secrets among these settings."""
    return [str(config[key]) for key in SENSITIVE if key in config]


@pytest.mark.parametrize("way", WAYS)
def test_a_run(kafkas: Kafkas, way: str) -> None:
    """Of a run in which all goes well, and records fail for want of a right, nothing shows a secret."""
    kafka, config = logins(kafkas)[way]
    secrets = given(config)
    if way == "oauth_cb":
        token = kafkas.issuer.token("alice")
        secrets.append(token)
        config["oauth_cb"] = lambda _: (token, time.time() + 300)

    with listening() as told:
        assert run(config, told, kafka)

    assert secrets
    assert len(told.texts) > 1_000
    assert [] == told.shows(secrets)


@pytest.mark.parametrize("way", list(REFUSABLE))
def test_a_run_that_is_refused(kafkas: Kafkas, way: str) -> None:
    """Nor does anything of one with a wrong secret."""
    kafka, config = logins(kafkas)[way]
    config[REFUSABLE[way]] = WRONG

    with listening() as told:
        assert not run(config, told, kafka)

    assert [] == told.shows(given(config))


def test_a_token_that_is_refused(kafkas: Kafkas) -> None:
    """Nor does what comes of a token that the broker doesn't take, or that ``oauth_cb`` gives in a wrong form."""
    kafka, config = logins(kafkas)["oauth_cb"]
    token = f"{kafkas.issuer.token('alice')[:-20]}forged"
    with listening() as told:
        assert not run({**config, "oauth_cb": lambda _: (token, time.time() + 300)}, told, kafka)
        assert not run({**config, "oauth_cb": lambda _: (token, "tomorrow")}, told, kafka)
        assert not run({**config, "oauth_cb": lambda _: f"{token}\n"}, told, kafka)

    assert [] == told.shows([token])


def test_what_would_be_found() -> None:
    """A secret is found in whatever shows it, a repr or a line, and in the forms in which it travels."""
    told = Told()
    told.note({"password": WRONG})
    told.emit(logging.LogRecord("x", logging.INFO, "x.py", 1, "with %s", (WRONG,), None))
    told.note(base64.b64encode(f"alice:{WRONG}".encode()).decode())
    told.note("nothing")

    assert 6 == len(told.shows([WRONG]))
