from __future__ import annotations

import pytest

from tests.storm import Options, main, on_memory


@pytest.mark.parametrize("seed", [7, 8])
def test_storm(seed):
    """Threads and tasks that are timed out and cancelled never share a slot, and lose and double nothing."""
    figures = on_memory(Options(seconds=2.0, seed=seed))

    assert figures.right, figures
    assert min(figures.committed, figures.aborted, figures.cancelled, figures.refused) > 10


def test_storm_from_the_command_line(capsys):
    """The long storm is a program, which prints its figures and ends with 0."""
    code = main(["--seconds", "0.2"])

    assert 0 == code
    assert "idle: True" in capsys.readouterr().out
