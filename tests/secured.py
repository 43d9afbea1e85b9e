"""The clusters with security that tests share, and ways to get into them."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, get_args

from tests.issuer import Issuer
from tests.kafka.clusters import started
from wd_di.testing import LocalKafka, Security
from wd_di.testing._security import SECURED, Mechanism, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

USERS = {"alice": "alices-password", "bob": "bobs-password", "carol": "carols-password"}
"""Who has no rights but those that a test gives; to carol none ever gives the right to write."""
WITHOUT_SASL: list[tuple[Protocol, Mechanism]] = [("PLAINTEXT", "PLAIN"), ("SSL", "PLAIN")]
WAYS = [
    *WITHOUT_SASL,
    *((each, mechanism) for each in SECURED if each.startswith("SASL") for mechanism in get_args(Mechanism)),
]
"""Protocols, each with all mechanisms that it has; without SASL that is of no account."""


@contextmanager
def secured(brokers: int = 1) -> Iterator[LocalKafka]:
    """Run a cluster that lets everybody in who is one of `USERS`."""
    with started(brokers=brokers, security=Security(users=USERS), config={"auto.create.topics.enable": False}) as kafka:
        yield kafka


@contextmanager
def strict() -> Iterator[tuple[LocalKafka, Issuer]]:
    """Run a cluster where something is wrong with each way in, but for SASL_PLAINTEXT, and the issuer of its tokens.

    Who connects by PLAINTEXT has no rights. The brokers' certificate is out of date, and for another host. By SSL,
    a client has to show one, too. SASL_PLAINTEXT hasn't got SCRAM-SHA-256.
    """
    with Issuer() as issuer:
        security = Security(
            users=USERS,
            super_users=(),
            hosts=("broker.example",),
            certificate_ends=datetime.now(UTC) - timedelta(days=1),
            jwks_url=issuer.jwks_url,
        )
        config = {
            "listener.name.ssl.ssl.client.auth": "required",
            "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
        }
        with started(security=security, config=config) as kafka:
            yield kafka, issuer
