"""What a flight is, and how flights are read from a CSV in the form of nycflights13."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COLUMNS = (
    "year", "month", "day", "sched_dep_time", "dep_time", "dep_delay", "carrier", "flight", "tailnum", "origin", "dest",
)  # fmt: skip
_MISSING = frozenset({"", "na", "nan"})


class FlightsError(Exception):
    """The file isn't there, or isn't a table of flights."""


@dataclass(frozen=True, slots=True)
class Flight:
    """One scheduled flight.

    Attributes:
        date: As ``2013-02-08``.
        name: Carrier and number, as ``UA1545``.
        aircraft: The tail number, if one was assigned.
        origin: Airport of departure.
        dest: Airport of destination.
        scheduled: Local time of the planned departure, as ``17:30``.
        departed: Local time of the departure; ``None`` if the flight was cancelled.
        delay: Minutes between the two; negative if it left early.
    """

    date: str
    name: str
    aircraft: str | None
    origin: str
    dest: str
    scheduled: str
    departed: str | None
    delay: int | None


def read_flights(path: Path) -> list[Flight]:
    """Read all flights of a CSV with a header line, in the order of the timetable.

    Raises:
        FlightsError: Says which file, line and column is wrong.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            flights = _flights(path, file)
    except OSError as error:
        raise FlightsError(f"can't read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise FlightsError(f"{path} isn't a CSV file: {error}") from error
    if not flights:
        raise FlightsError(f"{path} has no flights")
    return sorted(flights, key=lambda flight: (flight.date, flight.scheduled))


def _flights(path: Path, file: TextIO) -> list[Flight]:
    rows = csv.DictReader(file)
    missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
    if missing:
        raise FlightsError(f"{path} isn't a table of flights: its first line has no column {', '.join(missing)}")
    flights = []
    for row in rows:
        try:
            flights.append(_flight(row))
        except ValueError as error:
            raise FlightsError(f"{path}, line {rows.line_num}: {error}") from error
    return flights


def _flight(row: Mapping[str, str | None]) -> Flight:
    return Flight(
        date=f"{_number(row, 'year'):04}-{_number(row, 'month'):02}-{_number(row, 'day'):02}",
        name=f"{_needed(row, 'carrier')}{_number(row, 'flight')}",
        aircraft=_text(row, "tailnum"),
        origin=_needed(row, "origin"),
        dest=_needed(row, "dest"),
        scheduled=_clock(_number(row, "sched_dep_time")),
        departed=None if _text(row, "dep_time") is None else _clock(_number(row, "dep_time")),
        delay=None if _text(row, "dep_delay") is None else _number(row, "dep_delay"),
    )


def _text(row: Mapping[str, str | None], column: str) -> str | None:
    text = (row[column] or "").strip()
    return None if text.lower() in _MISSING else text


def _needed(row: Mapping[str, str | None], column: str) -> str:
    text = _text(row, column)
    if text is None:
        raise ValueError(f"{column} is empty")
    return text


def _number(row: Mapping[str, str | None], column: str) -> int:
    text = _needed(row, column)
    try:
        return int(text.removesuffix(".0"))  # pandas writes whole numbers so, where a column has gaps
    except ValueError:
        raise ValueError(f"{column} is {text!r}, not a whole number") from None


def _clock(time: int) -> str:
    """The table writes 17:30 as 1730."""
    return f"{time // 100:02}:{time % 100:02}"
