"""How the names in a source of settings are brought to one form, before pydantic-settings merges it with others.

It merges by name: of one setting in two spellings both would survive, and neither would be the stronger.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from wd_di.errors import SettingsError


class InOneForm:
    """A source of settings whose values come in the form that all sources have in common.

    In all else it is the source itself, also for ``isinstance``, which pydantic-settings asks.
    """

    def __init__(self, source: Any, settings: type[Any]) -> None:
        self._source = source
        self._settings = settings
        self.given: object = None
        """What it gave, in its own form."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Return what the source gives; the command line's gives itself while it is set up."""
        values = self.given = self._source(*args, **options)
        return in_one_form(self._settings, values) if isinstance(values, dict) else values

    @property
    def __name__(self) -> str:
        return getattr(self._source, "__name__", type(self._source).__name__)

    @property  # type: ignore[misc]  # mypy: read-only where object's can be set
    def __class__(self) -> type[Any]:
        return type(self._source)

    def __getattr__(self, name: str) -> Any:
        if name == "_source":  # a copy that isn't made yet
            raise AttributeError(name)
        return getattr(self._source, name)

    def __repr__(self) -> str:
        return repr(self._source)


_read: ContextVar[list[InOneForm] | None] = ContextVar("_read", default=None)


@contextmanager
def reading() -> Iterator[list[InOneForm]]:
    """Note the sources that are read for the settings made in this block."""
    sources: list[InOneForm] = []
    token = _read.set(sources)
    try:
        yield sources
    finally:
        _read.reset(token)


def all_in_one_form(sources: tuple[Any, ...], settings: type[Any]) -> tuple[Any, ...]:
    """Return the sources of a class of settings in one form."""
    made = tuple(each if type(each) is InOneForm else InOneForm(each, settings) for each in sources)
    noted = _read.get()
    if noted is not None:
        noted[:] = made  # a subclass may ask its parent, and choose among its sources
    return made


def in_one_form(annotation: Any, value: Any) -> Any:
    """Return the value with the names of all pools in it in one form, as far as the annotation leads to pools."""
    if not isinstance(value, dict):
        return value
    annotation = _plain(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _as_all_say([in_one_form(each, value) for each in args if _takes_dicts(each)], value)
    if _is_mapping(annotation):
        return {key: in_one_form(args[-1], each) for key, each in value.items()}
    own: Callable[[dict[Any, Any]], dict[Any, Any]] | None = getattr(annotation, "_in_one_form", None)
    value = value if own is None else own(value)
    for paths, inner, _ in _members(annotation):
        for path in paths:
            value = _changed(value, path, inner)
    return value


# -- where the pools are -----------------------------------------------------------------------------


def is_kafka(kind: Any) -> bool:
    """Whether this is a class of Kafka's settings."""
    return hasattr(kind, "librdkafka")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a class of settings has a pool, or a block of Kafka's settings.

    Attributes:
        kind: The class of that.
        path: The fields that lead there.
        own: How many of them tell it from others: a pool's ``kafka`` is known by the pool's name only.
    """

    kind: Any
    path: tuple[str, ...]
    own: int = 1

    @property
    def alone(self) -> bool:
        """Whether this is a block of Kafka's that belongs to no pool."""
        return is_kafka(self.kind) and self.own == 1


def places(annotation: Any, path: tuple[str, ...] = (), default: Any = None, seen: Any = ()) -> Iterator[Place]:
    """Find the pools and the blocks of Kafka's settings; those of a mapping by the keys of its default."""
    annotation = _plain(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        for each in args:
            yield from places(each, path, default, seen)
    elif _is_mapping(annotation) and isinstance(default, Mapping):
        for key, each in default.items():
            yield from places(args[-1], (*path, str(key)), each, seen)
    elif hasattr(annotation, "_in_one_form"):
        yield Place(annotation, path)
        if not is_kafka(annotation):
            yield Place(annotation.model_fields["kafka"].annotation, (*path, "kafka"), 2)
    elif annotation not in seen:
        for paths, inner, field in _members(annotation):
            keys = map(str, _read_as(annotation, paths)[0])
            yield from places(inner, (*path, *keys), getattr(field, "default", None), (*seen, annotation))


# -- defaults that are changed in part ---------------------------------------------------------------


def beneath(
    annotation: Any,
    value: Any,
    default: Callable[[], Any],
    argument: Any,
    dump: Callable[[Any], Any],
) -> dict[Any, Any]:
    """Return what a default gives beside a value that changes a part of it, on the way to pools and in them.

    Args:
        annotation: What the value is to become.
        value: What is given.
        default: Asked only if something is given.
        argument: What of it is given by the program itself: that says which pools a mapping has.
        dump: Makes mappings of models.
    """
    annotation = _plain(annotation)
    if not isinstance(value, Mapping) or not _leads(annotation):
        return {}
    dumped = dump(default())
    base = in_one_form(annotation, dict(dumped)) if isinstance(dumped, Mapping) else {}
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        ways = [each for each in args if _leads(each)]
        return {**beneath(ways[0], value, dict, argument, dump), **base} if len(ways) == 1 else base
    if _is_mapping(annotation):
        given = isinstance(argument, Mapping)
        base = {key: each for key, each in base.items() if key in value or not given}
        inner: dict[Any, Any] = dict.fromkeys(value, (args[-1], dict))
    else:
        inner = {
            keys[0]: (hint, partial(_default, keys[0], hint, value[keys[0]], field))
            for paths, hint, field in _members(annotation)
            for keys in paths
            if keys[0] in value and len(keys) == 1 and not getattr(field, "discriminator", None)
        }
    for key, (hint, made) in inner.items():
        if key not in base:
            further = argument.get(key) if isinstance(argument, Mapping) else None
            base[key] = beneath(hint, value[key], made, further, dump)
    return {key: each for key, each in base.items() if key not in inner or each != {}}


def _leads(annotation: Any, seen: tuple[Any, ...] = ()) -> bool:
    """Whether there is a pool, or a block of Kafka's settings, somewhere below."""
    annotation = _plain(annotation)
    if annotation in seen or hasattr(annotation, "_in_one_form"):
        return annotation not in seen
    within = [inner for _, inner, _ in _members(annotation)]
    if get_origin(annotation) in (Union, types.UnionType) or _is_mapping(annotation):
        within += get_args(annotation)
    return any(_leads(each, (*seen, annotation)) for each in within)


def _default(name: Any, annotation: Any, value: Any, field: Any) -> Any:
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


def _complete(annotation: Any, value: Any) -> bool:
    """Whether a value leaves nothing to the default, as that of an instance."""
    if _is_mapping(annotation):
        return all(_complete(get_args(annotation)[-1], each) for each in value.values())
    return all(name in value for name in getattr(annotation, "model_fields", ()))


def _is_mapping(annotation: Any) -> bool:
    origin = get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Mapping) and bool(get_args(annotation))


# -- where a name ends -------------------------------------------------------------------------------


Landing = tuple[tuple[str, ...], Any, tuple[str, ...]]


def landing(annotation: Any, path: tuple[str, ...]) -> Landing | None:
    """Follow a path of keys into a class of settings.

    Returns:
        The part that leads to a pool or a block of Kafka's settings, the class of that and the rest; without a class if
        it leads to something else, and ``None`` if it is dropped on the way.
    """
    annotation = _plain(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        found = [landing(each, path) for each in args if _takes_dicts(each)]
        return next((each for each in found if each), None if found else (path, None, ()))
    if _is_mapping(annotation) and path:
        return _further(path[:1], landing(args[-1], path[1:]))
    if not hasattr(annotation, "_in_one_form"):
        return _within(annotation, path)
    if path and path[0].lower() == "kafka" and not is_kafka(annotation):
        return _further(path[:1], landing(annotation.model_fields["kafka"].annotation, path[1:]))
    return (), annotation, path


def _within(annotation: Any, path: tuple[str, ...]) -> Landing | None:
    given, members = [each.lower() for each in path], list(_members(annotation))
    for paths, inner, _ in members:
        for keys in _read_as(annotation, paths):
            if path and [str(key).lower() for key in keys] == given[: len(keys)]:
                return _further(path[: len(keys)], landing(inner, path[len(keys) :]))
    ignores = getattr(annotation, "model_config", {}).get("extra", "ignore") == "ignore"
    return None if path and members and ignores else (path, None, ())


def _further(head: tuple[str, ...], found: Landing | None) -> Landing | None:
    return found and ((*head, *found[0]), *found[1:])


def _plain(annotation: Any) -> Any:
    """Take off ``Annotated`` and the names of ``type`` statements."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return annotation


def _as_all_say(results: list[Any], value: Any) -> Any:
    """Of a union nobody knows yet which member the value is: it is changed if that's the same for all of them."""
    return results[0] if results and all(each == results[0] for each in results) else value


def _takes_dicts(annotation: Any) -> bool:
    annotation = _plain(annotation)
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return any(_takes_dicts(each) for each in get_args(annotation))
    kind = origin or annotation
    if kind is Any or kind is object:
        return True
    return isinstance(kind, type) and (issubclass(kind, Mapping) or hasattr(kind, "model_fields") or is_dataclass(kind))


def _members(annotation: Any) -> Iterator[tuple[list[list[str | int]], Any, Any]]:
    """Where a model's fields are found in its input, under their names and their aliases; with what is said of them."""
    fields = getattr(annotation, "model_fields", None) or getattr(annotation, "__pydantic_fields__", None)
    if isinstance(fields, Mapping):
        for name, field in fields.items():
            yield _paths(name, field), field.annotation, field
    elif is_dataclass(annotation) or hasattr(annotation, "__total__"):  # a TypedDict, also one of typing_extensions
        own = getattr(annotation, "__dataclass_fields__", {})
        with suppress(NameError):  # pydantic complains of it
            for name, hint in get_type_hints(annotation, include_extras=True).items():
                yield [[name]], hint, own.get(name)


def _read_as(annotation: Any, paths: list[list[str | int]]) -> list[list[str | int]]:
    """Return those of a field's names that its model reads."""
    config = getattr(annotation, "model_config", {})
    both = config.get("populate_by_name") or config.get("validate_by_name")
    return paths[1:] + (paths[:1] if both or len(paths) == 1 else [])


def aliases(kind: type[Any]) -> dict[str, str]:
    """Return what a class of settings reads by other names than its fields', with the fields."""
    fields = [paths for paths, _, _ in _members(kind)]
    return {str(path[0]).lower(): str(own[0]) for own, *others in fields for path in others}


def _paths(name: str, field: Any) -> list[list[str | int]]:
    alias = field.validation_alias
    if alias is None:
        return [[name]]
    spelled: Any = [alias] if isinstance(alias, str) else alias.convert_to_aliases()
    return [[name], *(spelled if isinstance(spelled[0], list) else [spelled])]


def _changed(value: Any, path: list[str | int], annotation: Any) -> Any:
    if not path:
        return in_one_form(annotation, value)
    if not isinstance(value, dict) or path[0] not in value:
        return value
    return {**value, path[0]: _changed(value[path[0]], path[1:], annotation)}
