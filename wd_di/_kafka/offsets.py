"""What of a consumer's can be sent with a transaction."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import TopicPartition

__all__ = ["TopicPartition", "checked_offsets", "cut_metadata", "group_of", "unfit_metadata"]

_MARK = b"CGMD"
_GROUP_AT = 11


def checked_offsets(offsets: object) -> list[TopicPartition]:
    """Return a consumer group's offsets as librdkafka takes them.

    It would skip a partition without an offset, and find nothing to do in an empty list, without a word.

    Raises:
        TypeError, ValueError: Names what is wrong.
    """
    if isinstance(offsets, (str, bytes)) or not isinstance(offsets, Iterable):
        raise TypeError(f"offsets are a list of confluent_kafka.TopicPartition, not {type(offsets).__name__}")
    given = list(offsets)
    if not given:
        raise ValueError("offsets are empty: send those of the batch, the last read + 1 for each partition")
    for each in given:
        if not isinstance(each, TopicPartition):
            raise TypeError(f"offsets are a list of confluent_kafka.TopicPartition, not of {type(each).__name__}")
        if not each.topic or each.partition < 0:
            raise ValueError(f"offsets name a topic and a partition, not {each.topic!r} and {each.partition}")
        if each.offset < 0:
            raise ValueError(
                f"the offset of {each.topic}[{each.partition}] is {each.offset}, which isn't one: send the last read "
                "+ 1, and leave out a partition of which nothing was read"
            )
    return given


def unfit_metadata(given: object) -> str:
    """Say what should have been given as the group's metadata."""
    return f"group_metadata is what consumer.consumer_group_metadata() returns, not {type(given).__name__}"


def cut_metadata(given: object) -> str:
    """Say that it begins as a group's metadata does, and can't be read."""
    return f"{unfit_metadata(given)}: it is cut or made up"


def group_of(metadata: object) -> str:
    """Return the group's id: librdkafka writes it after a mark of seven bytes and the generation, up to a NUL.

    Raises:
        TypeError, ValueError: It isn't a group's metadata, and what should have been given.
    """
    if not isinstance(metadata, bytes) or not metadata.startswith(_MARK):
        raise TypeError(unfit_metadata(metadata))
    group, end, _ = metadata[_GROUP_AT:].partition(b"\0")
    if not end:
        raise ValueError(cut_metadata(metadata))
    return group.decode(errors="replace")
