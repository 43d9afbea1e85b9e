"""What a broker of LocalKafka is told."""

from __future__ import annotations

from pathlib import Path

from wd_di.testing._kraft import Node, free_ports, properties


def told(*, brokers: int = 1, **overrides: object) -> dict[str, str]:
    """The properties of the first broker."""
    nodes = [Node(n, n, n + 10, n + 20, f"proxy:{n}") for n in range(1, brokers + 1)]
    text = properties(nodes[0], nodes, Path("/data"), {key.replace("_", "."): v for key, v in overrides.items()})
    return dict(line.split("=", 1) for line in text.splitlines())


def test_free_ports_are_distinct():
    """Free ports are as many as asked for, distinct, and below the ephemeral ones."""
    ports = free_ports(9)

    assert 9 == len(set(ports))
    assert max(ports) < 32_000


def test_overrides_win():
    """A setting of the user's replaces the one for tests."""
    assert "6" == told(num_partitions=6)["num.partitions"]
    assert "false" == told(auto_create_topics_enable=False)["auto.create.topics.enable"]


def test_what_a_file_of_properties_must_escape():
    """A setting arrives at the broker as it was given: its backslashes, its lines, and letters that aren't ASCII's."""
    given = "RULE:^CN=a\\+b$/\u00fc/\nand \U0001f375"

    assert r"RULE:^CN=a\\+b$/\u00fc/\nand \ud83c\udf75" == told(num_partitions=given)["num.partitions"]


def test_clients_are_told_the_advertised_address():
    """Clients are told the advertised address; brokers reach each other without it."""
    advertised = told()["advertised.listeners"]

    assert "CLIENT://proxy:1,INTERNAL://127.0.0.1:11" == advertised


def test_replication_follows_the_size():
    """Three brokers replicate three times and want two in sync, one broker neither."""
    keys = ("transaction.state.log.replication.factor", "transaction.state.log.min.isr", "min.insync.replicas")

    assert ["1", "1", "1"] == [told(brokers=1)[key] for key in keys]
    assert ["3", "2", "2"] == [told(brokers=3)[key] for key in keys]


def test_every_broker_is_a_controller():
    """Each broker knows every controller of the quorum."""
    assert "1@127.0.0.1:21,2@127.0.0.1:22,3@127.0.0.1:23" == told(brokers=3)["controller.quorum.voters"]
