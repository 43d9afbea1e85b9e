"""Who may connect to a `LocalKafka` and how, and what brokers and clients are told of that."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]

SECURED: Final[Sequence[Protocol]] = ("SSL", "SASL_PLAINTEXT", "SASL_SSL")
"""Listeners besides the one without security."""
ADMIN: Final = "admin"
ANONYMOUS: Final = "ANONYMOUS"
PROBE: Final = "probe"
"""A user of ours, who finds out whether rights have arrived."""

_MODULES = "org.apache.kafka.common.security"
_PLAIN = f"{_MODULES}.plain.PlainLoginModule required"
_SCRAM = f"{_MODULES}.scram.ScramLoginModule required;"
_OAUTH = f"{_MODULES}.oauthbearer.OAuthBearerLoginModule required;"
_ANY_TOKEN = f"{_MODULES}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
_SIGNED_TOKEN = f"{_MODULES}.oauthbearer.OAuthBearerValidatorCallbackHandler"
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9._~!@%+-]+")
_LONGEST = 64
"""How many signs X.509 allows for the name in a certificate."""


@dataclass(frozen=True, kw_only=True)
class Security:
    """What a `LocalKafka` with TLS, SASL and rights is like. Without arguments, as ``security=True``.

    Attributes:
        users: Names and passwords, by PLAIN and by SCRAM; the password also opens the key of the user's certificate.
            Both are of ASCII's letters, digits and ``._~!@%+-``, and a name has 64 of them at most. Users may do what
            `LocalKafka.grant` says. ``admin``, who may do all, is always one of them.
        super_users: Who may do all, too; by default ``ANONYMOUS``, who connects by PLAINTEXT, or by SSL without a
            certificate.
        hosts: Names and addresses for which the brokers' certificate is.
        certificate_ends: When that expires, be it in the past; by default after any test. Without a zone it is a time
            of this machine's clock.
        jwks_url: Where the keys are by which the brokers check tokens of OAUTHBEARER. By default they take any token.
    """

    users: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    super_users: Collection[str] = (ANONYMOUS,)
    hosts: Sequence[str] = ("localhost", "127.0.0.1")
    certificate_ends: datetime | None = None
    jwks_url: str | None = None

    def __post_init__(self) -> None:
        for name, password in self.users.items():
            if name in (ANONYMOUS, PROBE):
                raise ValueError(f"users: {name} is no name for a user: it has a meaning of its own")
            if not _PLAIN_TEXT.fullmatch(name) or not _PLAIN_TEXT.fullmatch(password):
                signs = "ASCII's letters, digits and ._~!@%+- only"
                raise ValueError(f"users: {name!r} and the password are made of {signs}")
            if len(name) > _LONGEST:
                raise ValueError(f"users: {name!r} has {len(name)} letters, and a certificate takes {_LONGEST} at most")


class Secured:
    """The security of one cluster.

    Args:
        security: What is wanted of it.

    Raises:
        MissingExtraError: The package for certificates isn't installed.
    """

    def __init__(self, security: Security) -> None:
        from wd_di.testing._certificates import Authority

        self._authority = Authority
        self._security = security
        self._users = {ADMIN: secrets.token_urlsafe(), **security.users}
        self._probe = secrets.token_urlsafe()
        self._files: dict[str, Path] = {}
        self._trusted: Path | None = None

    def settings(self, home: Path) -> dict[str, object]:
        """Make all certificates in this folder, and return what each broker is told."""
        authority = self._authority(home, self._security.certificate_ends)
        self._trusted = authority.file
        self._files = {name: authority.for_user(name, password) for name, password in self._users.items()}
        own = authority.for_brokers(self._security.hosts)
        protocols = {"CLIENT": "PLAINTEXT", "INTERNAL": "SASL_PLAINTEXT", "CONTROLLER": "SASL_PLAINTEXT"}
        protocols |= {each: each for each in SECURED}
        settings: dict[str, object] = {
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": ";".join(f"User:{name}" for name in (ADMIN, *self._security.super_users)),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": own,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": authority.file,
            "ssl.principal.mapping.rules": ",".join(_who_has_shown(self._users)),
            "listener.name.ssl.ssl.client.auth": "requested",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "sasl.mechanism.controller.protocol": "PLAIN",
        }
        if self._security.jwks_url is not None:
            settings["sasl.oauthbearer.jwks.endpoint.url"] = self._security.jwks_url
        return settings | self._own_listener("internal") | self._own_listener("controller") | self._sasl()

    def jvm_flags(self) -> list[str]:
        """Return what Java is told; Kafka asks no URL for keys that isn't named there."""
        url = self._security.jwks_url
        return [f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={url}"] if url else []

    def formatting(self) -> list[str]:
        """Return what the tool is told that formats a broker's storage: the users of SCRAM."""
        return [
            word
            for name, password in self._users.items()
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for word in ("--add-scram", f"{mechanism}=[name={name},password={password}]")
        ]

    def client(self, protocol: Protocol, user: str | None, mechanism: Mechanism) -> dict[str, str]:
        """Return what a client of this user is told, but for where the brokers are.

        Raises:
            ValueError: There is no such protocol, mechanism or user.
        """
        if protocol not in get_args(Protocol):
            raise ValueError(f"protocol is one of {', '.join(get_args(Protocol))}, not {protocol!r}")
        if mechanism not in get_args(Mechanism):
            raise ValueError(f"mechanism is one of {', '.join(get_args(Mechanism))}, not {mechanism!r}")
        told = {"security.protocol": protocol.lower()}
        if protocol in ("SSL", "SASL_SSL"):
            told["ssl.ca.location"] = str(self._trusted)
        if protocol == "PLAINTEXT":
            return told | self._nobody(user)
        if protocol == "SSL":
            return told | self._certificate(user or ADMIN)
        return told | {"sasl.mechanism": mechanism} | self._login(user or ADMIN, mechanism)

    def inside(self, user: Literal["admin", "probe"]) -> dict[str, str]:
        """Return what a client of ours is told on the brokers' own listener."""
        password = self._probe if user == PROBE else self._users[ADMIN]
        login = {"sasl.mechanism": "PLAIN", "sasl.username": user, "sasl.password": password}
        return {"security.protocol": "sasl_plaintext", **login}

    def _nobody(self, user: str | None) -> dict[str, str]:
        if user not in (None, ANONYMOUS):
            raise ValueError(f"PLAINTEXT knows no users, so it can't be {user!r}")
        return {}

    def _certificate(self, user: str) -> dict[str, str]:
        if user == ANONYMOUS:
            return {}
        password, file = self._password(user), str(self._files[user])
        return {"ssl.certificate.location": file, "ssl.key.location": file, "ssl.key.password": password}

    def _login(self, user: str, mechanism: Mechanism) -> dict[str, str]:
        if mechanism != "OAUTHBEARER":
            return {"sasl.username": user, "sasl.password": self._password(user)}
        if self._security.jwks_url is not None:  # its issuer gives the tokens
            return {}
        return {"enable.sasl.oauthbearer.unsecure.jwt": "true", "sasl.oauthbearer.config": f"principal={user}"}

    def _password(self, user: str) -> str:
        if user not in self._users:
            raise ValueError(f"there is no user {user!r} but {', '.join(self._users)}: name it in Security(users=...)")
        return self._users[user]

    def _own_listener(self, name: str) -> dict[str, object]:
        login = f'username="{ADMIN}" password="{self._users[ADMIN]}"'
        users = f'user_{ADMIN}="{self._users[ADMIN]}" user_{PROBE}="{self._probe}"'
        return {
            f"listener.name.{name}.sasl.enabled.mechanisms": "PLAIN",
            f"listener.name.{name}.plain.sasl.jaas.config": f"{_PLAIN} {login} {users};",
        }

    def _sasl(self) -> dict[str, object]:
        # In quotes, since JAAS takes few signs for a part of a word.
        users = " ".join(f'"user_{name}"="{password}"' for name, password in self._users.items())
        settings: dict[str, object] = {
            "sasl.enabled.mechanisms": ",".join(get_args(Mechanism)),
            "plain.sasl.jaas.config": f"{_PLAIN} {users};",
            "scram-sha-256.sasl.jaas.config": _SCRAM,
            "scram-sha-512.sasl.jaas.config": _SCRAM,
            "oauthbearer.sasl.jaas.config": _OAUTH,
            "oauthbearer.sasl.server.callback.handler.class": _SIGNED_TOKEN if self._security.jwks_url else _ANY_TOKEN,
        }
        listeners = ("sasl_plaintext", "sasl_ssl")
        return {f"listener.name.{name}.{key}": value for name in listeners for key, value in settings.items()}


def _who_has_shown(users: Collection[str]) -> list[str]:
    """Return Kafka's rules for who has a certificate: Java spells a plus in its name with a backslash."""
    spelled = {name: name.replace("+", r"\+") for name in users if "+" in name}
    return [*(f"RULE:^CN={re.escape(told)}$/{name}/" for name, told in spelled.items()), "RULE:^CN=([^,]+).*$/$1/"]
