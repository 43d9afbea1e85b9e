"""How a record is checked and put in the client's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from wd_di._delivery import HeaderValue, Message

Text = str | bytes | None
Headers = Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]]
Prepared = tuple[str, dict[str, Any]]
"""A topic, and a checked record in the client's words."""

_TEXT = (str, bytes, type(None))


def prepare(
    topic: str, value: Text, key: Text, *, headers: Headers | None, partition: int | None, timestamp_ms: int | None
) -> Prepared:
    """Check one record.

    Raises:
        TypeError, ValueError: Names the field.
    """
    if not isinstance(topic, str):
        raise TypeError(_kind("topic", topic, "a str"))
    if not topic:
        raise ValueError("topic is empty")
    return topic, _fields(value, key, headers, partition=partition, timestamp_ms=timestamp_ms)


def prepare_all(messages: Iterable[Message]) -> list[Prepared]:
    """Check several records, before the first is sent."""
    return [_prepare_message(each) for each in messages]


def _prepare_message(m: Message) -> Prepared:
    if not isinstance(m, Message):
        raise TypeError(_kind("each of messages", m, "a wd_di.Message"))
    return prepare(m.topic, m.value, m.key, headers=m.headers, partition=m.partition, timestamp_ms=m.timestamp_ms)


def _fields(
    value: Text, key: Text, headers: Headers | None, *, partition: int | None, timestamp_ms: int | None
) -> dict[str, Any]:
    if not isinstance(value, _TEXT):
        raise TypeError(_kind("value", value, "str, bytes or None"))
    if not isinstance(key, _TEXT):
        raise TypeError(_kind("key", key, "str, bytes or None"))
    return {
        "value": value,
        "key": key,
        "partition": -1 if partition is None else _whole("partition", partition),
        "timestamp": 0 if timestamp_ms is None else _whole("timestamp_ms", timestamp_ms),
        "headers": None if headers is None else _headers(headers),
    }


def _whole(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(_kind(name, value, "an int"))
    if value < 0:
        raise ValueError(f"{name} is {value}: it can't be negative (leave it out to let Kafka choose)")
    return value


def _headers(headers: Headers) -> list[tuple[str, HeaderValue]]:
    if not isinstance(headers, Iterable):
        raise TypeError(_kind("headers", headers, "a mapping or (name, value) pairs"))
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:  # noqa: PLR2004  (a pair)
            raise TypeError(_kind("headers", pair, "a mapping or (name, value) pairs"))
        name, value = pair
        if not isinstance(name, str):
            raise TypeError(_kind("a header's name", name, "a str"))
        if not isinstance(value, _TEXT):
            raise TypeError(_kind(f"header {name!r}", value, "str, bytes or None"))
    return pairs


def _kind(field: str, value: object, wanted: str) -> str:
    return f"{field} is {wanted}, not {type(value).__name__}"
