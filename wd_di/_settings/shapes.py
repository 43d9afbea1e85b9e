"""What annotations, models and their fields look like to those who must not know pydantic."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from typing import Annotated, Any, Protocol, Union, get_args, get_origin, get_type_hints

Values = dict[object, object]
"""What a source gives, or a part of it: not checked yet, so its keys may be anything."""
Keys = list[str | int]
"""The way to one value, of a field with an alias."""

WAY = "_way_to_brokers"
"""Under this a pool's settings without brokers hold which variable would have given them, if that is known."""


class Part(dict[object, object]):
    """What changes a part of a default, with that: its class may be based on the one that a field is typed as."""

    def __init__(self, default: object, values: Values) -> None:
        super().__init__(values)
        self.default = default


class Field(Protocol):
    """A model's."""

    annotation: object
    validation_alias: object
    alias: str | None


def fields_of(model: object) -> Mapping[str, Field]:
    """Return a model's fields; none for what is no model."""
    fields: Mapping[str, Field] = getattr(model, "model_fields", {})
    return fields


def config_of(model: object) -> Mapping[str, object]:
    """Return how a model is configured; nothing for what is no model."""
    config: Mapping[str, object] = getattr(model, "model_config", {})
    return config


def plain(annotation: object) -> object:
    """Take off ``Annotated`` and the names of ``type`` statements."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return annotation


def is_union(annotation: object) -> bool:
    """Whether this is one of several."""
    return get_origin(annotation) in (Union, types.UnionType)


def is_mapping(annotation: object) -> bool:
    """Whether this is a mapping that says what is in it."""
    origin = get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Mapping) and bool(get_args(annotation))


def takes_dicts(annotation: object) -> bool:
    """Whether a dictionary may become this."""
    annotation = plain(annotation)
    if is_union(annotation):
        return any(takes_dicts(each) for each in get_args(annotation))
    kind = get_origin(annotation) or annotation
    if kind is Any or kind is object:
        return True
    return isinstance(kind, type) and (issubclass(kind, Mapping) or hasattr(kind, "model_fields") or is_dataclass(kind))


def members(annotation: object) -> Iterator[tuple[list[Keys], object, object]]:
    """Where a model's fields are found in its input, under their names and their aliases; with what is said of them."""
    fields = getattr(annotation, "model_fields", None) or getattr(annotation, "__pydantic_fields__", None)
    if isinstance(fields, Mapping):
        for name, field in fields.items():
            yield _ways(name, field), field.annotation, field
    elif is_dataclass(annotation) or hasattr(annotation, "__total__"):  # a TypedDict, also one of typing_extensions
        own = getattr(annotation, "__dataclass_fields__", {})
        with suppress(NameError):  # pydantic complains of it
            for name, hint in get_type_hints(annotation, include_extras=True).items():
                yield [[name]], hint, own.get(name)


def _ways(name: str, field: object) -> list[Keys]:
    alias = getattr(field, "validation_alias", None)
    if alias is None:
        return [[name]]
    spelled = [alias] if isinstance(alias, str) else alias.convert_to_aliases()
    return [[name], *(spelled if isinstance(spelled[0], list) else [spelled])]


def read_as(annotation: object, ways: list[Keys]) -> list[Keys]:
    """Return those of a field's names that its model reads."""
    config = config_of(annotation)
    both = config.get("populate_by_name") or config.get("validate_by_name")
    return ways[1:] + (ways[:1] if both or len(ways) == 1 else [])


def aliases(model: object) -> dict[str, str]:
    """Return what a class of settings reads by other names than its fields', with the fields."""
    fields = [ways for ways, _, _ in members(model)]
    return {str(way[0]).lower(): str(own[0]) for own, *others in fields for way in others}
