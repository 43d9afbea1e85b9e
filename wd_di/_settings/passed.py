"""Which values librdkafka may be given under a name that has no field of its own here."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from inspect import iscoroutinefunction

from wd_di._settings.names import CALLED, INSTEAD, OF_RECORDS, TOPIC_DEFAULTS, TOPIC_SETTINGS, under_names


def kind_of(given: object) -> str:
    """Return what may be said of a value that may be a secret."""
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__


def refuse(name: str, value: object, fields: Iterable[str], *, secret: bool) -> None:
    """Check a value without a typed field, as far as its name says what it takes.

    Args:
        name: librdkafka's.
        value: What is given, in its place.
        fields: The names of settings with a typed field.
        secret: Whether the value must not be shown.

    Raises:
        ValueError: It can't be passed on.
    """
    if name in INSTEAD and (name, value) != ("delivery.report.only.error", False):
        raise ValueError(f"{name} can't be set for a pool's producers: {INSTEAD[name]}")
    if name in OF_RECORDS:
        raise ValueError(f"{name} is no setting: {OF_RECORDS[name]}")
    if not (secret and "." in name):  # it may be a key in JSON; ssl_key takes none
        _refuse_json(name, value, fields)
    longer = [each for each in fields if each.startswith(f"{name}.")]
    if longer:
        raise ValueError(f"{name} is no setting, only the beginning of some: {', '.join(longer)}")
    kind = "a coroutine function" if iscoroutinefunction(value) else kind_of(value)
    if name == "logger" and (isinstance(value, type) or not callable(getattr(value, "log", None))):
        raise ValueError(f"logger takes a logging.Logger, not {kind}")
    if name in CALLED and (not callable(value) or iscoroutinefunction(value)):
        raise ValueError(f"{name} takes a plain function, not {kind}")


def topic_defaults(value: object, beside: Mapping[str, object]) -> dict[str, object]:
    """Return what is given for all topics, by librdkafka's names.

    Raises:
        ValueError: It is no mapping, has other settings in it, or differs from what is given beside it.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{TOPIC_DEFAULTS} takes a mapping, not {kind_of(value)}")
    values = under_names(value)
    others = sorted(values.keys() - TOPIC_SETTINGS)
    if others:
        raise ValueError(f"{', '.join(others)} can't stand in {TOPIC_DEFAULTS}: set it beside that")
    twice = [name for name in values if name in beside and str(values[name]) != str(beside[name])]
    if twice:
        raise ValueError(f"{', '.join(twice)} is given twice with different values, in {TOPIC_DEFAULTS} and beside it")
    return values


def _refuse_json(name: str, value: object, fields: Iterable[str]) -> None:
    """Refuse a text that holds JSON: pydantic-settings reads it for a whole field only, and librdkafka never."""
    read = json_in(value)
    if isinstance(read, list):
        raise ValueError(f"{name} takes text, not a JSON list: separate its values by commas")
    if not isinstance(read, dict):
        return
    inner: list[str] = []
    with suppress(ValueError):
        inner = (
            [f"{name}__{key}" for key in under_names(read)] if name == TOPIC_DEFAULTS else [*under_names({name: read})]
        )
    known = [each for each in inner if each in fields] or [each for each in fields if each.startswith(f"{name}.")][:3]
    start, example = _variables_start(name, value), ""
    if start is None:
        start, example = "ORDERS__KAFKA__", "for a pool 'orders' for example "
    variables = ", ".join(f"{start}{each.replace('.', '_').upper()}" for each in known or inner or [name])
    raise ValueError(
        f"{name} is given JSON, which is read for the whole of the field kafka and not for a part of it: in the "
        f"environment each setting has a variable of its own, {example}{variables}"
    )


def _variables_start(name: str, value: object) -> str | None:
    """Return what the environment's variable with this value has before the name of the setting."""
    ending = r"[._]+".join(map(re.escape, re.split(r"[._]+", name)))
    found = (re.fullmatch(f"(.*?){ending}", key, re.IGNORECASE) for key, each in os.environ.items() if each == value)
    return next((match[1] for match in found if match), None)


def json_in(value: object) -> object:
    """Return what a text holds that is a JSON list or object; else ``None``."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return None
