"""Where a class of settings has pools and blocks of Kafka's settings, and what a path of keys leads to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeGuard, get_args

from wd_di._settings.shapes import config_of, fields_of, is_mapping, is_union, members, plain, read_as, takes_dicts


class Kafka(Protocol):
    """A class of Kafka's settings."""

    def knows(self, name: str, /) -> bool:
        """Whether there is a setting of this name."""

    def nearly(self, name: str, /) -> str | None:
        """Return the setting that this name is nearly."""


def is_kafka(kind: object) -> TypeGuard[Kafka]:
    """Whether this is a class of Kafka's settings."""
    return hasattr(kind, "librdkafka")


def is_pool(kind: object) -> bool:
    """Whether this is a class of a pool's settings."""
    return _is_ours(kind) and not is_kafka(kind)


def kafka_of(pool: object) -> object:
    """Return the class of Kafka's settings in a class of a pool's."""
    return fields_of(pool)["kafka"].annotation


def _is_ours(annotation: object) -> bool:
    return hasattr(annotation, "_in_one_form")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a class of settings has a pool, or a block of Kafka's settings.

    Attributes:
        kind: The class of that.
        path: The fields that lead there.
        own: How many of them tell it from others: a pool's ``kafka`` is known by the pool's name only.
    """

    kind: object
    path: tuple[str, ...]
    own: int = 1

    @property
    def alone(self) -> bool:
        """Whether this is a block of Kafka's that belongs to no pool."""
        return is_kafka(self.kind) and self.own == 1


def places(
    annotation: object, path: tuple[str, ...] = (), default: object = None, seen: tuple[object, ...] = ()
) -> Iterator[Place]:
    """Find the pools and the blocks of Kafka's settings; those of a mapping by the keys of its default."""
    annotation = plain(annotation)
    args = get_args(annotation)
    if is_union(annotation):
        for each in args:
            yield from places(each, path, default, seen)
    elif is_mapping(annotation) and isinstance(default, Mapping):
        for key, each in default.items():
            yield from places(args[-1], (*path, str(key)), each, seen)
    elif _is_ours(annotation):
        yield Place(annotation, path)
        if not is_kafka(annotation):
            yield Place(kafka_of(annotation), (*path, "kafka"), 2)
    elif annotation not in seen:
        for ways, inner, field in members(annotation):
            keys = map(str, read_as(annotation, ways)[0])
            own = getattr(default, str(ways[0][0]), None)  # of a model within, its default may have other pools
            own = _default(inner, field) if own is None else own
            yield from places(inner, (*path, *keys), own, (*seen, annotation))


def _default(annotation: object, field: object) -> object:
    factory = getattr(field, "default_factory", None)
    if callable(factory) and is_mapping(annotation):
        with suppress(Exception):  # pydantic tells of it, and gives one that takes an argument what it wants
            return factory()
    return getattr(field, "default", None)


def open_places(
    annotation: object, path: tuple[str, ...] = (), seen: tuple[object, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Find the mappings that take pools by whatever key; with the class of those."""
    annotation = plain(annotation)
    if is_union(annotation):
        for each in get_args(annotation):
            yield from open_places(each, path, seen)
    elif is_mapping(annotation):
        if is_pool(kind := plain(get_args(annotation)[-1])):
            yield path, kind
    elif not _is_ours(annotation) and annotation not in seen:
        for ways, inner, _ in members(annotation):
            yield from open_places(inner, (*path, *map(str, read_as(annotation, ways)[0])), (*seen, annotation))


# -- where a name ends -------------------------------------------------------------------------------


Landing = tuple[tuple[str, ...], object, tuple[str, ...]]


def landing(annotation: object, path: tuple[str, ...], *, extras: bool = True) -> Landing | None:
    """Follow a path of keys into a class of settings.

    Args:
        annotation: The class, or what a field of one is to become.
        path: The keys.
        extras: Whether what the class has no field for gets to it at all; from an environment it doesn't.

    Returns:
        The part that leads to a pool or a block of Kafka's settings, the class of that and the rest; without a class if
        it leads to something else, and ``None`` if it is dropped on the way.
    """
    annotation = plain(annotation)
    args = get_args(annotation)
    if is_union(annotation):
        found = [landing(each, path) for each in args if takes_dicts(each)]
        return next((each for each in found if each), None if found else (path, None, ()))
    if is_mapping(annotation) and path:
        return _further(path[:1], landing(args[-1], path[1:]))
    if not _is_ours(annotation):
        return _within(annotation, path, extras=extras)
    if path and path[0].lower() == "kafka" and not is_kafka(annotation):
        return _further(path[:1], landing(kafka_of(annotation), path[1:]))
    return (), annotation, path


def _within(annotation: object, path: tuple[str, ...], *, extras: bool) -> Landing | None:
    given, fields = [each.lower() for each in path], list(members(annotation))
    for ways, inner, _ in fields:
        for keys in read_as(annotation, ways):
            if path and [str(key).lower() for key in keys] == given[: len(keys)]:
                return _further(path[: len(keys)], landing(inner, path[len(keys) :]))
    ignores = not extras or config_of(annotation).get("extra", "ignore") == "ignore"
    return None if path and fields and ignores else (path, None, ())


def _further(head: tuple[str, ...], found: Landing | None) -> Landing | None:
    return found and ((*head, *found[0]), *found[1:])
