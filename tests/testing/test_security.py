"""How a LocalKafka with security lets clients in, and what they may do there."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient
from cryptography.hazmat.primitives.asymmetric import rsa

from tests import secured
from tests.issuer import Issuer
from tests.kafka.clusters import started
from tests.pools import unique
from tests.testing.ports import DEADLINE_S
from wd_di.errors import MissingExtraError
from wd_di.testing import ClusterError, LocalKafka, Security
from wd_di.testing._security import Mechanism, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DENIED = KafkaError.TOPIC_AUTHORIZATION_FAILED
NOT_DELIVERED = KafkaError._MSG_TIMED_OUT
SIGNS = "._~!@%+-"
"""What the names of users may hold besides letters and digits."""
NAMES = ("alice@example.com", "Alice", "alice", "7", *SIGNS, *(f"a{each}b{each}c" for each in SIGNS))
BY_EACH: list[tuple[Protocol, Mechanism]] = [
    ("SSL", "PLAIN"),
    *(("SASL_PLAINTEXT", mechanism) for mechanism in get_args(Mechanism)),
]
EVERY_WAY = pytest.mark.parametrize(("protocol", "mechanism"), secured.WAYS)

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def three() -> Iterator[LocalKafka]:
    """Three brokers with security."""
    with secured.secured(3) as kafka:
        yield kafka


@pytest.fixture(scope="module")
def named() -> Iterator[LocalKafka]:
    """A broker whose users have all kinds of names and passwords, and whose certificate is good for long."""
    users = {name: f"{name}{SIGNS}" for name in NAMES}
    with started(security=Security(users=users, certificate_ends=datetime.now(UTC) + timedelta(days=90))) as kafka:
        yield kafka


@pytest.fixture
def strict_topic(strict: LocalKafka) -> str:
    """A new topic of the cluster where something is wrong with most ways in, to which alice may write."""
    topic = strict.create_topic(unique("t"))
    strict.grant("alice", "Write", topic=topic)
    return topic


def sent(topic: str, config: Mapping[str, object], patience_s: float = DEADLINE_S) -> int | None:
    """Send a record, and return the code of the error with which it isn't delivered, or ``None``."""
    answers: list[int | None] = []
    producer = Producer({"message.timeout.ms": int(patience_s * 1000), "log_level": 0, **config})
    producer.produce(topic, b"tea", on_delivery=lambda error, _: answers.append(error and error.code()))
    assert 0 == producer.flush(2 * DEADLINE_S)
    [answer] = answers
    return answer


def check_way_in(kafka: LocalKafka, protocol: Protocol, mechanism: Mechanism) -> None:
    """See that admin may write by this way, and a user once that is granted; without users, that everybody may."""
    topic = kafka.create_topic(unique("t"))
    admin = kafka.client_config(protocol, mechanism=mechanism)
    answers = [sent(topic, admin)]
    if protocol != "PLAINTEXT":
        alice = kafka.client_config(protocol, user="alice", mechanism=mechanism)
        answers += [sent(topic, alice)]
        grant = kafka.grant("alice", "Write", topic=topic)
        answers += [sent(topic, alice)]
        grant.revoke()
        answers += [sent(topic, alice)]

    assert ([None] if protocol == "PLAINTEXT" else [None, DENIED, None, DENIED]) == answers
    assert len(kafka.brokers) == len(admin["bootstrap.servers"].split(","))
    kafka.delete_topic(topic)


@EVERY_WAY
def test_every_way_in(secured_kafka: LocalKafka, protocol: Protocol, mechanism: Mechanism) -> None:
    """Whoever is granted a right has it until it is revoked, by every protocol and mechanism."""
    check_way_in(secured_kafka, protocol, mechanism)


@pytest.mark.timeout(150)
@EVERY_WAY
def test_every_way_into_three(three: LocalKafka, protocol: Protocol, mechanism: Mechanism) -> None:
    """So it is with three brokers, of which each knows when the call returns."""
    check_way_in(three, protocol, mechanism)


@pytest.mark.parametrize("name", NAMES)
def test_every_name(named: LocalKafka, name: str) -> None:
    """Whatever a user is called, every broker knows them by that name, by a certificate, a password or a token."""
    topic = named.create_topic(unique("t"))
    ways = [named.client_config(protocol, user=name, mechanism=mechanism) for protocol, mechanism in BY_EACH]
    answers = [sent(topic, ways[0])]
    named.grant(name, "Write", topic=topic)
    answers += [sent(topic, way) for way in ways]

    assert [DENIED, *[None] * len(ways)] == answers


def test_a_certificate_for_each(named: LocalKafka) -> None:
    """Where a file system takes Alice for alice, each has a certificate all the same."""
    files = [Path(named.client_config("SSL", user=name)["ssl.certificate.location"]).name for name in NAMES]

    assert len(NAMES) == len({each.lower() for each in files})


def test_rights_by_prefix(secured_kafka: LocalKafka) -> None:
    """A name with an asterisk at its end means each that begins so."""
    topic, other = secured_kafka.create_topic(unique("t")), secured_kafka.create_topic(unique("t"))
    config = secured_kafka.client_config("SASL_PLAINTEXT", user="bob")
    secured_kafka.grant("bob", "Write", topic=f"{topic[:-1]}*")

    assert [None, DENIED] == [sent(topic, config), sent(other, config)]


def test_a_restart(secured_kafka: LocalKafka) -> None:
    """Users, rights and certificates are the same after a broker's restart."""
    topic = secured_kafka.create_topic(unique("t"))
    secured_kafka.grant("alice", "Write", topic=topic)

    secured_kafka.brokers[0].restart()

    assert sent(topic, secured_kafka.client_config("SASL_SSL", user="alice")) is None


def test_what_admin_may(secured_kafka: LocalKafka) -> None:
    """The settings are good for any client of confluent-kafka's, and without a user they are those of admin."""
    admin = AdminClient({**secured_kafka.client_config("SASL_SSL"), "log_level": 0})

    assert {"admin", *secured.USERS} == set(admin.describe_user_scram_credentials().result(DEADLINE_S))


def test_nobody(strict: LocalKafka, strict_topic: str) -> None:
    """Where ANONYMOUS is no super user, PLAINTEXT is good for nothing, and topics can be made all the same."""
    config = strict.client_config("PLAINTEXT")

    assert DENIED == sent(strict_topic, config)
    strict.grant("ANONYMOUS", "Write", topic=strict_topic)
    assert sent(strict_topic, config) is None


def test_a_certificate_that_is_out_of_date(strict: LocalKafka, strict_topic: str) -> None:
    """Brokers can have a certificate for another host, and an old one; who looks for neither gets in."""
    alice = strict.client_config("SSL", user="alice")
    answers = [
        sent(strict_topic, {**alice, **each}, patience_s)
        for each, patience_s in (
            ({}, 1),
            ({"ssl.endpoint.identification.algorithm": "none"}, 1),
            ({"enable.ssl.certificate.verification": "false"}, DEADLINE_S),
        )
    ]

    assert [NOT_DELIVERED, NOT_DELIVERED, None] == answers


def test_without_a_certificate(strict: LocalKafka, secured_kafka: LocalKafka, strict_topic: str) -> None:
    """By SSL nobody needs to have a certificate, unless the broker is told so."""
    topic = secured_kafka.create_topic(unique("t"))
    unseeing = {"enable.ssl.certificate.verification": "false"}

    assert sent(topic, secured_kafka.client_config("SSL", user="ANONYMOUS")) is None
    assert NOT_DELIVERED == sent(strict_topic, {**strict.client_config("SSL", user="ANONYMOUS"), **unseeing}, 1)


def test_signed_tokens(strict: LocalKafka, issuer: Issuer, strict_topic: str) -> None:
    """With an issuer's keys, brokers take the tokens that it has signed and no others."""
    config = strict.client_config("SASL_PLAINTEXT", mechanism="OAUTHBEARER")
    other = rsa.generate_private_key(65537, 2048)

    def by(token: str) -> dict[str, object]:
        return {**config, "oauth_cb": lambda _: (token, time.time() + issuer.seconds)}

    assert sent(strict_topic, by(issuer.token("alice"))) is None
    assert DENIED == sent(strict_topic, by(issuer.token("bob")))
    assert NOT_DELIVERED == sent(strict_topic, by(issuer.token("alice", key=other)), 1)


def test_tokens_by_oidc(strict: LocalKafka, issuer: Issuer, strict_topic: str) -> None:
    """A client can get its tokens from the issuer by itself."""
    bearer = strict.client_config("SASL_PLAINTEXT", mechanism="OAUTHBEARER")

    assert sent(strict_topic, {**bearer, **issuer.client_config("alice")}) is None


def test_a_mechanism_that_the_broker_is_not_told_of(strict: LocalKafka, strict_topic: str) -> None:
    """The broker's settings override those that make all mechanisms possible."""
    config = strict.client_config("SASL_PLAINTEXT", user="alice", mechanism="SCRAM-SHA-256")

    assert NOT_DELIVERED == sent(strict_topic, config, 1)


def test_a_grant_that_is_revoked_twice(secured_kafka: LocalKafka) -> None:
    """What is gone can't be taken back."""
    grant = secured_kafka.grant("bob", "Read", "Describe", group=unique("g"), cluster=True)
    grant.revoke()

    with pytest.raises(ClusterError, match="is gone already"):
        grant.revoke()


def test_rights_in_time(secured_kafka: LocalKafka) -> None:
    """A broker that doesn't answer keeps nobody waiting for longer than it was said."""
    [broker] = secured_kafka.brokers
    broker.pause()
    try:
        with pytest.raises(ClusterError, match="couldn't be changed within 500 ms"):
            secured_kafka.grant("bob", "Read", topic="t", timeout_ms=500)
    finally:
        broker.resume()


def test_what_cannot_be(secured_kafka: LocalKafka, kafka: LocalKafka) -> None:
    """Unknown users, protocols, mechanisms and empty grants are refused, and so is all of that without security."""
    with pytest.raises(ValueError, match=r"no user 'eve' but admin, alice, bob, carol: name it in Security\(users"):
        secured_kafka.client_config("SASL_SSL", user="eve")
    with pytest.raises(ValueError, match="PLAINTEXT knows no users, so it can't be 'alice'"):
        secured_kafka.client_config("PLAINTEXT", user="alice")
    with pytest.raises(ValueError, match="protocol is one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL, not 'TLS'"):
        secured_kafka.client_config("TLS")
    with pytest.raises(ValueError, match=r"mechanism is one of PLAIN, SCRAM-SHA-256, .*, not 'GSSAPI'"):
        secured_kafka.client_config("SASL_SSL", mechanism="GSSAPI")
    with pytest.raises(ValueError, match="say what may be done with what"):
        secured_kafka.grant("alice", "Write")
    with pytest.raises(ClusterError, match=r"has no users: make it with LocalKafka\(security=True\)"):
        kafka.client_config("SASL_SSL")
    with pytest.raises(ClusterError, match=r"has no users"):
        kafka.grant("alice", "Write", topic="t")


@pytest.mark.parametrize("users", [{"ANONYMOUS": "x"}, {"probe": "x"}, {"a b": "x"}, {"alice": 'x"'}, {"": "x"}])
def test_users_that_cannot_be(users: dict[str, str]) -> None:
    """Names with a meaning of their own, and what Kafka's files would have to quote, are no users; nothing is shown."""
    with pytest.raises(ValueError, match=r"users: .* (no name for a user|made of ASCII)") as caught:
        Security(users=users)

    assert 'x"' not in str(caught.value)


def test_a_name_that_is_too_long_for_a_certificate() -> None:
    """Such a user is refused before anything starts."""
    Security(users={"a" * 64: "x"})

    with pytest.raises(ValueError, match=r"users: 'a+' has 65 letters, and a certificate takes 64 at most"):
        Security(users={"a" * 65: "x"})


def test_no_passwords_are_shown() -> None:
    """What a test may print shows no password."""
    security = Security(users=secured.USERS)

    assert "password" not in repr(security) + repr(LocalKafka(security=security))


def test_not_started() -> None:
    """Before it is started nobody knows how to connect."""
    with pytest.raises(ClusterError, match="isn't running: start"):
        LocalKafka(security=True).client_config("SASL_SSL")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package for certificates isn't installed, the extra that brings it is named; without security, none."""
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.delitem(sys.modules, "wd_di.testing._certificates", raising=False)
    LocalKafka()

    with pytest.raises(MissingExtraError, match=r"LocalKafka with security needs .* the extra local-kafka"):
        LocalKafka(security=True)
