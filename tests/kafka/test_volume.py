"""A tenth of the year's flights, in every test run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.volume import Options, run

if TYPE_CHECKING:
    from wd_di.testing import Cluster

FLIGHTS = 336_776


def test_a_tenth_of_all_flights(local_kafka: Cluster) -> None:
    """Of 33,678 flights in 337 transactions each committed one is read exactly once, and no aborted one."""
    figures = run(local_kafka, Options(share=0.1))

    assert (0, 0, 0) == (figures.missing, figures.repeated, figures.unwanted)
    assert figures.records_committed == figures.read_committed
    assert figures.records_committed + figures.records_aborted == figures.read_uncommitted
    assert (337, 40) == (figures.transactions, figures.aborted)
