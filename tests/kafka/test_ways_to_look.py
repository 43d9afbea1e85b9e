"""Whoever reaches a cluster and logs in to it finds out there what became of a commit without an answer."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests import secured
from tests.librdkafka import properties
from tests.pools import Recorder, pool, unique
from wd_di import TransactionAbortedError
from wd_di._concurrency.deadline import Deadline
from wd_di._kafka import reader
from wd_di._kafka.librdkafka import KafkaClient
from wd_di._kafka.port import Fault, FaultKind
from wd_di._settings.names import dotted
from wd_di.events import TransactionResolved
from wd_di.settings import KafkaSettings
from wd_di.testing._security import Mechanism, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.issuer import Issuer
    from wd_di.testing import LocalKafka

    Lose = Callable[[str], None]

PATIENCE_MS = 20_000
OF_NO_ACCOUNT = """
  message.max.bytes message.copy.max.bytes receive.message.max.bytes max.in.flight.requests.per.connection
  retry.backoff.ms retry.backoff.max.ms
  topic.blacklist topic.metadata.propagation.max.ms topic.metadata.refresh.fast.cnt
  topic.metadata.refresh.fast.interval.ms topic.metadata.refresh.interval.ms topic.metadata.refresh.sparse
  metadata.max.age.ms allow.auto.create.topics
  debug log.connection.close log.queue log.thread.name statistics.interval.ms
  builtin.features enable.random.seed
"""
"""Of the settings of any client those that a reader of one record doesn't need: of what is sent, how often is asked
again, which topics are known, what is told, and what nobody sets."""
COMMIT = KafkaClient.commit


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Lose:
    """Lets requests to commit be lost, or their replies: a proxy can't, since it understands no TLS."""

    def losing(what: str) -> None:
        def commit(client: KafkaClient, seconds: float) -> None:
            if what == "reply" and client.in_transaction:
                COMMIT(client, seconds)
            raise Fault(FaultKind.RETRIABLE, f"no answer within {seconds} s")

        monkeypatch.setattr(KafkaClient, "commit", commit)

    return losing


def check(kafka: LocalKafka, config: Mapping[str, Any], lose: Lose) -> None:
    """See that a doubt is resolved, by a record and by a group's offsets, of what was committed and of what wasn't."""
    topic, recorder = kafka.create_topic(unique("t")), Recorder()
    inside = kafka.client_config("SASL_PLAINTEXT", mechanism="PLAIN")
    options: dict[str, Any] = {"commit_timeout_ms": 200, "resolve_timeout_ms": 10_000, "observer": recorder}
    given = dict(config)
    with (
        closing(Consumer({**inside, "group.id": unique("group")})) as consumer,
        pool(given.pop("bootstrap.servers"), kafka=given, size=1, **options) as orders,
    ):
        member = consumer.consumer_group_metadata()
        for what, offset in (("reply", 7), ("request", 9)):
            lose(what)
            with suppress(TransactionAbortedError), orders.transaction() as tx:
                tx.produce_sync(topic, "a", timeout_ms=PATIENCE_MS)
            with suppress(TransactionAbortedError), orders.transaction() as tx:
                tx.send_offsets([TopicPartition(topic, 0, offset)], member, timeout_ms=PATIENCE_MS)

    expected = [("committed", "record"), ("committed", "offsets"), ("aborted", "record"), ("aborted", "offsets")]
    assert expected == [(each.outcome, each.way) for each in recorder.of(TransactionResolved)]


def test_all_that_leads_to_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader takes along each setting by which a producer reaches brokers and logs in, whatever it is called."""
    told: dict[str, object] = {}

    def consumer(config: Mapping[str, object]) -> None:
        told.update(config)
        raise ValueError

    monkeypatch.setattr(reader, "Consumer", consumer)
    any_clients = {dotted(name) for name, of in properties().items() if of == "*"}
    given = {name for name in any_clients if KafkaSettings.knows(name) and "_" not in name}  # others only C can set
    with pytest.raises(Fault):
        reader.KafkaReader(dict.fromkeys(given, "?")).sees("t", 0, 0, Deadline(1))

    assert len(given) > 90
    assert set() == given - told.keys() - set(OF_NO_ACCOUNT.split())


@pytest.mark.parametrize(("protocol", "mechanism"), secured.WAYS)
def test_every_way_in(secured_kafka: LocalKafka, lose: Lose, protocol: Protocol, mechanism: Mechanism) -> None:
    """So it is by every protocol and mechanism."""
    check(secured_kafka, secured_kafka.client_config(protocol, mechanism=mechanism), lose)


def test_without_a_certificate_of_ones_own(secured_kafka: LocalKafka, lose: Lose) -> None:
    """So it is by TLS for whom the cluster doesn't know."""
    check(secured_kafka, secured_kafka.client_config("SSL", user="ANONYMOUS"), lose)


def test_another_host(strict: LocalKafka, lose: Lose) -> None:
    """So it is for who doesn't look at certificates, where they are for another host and out of date."""
    unseeing = {"enable.ssl.certificate.verification": "false"}
    check(strict, {**strict.client_config("SSL"), **unseeing}, lose)


def test_tokens_of_a_callback(strict: LocalKafka, issuer: Issuer, lose: Lose) -> None:
    """So it is by tokens that `oauth_cb` gets."""
    config: dict[str, Any] = {**strict.client_config("SASL_PLAINTEXT", mechanism="OAUTHBEARER")}
    config["oauth_cb"] = lambda _: (issuer.token("admin"), time.time() + issuer.seconds)
    check(strict, config, lose)


def test_tokens_of_an_issuer(strict: LocalKafka, issuer: Issuer, lose: Lose) -> None:
    """So it is by tokens that librdkafka gets from the issuer."""
    bearer = strict.client_config("SASL_PLAINTEXT", mechanism="OAUTHBEARER")
    check(strict, {**bearer, **issuer.client_config("admin")}, lose)
