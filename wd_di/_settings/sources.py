"""How the names in a source of settings are brought to one form, before pydantic-settings merges it with others.

It merges by name: of one setting in two spellings both would survive, and neither would be the stronger.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, get_args

from wd_di._settings.shapes import Keys, Values, is_mapping, is_union, members, plain, takes_dicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class InOneForm:
    """A source of settings whose values come in the form that all sources have in common.

    In all else it is the source itself, also for ``isinstance``, which pydantic-settings asks.
    """

    def __init__(self, source: Callable[..., object], settings: type) -> None:
        self._source = source
        self._settings = settings
        self.given: object = None
        """What it gave, in its own form."""

    def __call__(self, *args: object, **options: object) -> object:
        """Return what the source gives; the command line's gives itself while it is set up."""
        values = self.given = self._source(*args, **options)
        return in_one_form(self._settings, values)

    @property
    def __name__(self) -> str:
        return getattr(self._source, "__name__", type(self._source).__name__)

    @property  # type: ignore[misc]  # mypy: read-only where object's can be set
    def __class__(self) -> type:
        return type(self._source)

    def __getattr__(self, name: str) -> object:
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


def all_in_one_form(sources: Iterable[Callable[..., object]], settings: type) -> tuple[InOneForm, ...]:
    """Return the sources of a class of settings in one form."""
    made = tuple(each if type(each) is InOneForm else InOneForm(each, settings) for each in sources)
    noted = _read.get()
    if noted is not None:
        noted[:] = made  # a subclass may ask its parent, and choose among its sources
    return made


def in_one_form(annotation: object, value: object) -> object:
    """Return the value with the names of all pools in it in one form, as far as the annotation leads to pools."""
    return all_names(annotation, value) if isinstance(value, dict) else value


def all_names(annotation: object, value: Values) -> Values:
    """Do the same for what is a dictionary, as anything with names is."""
    annotation = plain(annotation)
    args = get_args(annotation)
    if is_union(annotation):
        return _as_all_say([all_names(each, value) for each in args if takes_dicts(each)], value)
    if is_mapping(annotation):
        return {key: in_one_form(args[-1], each) for key, each in value.items()}
    own: Callable[[Values], Values] | None = getattr(annotation, "_in_one_form", None)
    value = value if own is None else own(value)
    for ways, inner, _ in members(annotation):
        for way in ways:
            value = _changed(value, way, inner)
    return value


def _as_all_say(results: list[Values], value: Values) -> Values:
    """Of a union nobody knows yet which member the value is: it is changed if that's the same for all of them."""
    return results[0] if results and all(each == results[0] for each in results) else value


def _changed(value: Values, way: Keys, annotation: object) -> Values:
    first, *others = way
    if first not in value:
        return value
    inner = value[first]
    if others:
        return {**value, first: _changed(inner, others, annotation)} if isinstance(inner, dict) else value
    return {**value, first: in_one_form(annotation, inner)}
