"""From when to when the certificates of a LocalKafka with security are good."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from wd_di.testing._certificates import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose clock is nine hours ahead."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()


def good(folder: Path, until: datetime | None, at: datetime) -> bool:
    """Whether a client that trusts the authority takes the brokers' certificate at some time."""
    authority = Authority(folder, until)
    [of_brokers] = x509.load_pem_x509_certificates(authority.for_brokers(["localhost"]).read_bytes())
    [of_authority] = x509.load_pem_x509_certificates(authority.file.read_bytes())
    verifier = PolicyBuilder().store(Store([of_authority])).time(at).build_server_verifier(x509.DNSName("localhost"))
    try:
        verifier.verify(of_brokers, [])
    except VerificationError:
        return False
    return True


@pytest.mark.parametrize("days", [1, 31, 61, 400, 4_000])
def test_until_a_day_to_come(tmp_path: Path, days: int) -> None:
    """However late the brokers' certificate ends, it is good from before now until then, and not afterwards."""
    now = datetime.now(UTC)
    end = now + days * DAY

    answers = [good(tmp_path, end, at) for at in (now - DAY, now, end - SECOND, end + SECOND)]

    assert [True, True, True, False] == answers


@pytest.mark.parametrize("days", [1, 31, 400])
def test_until_a_day_gone(tmp_path: Path, days: int) -> None:
    """However early it ended, it was good until then."""
    now = datetime.now(UTC)
    end = now - days * DAY

    assert [True, False, False] == [good(tmp_path, end, at) for at in (end - DAY, end + SECOND, now)]


def test_until_after_any_test(tmp_path: Path) -> None:
    """By default it is good today and for some weeks."""
    now = datetime.now(UTC)

    assert [True, True, True] == [good(tmp_path, None, at) for at in (now - DAY, now, now + 20 * DAY)]


def test_without_a_zone(tmp_path: Path, in_tokyo: None) -> None:
    """A time without a zone is this machine's, as everywhere in Python."""
    end = datetime.now(UTC) + 2 * DAY
    naive = end.astimezone().replace(tzinfo=None)

    assert naive - end.replace(tzinfo=None) == 9 * HOUR
    assert [True, False] == [good(tmp_path, naive, at) for at in (end - SECOND, end + SECOND)]
