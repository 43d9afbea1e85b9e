"""How the names in a source of settings are brought to one form, before pydantic-settings merges it with others.

It merges by name: of one setting in two spellings both would survive, and neither would be the stronger.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


class InOneForm:
    """A source of settings whose values come in the form that all sources have in common.

    In all else it is the source itself, also for ``isinstance``, which pydantic-settings asks.
    """

    def __init__(self, source: Any, settings: type[Any]) -> None:
        self._source = source
        self._settings = settings

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Return what the source gives; the command line's gives itself while it is set up."""
        values = self._source(*args, **options)
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


def in_one_form(annotation: Any, value: Any) -> Any:
    """Return the value with the names of all pools in it in one form, as far as the annotation leads to pools."""
    if not isinstance(value, dict):
        return value
    annotation = _plain(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _as_all_say([in_one_form(each, value) for each in args if _takes_dicts(each)], value)
    if isinstance(origin, type) and issubclass(origin, Mapping) and args:
        return {key: in_one_form(args[-1], each) for key, each in value.items()}
    own: Callable[[dict[Any, Any]], dict[Any, Any]] | None = getattr(annotation, "_in_one_form", None)
    value = value if own is None else own(value)
    for path, inner in _members(annotation):
        value = _changed(value, path, inner)
    return value


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


def _members(annotation: Any) -> list[tuple[list[str | int], Any]]:
    """Where a model's fields are found in its input, under their names and their aliases."""
    fields = getattr(annotation, "model_fields", None) or getattr(annotation, "__pydantic_fields__", None)
    if isinstance(fields, Mapping):
        return [(path, field.annotation) for name, field in fields.items() for path in _paths(name, field)]
    if is_dataclass(annotation) or hasattr(annotation, "__total__"):  # a TypedDict, also one of typing_extensions
        try:
            return [([name], hint) for name, hint in get_type_hints(annotation, include_extras=True).items()]
        except NameError:  # pydantic complains of it
            return []
    return []


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
