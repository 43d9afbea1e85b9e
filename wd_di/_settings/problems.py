"""How is told what is wrong with settings, without showing what was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from wd_di.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic_core import ErrorDetails

REFUSALS = (SettingsError, ValidationError)
"""What is raised for settings that are wrong: by a pool, and by an application's own class of them."""


def retold(error: ValidationError, text: Callable[[ErrorDetails], str]) -> ValidationError:
    """Return the error with another text for each problem in it."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(each["type"], "{text}", {"text": text(each)}), loc=each["loc"], input=each["input"]
        )
        for each in error.errors(include_url=False, include_context=False)
    ]
    return ValidationError.from_exception_data(error.title, details, hide_input=True)


def all_problems(error: ValidationError, said: Callable[[ErrorDetails], str]) -> str:
    """Return the problems in an error, each in its own words, as the text of one message."""
    return "; ".join(said(each) for each in error.errors(include_url=False))


def problem(error: ErrorDetails, where: Sequence[str]) -> str:
    """Say what is wrong there; a value by its kind, for it may be a secret."""
    text = str(error["msg"]).removeprefix("Value error, ")
    if not where:
        return text
    if hasattr(type(error["input"]), "__IS_PROVIDER__"):
        text = "a provider in a plain mapping isn't asked: make the mapping a providers.Dict"
    return f"{'.'.join(where)}: {text}, got {type(error['input']).__name__}"
