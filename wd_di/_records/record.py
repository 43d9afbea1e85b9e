"""How a record is checked and put in the client's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wd_di._kafka.port import Rest

HeaderValue = str | bytes | None
Headers = Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]]
Prepared = tuple[str, str | bytes | None, str | bytes | None, Rest]
"""A checked record in the client's words: topic, value, key, and what else is given of it."""

_TEXT = (str, bytes, type(None))
_SAFE = frozenset((bytes, type(None)))
"""What needs no look at its characters."""
_checked: set[str] = set()
"""Topics that can be sent: there are few, and each record names one."""
_REMEMBERED = 1_000
_PAIR = 2
_MAX_INT32 = 2**31 - 1
_MAX_INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Message:
    """One record for ``produce_many_sync`` and ``produce_many_async``; the fields are those of ``produce_sync``."""

    topic: str
    value: str | bytes | None = None
    key: str | bytes | None = None
    headers: Headers | None = None
    partition: int | None = None
    timestamp_ms: int | None = None


def prepare(  # noqa: PLR0917  (keywords would cost each record 60 ns)
    topic: str,
    value: str | bytes | None,
    key: str | bytes | None,
    headers: Headers | None,
    partition: int | None,
    timestamp_ms: int | None,
) -> Prepared:
    """Check one record: what reaches librdkafka's C code unchecked is cut, fails without a word, or ends the process.

    Raises:
        TypeError, ValueError: Names the field.
    """
    if type(topic) is not str or topic not in _checked:
        _check_topic(topic)
    if type(value) not in _SAFE:
        _check_text("value", value)
    if type(key) not in _SAFE:
        _check_text("key", key)
    if headers is None and partition is None and timestamp_ms is None:
        return topic, value, key, None
    rest: dict[str, Any] = {}
    if partition is not None:
        rest["partition"] = _whole("partition", partition, _MAX_INT32)
    if timestamp_ms is not None:
        rest["timestamp"] = _timestamp(timestamp_ms)
    if headers is not None:
        rest["headers"] = _headers(headers)
    return topic, value, key, rest


def prepare_all(messages: Iterable[Message]) -> list[Prepared]:
    """Check several records, before the first is sent."""
    if not isinstance(messages, Iterable):
        raise TypeError(_kind("messages", messages, "an iterable of wd_di.Message"))
    records: list[Prepared] = []
    for m in messages:
        if not isinstance(m, Message):
            raise TypeError(_kind("each of messages", m, "a wd_di.Message"))
        records.append(prepare(m.topic, m.value, m.key, m.headers, m.partition, m.timestamp_ms))
    return records


def _check_topic(topic: str) -> None:
    if not isinstance(topic, str):
        raise TypeError(_kind("topic", topic, "a str"))
    if not topic:
        raise ValueError("topic is empty")
    _refuse_unsendable_name("topic", topic)
    if type(topic) is str and len(_checked) < _REMEMBERED:  # another's own ``__str__`` may say anything
        _checked.add(topic)


def _check_text(field: str, value: object) -> None:
    if not isinstance(value, _TEXT):
        raise TypeError(_kind(field, value, "str, bytes or None"))
    if isinstance(value, str) and not value.isascii():  # which it knows without looking
        _refuse_unencodable(field, value, ". Give the bytes instead")


def _refuse_unencodable(field: str, text: str, way_out: str = "") -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        at = error.start
    else:
        return
    raise ValueError(
        f"{field} has no UTF-8: character {at} of {len(text)} is half of a surrogate pair, as of a file name or of "
        f"input that was decoded with errors='surrogateescape'{way_out}"
    )


def _refuse_unsendable_name(field: str, name: str) -> None:
    """Names go to C as text that ends at its first NUL."""
    if "\0" in name:
        raise ValueError(f"{field} {name!r} has a NUL character, where librdkafka would cut it off")
    if not name.isascii():
        _refuse_unencodable(f"{field} {name!r}", name)


def _whole(field: str, value: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(_kind(field, value, "an int"))
    if value < 0:
        raise ValueError(f"{field} is {value}: it can't be negative (leave it out to let Kafka choose)")
    if value > most:
        raise ValueError(f"{field} is {value}: it can't be more than {most}")
    return value


def _timestamp(timestamp_ms: int) -> int:
    if _whole("timestamp_ms", timestamp_ms, _MAX_INT64) == 0:
        raise ValueError(
            "timestamp_ms is 0, which librdkafka takes for now: leave it out for now, and 1 is the earliest"
        )
    return timestamp_ms


def _headers(headers: Headers) -> list[tuple[str, HeaderValue]]:
    if not isinstance(headers, Iterable) or isinstance(headers, (str, bytes)):
        raise TypeError(_kind("headers", headers, "a mapping or (name, value) pairs"))
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != _PAIR:
            raise TypeError(_kind("headers", pair, "a mapping or (name, value) pairs"))
        name, value = pair
        if not isinstance(name, str):
            raise TypeError(_kind("a header's name", name, "a str"))
        _refuse_unsendable_name("header name", name)
        _check_text(f"header {name!r}", value)
    return pairs


def _kind(field: str, value: object, wanted: str) -> str:
    return f"{field} is {wanted}, not {type(value).__name__}"
