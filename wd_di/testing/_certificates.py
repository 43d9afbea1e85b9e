"""Which certificates the brokers and users of a `LocalKafka` have: those of an authority that it makes for itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import count
from typing import TYPE_CHECKING

from wd_di.errors import MissingExtraError

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )
    from cryptography.x509.oid import ExtendedKeyUsageOID
except ImportError as error:
    raise MissingExtraError("LocalKafka with security", "local-kafka") from error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LIFE = timedelta(days=30)


class Authority:
    """What the brokers and their clients trust.

    Args:
        folder: Where its certificate and those that it issues lie, with their keys.
        until: The end of what it issues for brokers, be it past; without a zone, by this machine's clock. By default,
            and for all others, later than that of any test.

    Attributes:
        file: Its own certificate.
    """

    def __init__(self, folder: Path, until: datetime | None = None) -> None:
        now = datetime.now(UTC)
        self._end = now + _LIFE
        self._brokers_end = until.astimezone(UTC) if until else self._end
        self._start = min(now, self._brokers_end) - _LIFE
        self._folder = folder
        self._name = _named("the authority of a LocalKafka")
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._numbers = count(1)
        own = [
            x509.BasicConstraints(ca=True, path_length=0),
            _usage(signs_certificates=True),
            x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()),
        ]
        self.file: Path = folder / "ca.pem"
        self.file.write_bytes(self._signed(self._name, self._key, own, max(self._end, self._brokers_end)))

    def for_brokers(self, hosts: Sequence[str]) -> Path:
        """Issue what every broker shows; the file holds the key, too, as Kafka wants it.

        Args:
            hosts: Names and addresses under which the brokers are themselves.
        """
        names = x509.SubjectAlternativeName([_host(each) for each in hosts])
        return self._issue("a broker", "broker.pem", [names], self._brokers_end)

    def for_user(self, name: str, password: str) -> Path:
        """Issue what a client shows to be this user; the file holds the key, too, which the password opens."""
        # Not called after the user: to some file systems Alice is alice.
        return self._issue(name, f"user-{next(self._numbers)}.pem", [], self._end, password)

    def _issue(
        self,
        name: str,
        file: str,
        names: Sequence[x509.ExtensionType],
        end: datetime,
        password: str | None = None,
    ) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        extensions = [
            x509.BasicConstraints(ca=False, path_length=None),
            _usage(),
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
            *names,
        ]
        certificate = self._signed(_named(name), key, extensions, end)
        lock = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        path = self._folder / file
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock) + certificate)
        return path

    def _signed(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: Sequence[x509.ExtensionType],
        end: datetime,
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._start)
            .not_valid_after(end)
        )
        for each in extensions:
            builder = builder.add_extension(each, critical=isinstance(each, x509.BasicConstraints | x509.KeyUsage))
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
