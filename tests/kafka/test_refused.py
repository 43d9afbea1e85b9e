"""Who isn't let in is told why, and soon: when a pool opens, when somebody borrows, and in every event."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.faults.proxy import FaultProxy
from tests.pools import Recorder, settings, unique, until
from wd_di import (
    DeliveryTimeoutError,
    ErrorOccurred,
    PoolOpenError,
    PoolTimeoutError,
    ProducerPool,
    SettingsError,
)
from wd_di.testing._security import Mechanism, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.faults.rules import Action
    from tests.issuer import Issuer
    from wd_di.testing import LocalKafka

PASSWORD_MECHANISMS: list[Mechanism] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
NOT_KNOWN = {
    "PLAIN": "Authentication failed: Invalid username or password",
    "SCRAM-SHA-256": "invalid credentials with SASL mechanism SCRAM-SHA-256",
    "SCRAM-SHA-512": "invalid credentials with SASL mechanism SCRAM-SHA-512",
}
KINDS = pytest.mark.parametrize("kind", ["transactional", "plain"])
SASL = pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
HANDSHAKE, AUTHENTICATE = 17, 36
"""Kafka's numbers of the requests by which a client logs in."""
PATIENCE_MS = 30_000
AT_ONCE_S = 5.0
"""A broker waits for 0.3 s before it says no, and a busy machine for longer; whoever waits has `PATIENCE_MS`."""


def unopened(config: Mapping[str, Any], kind: str, recorder: Recorder | None = None, **options: Any) -> ProducerPool:
    """A pool of this kind that nobody has opened."""
    if kind == "plain":
        options["transactional_id"] = None
    of_pool = settings("", kafka=config, size=2, close_timeout_ms=1_000, **options)
    return ProducerPool(of_pool, name="orders", observer=recorder)


def told(error: BaseException) -> str:
    """What an error says, with all that it comes from."""
    return str(error) if error.__cause__ is None else f"{error}\n{told(error.__cause__)}"


def use(config: Mapping[str, Any], kind: str, *, timeout_ms: int, **options: Any) -> str:
    """Borrow a producer of a pool that nobody has opened, and send a record; what comes of it says this."""
    failures = PoolOpenError, PoolTimeoutError, DeliveryTimeoutError
    pool = unopened(config, kind, **options)
    try:
        with pytest.raises(failures) as raised, pool.producer(timeout_ms=timeout_ms) as producer:
            producer.produce_sync("t", "lost", timeout_ms=timeout_ms)
    finally:
        pool.close(timeout_ms=0, force=True)
    return told(raised.value)


def check_refused(config: Mapping[str, Any], kind: str, why: str, *, within_s: float = AT_ONCE_S) -> None:
    """See that an open fails soon and says why, as an event does, and whoever borrows."""
    recorder, started = Recorder(), time.monotonic()
    with pytest.raises(PoolOpenError) as opened:
        unopened(config, kind, recorder).open(timeout_ms=PATIENCE_MS)
    took = time.monotonic() - started
    used = use(config, kind, timeout_ms=PATIENCE_MS if within_s == AT_ONCE_S else 1_500)

    assert why in str(opened.value)
    assert why in used
    assert "brokers are down" not in told(opened.value) + used
    assert any(why in str(event.error) for event in recorder.of(ErrorOccurred))
    assert took < within_s


# -- by SASL -----------------------------------------------------------------------------------------


@SASL
@KINDS
@pytest.mark.parametrize("mechanism", PASSWORD_MECHANISMS)
@pytest.mark.parametrize("wrong", ["sasl.username", "sasl.password"])
def test_a_wrong_login(
    secured_kafka: LocalKafka, protocol: Protocol, kind: str, mechanism: Mechanism, wrong: str
) -> None:
    """A wrong password or an unknown user is what the broker says, at once, not that brokers are down."""
    config = {**secured_kafka.client_config(protocol, user="alice", mechanism=mechanism), wrong: "mallory"}

    check_refused(config, kind, NOT_KNOWN[mechanism])


@KINDS
def test_a_mechanism_that_is_not_offered(strict: LocalKafka, kind: str) -> None:
    """Who asks for a mechanism that the broker hasn't got is told which ones it has."""
    config = strict.client_config("SASL_PLAINTEXT", user="alice", mechanism="SCRAM-SHA-256")

    check_refused(config, kind, "broker's supported mechanisms: PLAIN,SCRAM-SHA-512,OAUTHBEARER")


@KINDS
@pytest.mark.parametrize(("protocol", "without"), [("SASL_PLAINTEXT", "PLAINTEXT"), ("SASL_SSL", "SSL")])
def test_a_port_without_sasl(secured_kafka: LocalKafka, kind: str, protocol: Protocol, without: Protocol) -> None:
    """Who logs in where nobody needs to is told so."""
    servers = secured_kafka.client_config(without)["bootstrap.servers"]
    config = {**secured_kafka.client_config(protocol), "bootstrap.servers": servers}

    check_refused(config, kind, "that port takes no SASL: set security.protocol to ssl or plaintext")


def oauth(kafka: LocalKafka, token: Any) -> dict[str, Any]:
    """What a client is told that gets its tokens from a function."""
    config = kafka.client_config("SASL_PLAINTEXT", mechanism="OAUTHBEARER")
    return {**config, "oauth_cb": lambda _: (token(), time.time() + 300)}


def oidc(kafka: LocalKafka, issuer: Issuer, **more: str) -> dict[str, Any]:
    """What a client is told that gets its tokens from an issuer."""
    return {
        **kafka.client_config("SASL_PLAINTEXT", mechanism="OAUTHBEARER"),
        **issuer.client_config("alice"),
        **{f"sasl.oauthbearer.{key}": value for key, value in more.items()},
    }


@KINDS
def test_a_token_that_is_refused(strict: LocalKafka, issuer: Issuer, kind: str) -> None:
    """A token that somebody else has signed is called invalid."""
    other = rsa.generate_private_key(65537, 2048)

    check_refused(oauth(strict, lambda: issuer.token("alice", key=other)), kind, "invalid_token")


@KINDS
def test_an_oauth_cb_that_raises(strict: LocalKafka, kind: str) -> None:
    """What ``oauth_cb`` raises is what everybody is told."""

    def sealed() -> str:
        raise RuntimeError("the vault is sealed")

    check_refused(oauth(strict, sealed), kind, "oauth_cb failed: RuntimeError: the vault is sealed")


@KINDS
def test_an_issuer_that_refuses(strict: LocalKafka, issuer: Issuer, kind: str) -> None:
    """An issuer that gives no token is quoted; so is one that isn't there."""
    check_refused(oidc(strict, issuer, **{"client.secret": "wrong"}), kind, "alice is not known here")
    nowhere = {"token.endpoint.url": "http://127.0.0.1:1/token"}
    check_refused(oidc(strict, issuer, **nowhere), kind, "Could not connect to server")


def test_an_issuer_that_is_away_for_a_while(
    strict: LocalKafka, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is connected already keeps its producers when there is no new token, and tells why there is none."""
    topic, recorder = strict.create_topic(unique("t")), Recorder()
    strict.grant("alice", "Write", topic=topic)
    monkeypatch.setattr(issuer, "seconds", 10)
    with unopened(oidc(strict, issuer), "plain", recorder) as pool:
        with pool.producer() as producer:
            producer.produce_sync(topic, "before")
        monkeypatch.setattr(issuer, "secret", "changed")
        until(lambda: any("not known here" in str(event.error) for event in recorder.of(ErrorOccurred)))
        with pool.producer() as producer:
            producer.produce_sync(topic, "with the old token")
        totals = pool.stats().totals

    assert (1, 0) == (totals.created, totals.retired)


@KINDS
@pytest.mark.parametrize("request_", [HANDSHAKE, AUTHENTICATE])
@pytest.mark.parametrize("action", ["cut before", "cut after"])
def test_a_broker_that_goes_away_meanwhile(secured_kafka: LocalKafka, kind: str, request_: int, action: Action) -> None:
    """A broker that ends the connection while somebody logs in hasn't refused anybody: it is asked again."""
    config = secured_kafka.client_config("SASL_PLAINTEXT", mechanism="SCRAM-SHA-512")
    port = int(config["bootstrap.servers"].rpartition(":")[2])
    with FaultProxy() as proxy:
        rule = proxy.on(request_, action, times=2)
        through = {**config, "bootstrap.servers": proxy.advertise(1, port)}
        with unopened(through, kind) as pool, pool.producer() as producer:
            rule.wait(2)

            assert producer.index in range(2)


# -- by TLS ------------------------------------------------------------------------------------------

UNTRUSTED = "certificate verify failed"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a refusal last for no more than a second before it counts."""
    monkeypatch.setattr("wd_di._kafka.troubles.CAUSE_AFTER", 1.0)


def untrusting(kafka: LocalKafka, other: LocalKafka, protocol: Protocol) -> dict[str, Any]:
    """What a client is told that trusts the authority of another cluster."""
    return {**kafka.client_config(protocol), "ssl.ca.location": other.client_config("SSL")["ssl.ca.location"]}


@KINDS
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
def test_an_untrusted_authority(secured_kafka: LocalKafka, strict: LocalKafka, protocol: Protocol, kind: str) -> None:
    """A certificate of an authority that the client doesn't know is named as the cause, before any deadline."""
    check_refused(untrusting(secured_kafka, strict, protocol), kind, UNTRUSTED, within_s=10)


@KINDS
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
@pytest.mark.parametrize("algorithm", ["https", "none"])
def test_another_hosts_certificate(strict: LocalKafka, protocol: Protocol, algorithm: str, kind: str) -> None:
    """So is one that is for another host, or out of date."""
    config = {**strict.client_config(protocol), "ssl.endpoint.identification.algorithm": algorithm}

    check_refused(config, kind, "or is it out of date, or for another host", within_s=10)


@KINDS
@pytest.mark.usefixtures("soon")
def test_a_client_without_a_certificate(strict: LocalKafka, secured_kafka: LocalKafka, kind: str) -> None:
    """A broker that wants another certificate of its clients, or one at all, is quoted with the settings to look at."""
    unseeing = {"enable.ssl.certificate.verification": "false"}
    nobody = {**strict.client_config("SSL", user="ANONYMOUS"), **unseeing}
    servers = strict.client_config("SSL")["bootstrap.servers"]
    stranger = {**secured_kafka.client_config("SSL", user="alice"), **unseeing, "bootstrap.servers": servers}

    check_refused(nobody, kind, "the broker wants a certificate: set ssl.certificate.location", within_s=10)
    check_refused(stranger, kind, "the broker doesn't trust the certificate in ssl.certificate.location", within_s=10)


@KINDS
def test_a_wrong_password_of_a_key(secured_kafka: LocalKafka, kind: str) -> None:
    """A key that its password doesn't open is refused when the pool is made, and the setting is named."""
    config = {**secured_kafka.client_config("SSL", user="alice"), "ssl.key.password": "wrong"}

    with pytest.raises(SettingsError, match=r"is it a file in PEM's format, and ssl\.key\.password what opens it\?"):
        unopened(config, kind)


# -- by a port that speaks otherwise -----------------------------------------------------------------

MISMATCHES: list[tuple[Protocol, Protocol, str]] = [
    ("PLAINTEXT", "SSL", "does that port speak TLS? security.protocol is plaintext"),
    ("PLAINTEXT", "SASL_SSL", "does that port speak TLS? security.protocol is plaintext"),
    ("PLAINTEXT", "SASL_PLAINTEXT", "does that port want a login, by SASL? security.protocol is plaintext"),
    ("SASL_PLAINTEXT", "SASL_SSL", "does that port speak TLS? security.protocol is sasl_plaintext"),
    ("SASL_PLAINTEXT", "SSL", "does that port speak TLS? security.protocol is sasl_plaintext"),
    ("SSL", "SASL_SSL", "does that port want a login, by SASL? security.protocol is ssl"),
    ("SSL", "PLAINTEXT", "SSL connection closed by peer"),
    ("SASL_SSL", "PLAINTEXT", "SSL connection closed by peer"),
    ("SASL_SSL", "SASL_PLAINTEXT", "SSL connection closed by peer"),
]


@KINDS
@pytest.mark.parametrize(("protocol", "port", "why"), MISMATCHES)
def test_a_wrong_protocol(secured_kafka: LocalKafka, protocol: Protocol, port: Protocol, why: str, kind: str) -> None:
    """Who speaks another protocol than the port is asked whether it does; a broker that restarts closes likewise."""
    servers = secured_kafka.client_config(port)["bootstrap.servers"]
    config = {**secured_kafka.client_config(protocol), "bootstrap.servers": servers}
    recorder = Recorder()
    with pytest.raises(PoolOpenError) as opened:
        unopened(config, kind, recorder).open(timeout_ms=1_500)

    assert why in str(opened.value)
    assert why in use(config, kind, timeout_ms=1_000)
    assert any(why in str(event.error) for event in recorder.of(ErrorOccurred))
