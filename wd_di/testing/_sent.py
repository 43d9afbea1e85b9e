"""What a test expects of a record, and how a failed expectation reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


class _Any:
    """Stands for a field that the test doesn't care about."""

    def __repr__(self) -> str:
        return "..."


ANY: Final[Any] = _Any()


@dataclass(frozen=True, slots=True, repr=False)
class Sent:
    """A record as it was produced, or a pattern of one: fields that are left out match anything.

    ``str`` and its UTF-8 bytes are the same, as they are on the wire; so are a mapping of headers and its pairs.
    """

    topic: str
    value: Any = ANY
    key: Any = ANY
    headers: Any = ANY
    partition: Any = ANY
    timestamp_ms: Any = ANY
    offset: Any = ANY

    def matches(self, record: Sent) -> bool:
        """Whether the record is one of those that this pattern means."""
        given = self._given()
        return all(
            wanted is ANY or _wire(wanted, name) == _wire(getattr(record, name), name) for name, wanted in given.items()
        )

    def _given(self) -> dict[str, object]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __repr__(self) -> str:
        return self.told([name for name, value in self._given().items() if value is not ANY])

    def told(self, names: Collection[str]) -> str:
        """Return what reads as this record with nothing but these fields."""
        topic, *others = ((name, value) for name, value in self._given().items() if name in {"topic", *names})
        return f"Sent({', '.join([repr(topic[1]), *(f'{name}={value!r}' for name, value in others)])})"


def missing(expected: Iterable[Sent], records: Sequence[Sent]) -> list[Sent]:
    """Which of the expected have no record of their own: two equal patterns need two records."""
    patterns = list(expected)
    taken: dict[int, int] = {}
    return [pattern for number, pattern in enumerate(patterns) if not _seated(number, patterns, records, taken, set())]


def _seated(number: int, patterns: list[Sent], records: Sequence[Sent], taken: dict[int, int], seen: set[int]) -> bool:
    """Whether the pattern gets a record, if need be from one that is content with another (Kuhn's matching)."""
    fitting = [place for place, record in enumerate(records) if place not in seen and patterns[number].matches(record)]
    for place in sorted(fitting, key=taken.__contains__):
        seen.add(place)
        if place not in taken or _seated(taken[place], patterns, records, taken, seen):
            taken[place] = number
            return True
    return False


def listed(title: str, records: Sequence[Sent], *, like: Sequence[Sent] = ()) -> str:
    """Lines for a failure's message; ``like`` says what was asked for."""
    asked = {each.name for each in fields(Sent) for pattern in like if getattr(pattern, each.name) is not ANY}
    lines = (f"  {record.told(asked | _telling(record))}" for record in records)
    return "\n".join([f"{title}: {len(records) or 'none'}", *lines])


def _telling(record: Sent) -> set[str]:
    """The fields that a reader wants to see whatever was asked for."""
    return {"value"} | {name for name in ("key", "headers") if getattr(record, name)}


def _wire(value: Any, name: str = "") -> object:
    if isinstance(value, str):
        return value.encode()
    if name == "headers":
        pairs = value.items() if isinstance(value, Mapping) else value or ()
        return [(_wire(header), _wire(text)) for header, text in pairs]
    return value
