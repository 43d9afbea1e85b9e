"""What a default gives beside a value that changes a part of it, where pydantic-settings doesn't look for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import get_args

from wd_di._settings.shapes import Part, Values, fields_of, is_mapping, is_union, members, plain
from wd_di._settings.sources import all_names
from wd_di.errors import SettingsError


def beneath(
    annotation: object,
    value: object,
    default: Callable[[], object],
    argument: object,
    dump: Callable[[object], object],
) -> Values:
    """Return what a default gives beside a value that changes a part of it, on the way to pools and in them.

    Args:
        annotation: What the value is to become.
        value: What is given.
        default: Asked only if something is given.
        argument: What of it is given by the program itself: that says which pools a mapping has.
        dump: Makes mappings of models.
    """
    annotation = plain(annotation)
    if not isinstance(value, Mapping) or not leads(annotation):
        return {}
    dumped = dump(default())
    base = all_names(annotation, dict(dumped)) if isinstance(dumped, Mapping) else {}
    args = get_args(annotation)
    if is_union(annotation):
        ways = [each for each in args if leads(each)]
        return {**beneath(ways[0], value, dict, argument, dump), **base} if len(ways) == 1 else base
    if is_mapping(annotation):
        given = isinstance(argument, Mapping)
        base = {key: each for key, each in base.items() if key in value or not given}
        inner: dict[object, tuple[object, Callable[[], object]]] = dict.fromkeys(value, (args[-1], dict))
    else:
        inner = {
            keys[0]: (hint, partial(_default, keys[0], hint, value[keys[0]], field))
            for ways, hint, field in members(annotation)
            for keys in ways
            if keys[0] in value and len(keys) == 1 and not getattr(field, "discriminator", None)
        }
    for key, (hint, made) in inner.items():
        if key not in base:
            further = argument.get(key) if isinstance(argument, Mapping) else None
            base[key] = beneath(hint, value[key], made, further, dump)
    return {key: each for key, each in base.items() if key not in inner or each != {}}


def in_its_class(value: object, default: object) -> object:
    """Return what changes a default in part, to become what the default is, also where that's of a subclass."""
    if not isinstance(value, Mapping):
        return value
    kind, within = type(default), default if isinstance(default, Mapping) else {}
    if fields_of(kind):
        ways = [(keys, ways[0][0]) for ways, _, _ in members(kind) for keys in ways if len(keys) == 1]
        within = {keys[0]: getattr(default, str(name), None) for keys, name in ways}
    made: Values = {key: in_its_class(each, within.get(key)) for key, each in value.items()}
    if hasattr(kind, "_in_one_form"):
        return Part(default, made)
    return value if all(made[key] is value[key] for key in value) else made


def leads(annotation: object, seen: tuple[object, ...] = ()) -> bool:
    """Whether there is a pool, or a block of Kafka's settings, somewhere below."""
    annotation = plain(annotation)
    if annotation in seen or hasattr(annotation, "_in_one_form"):
        return annotation not in seen
    within = [inner for _, inner, _ in members(annotation)]
    if is_union(annotation) or is_mapping(annotation):
        within += get_args(annotation)
    return any(leads(each, (*seen, annotation)) for each in within)


def _default(name: object, annotation: object, value: object, field: object) -> object:
    factory = getattr(field, "default_factory", None)
    if not callable(factory):
        return getattr(field, "default", None)
    if not getattr(field, "default_factory_takes_validated_data", False):
        return factory()
    if _complete(annotation, value):
        return None
    raise SettingsError(
        f"{name}: a default that is made from other settings can't be changed in part: give all of its settings, or a "
        "default_factory without arguments"
    )


def _complete(annotation: object, value: object) -> bool:
    """Whether a value leaves nothing to the default, as that of an instance."""
    given = value if isinstance(value, Mapping) else {}
    if is_mapping(annotation):
        return all(_complete(get_args(annotation)[-1], each) for each in given.values())
    return all(name in given for name in fields_of(annotation))
