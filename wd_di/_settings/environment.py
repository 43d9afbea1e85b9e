"""How an application's settings are read: one field for each pool, from the environment and other sources."""

from __future__ import annotations

import json
import warnings
import weakref
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, TypeAdapter, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import (
    SettingsError as UnreadError,
)

from wd_di._settings.defaults import beneath, in_its_class, leads
from wd_di._settings.places import is_pool
from wd_di._settings.problems import retold
from wd_di._settings.shapes import WAY, members, read_as
from wd_di._settings.sources import all_in_one_form, reading
from wd_di._settings.variables import Given, misspelt_arguments
from wd_di._settings.warned import SettingsWarning, outside
from wd_di.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Settings(BaseSettings):
    """Base of an application's settings: one field for each pool, from the environment.

    A dotenv file and a folder of secrets are read where a class names them: ``env_file`` and ``secrets_dir``.
    ``ORDERS__KAFKA__SASL_PASSWORD`` and a file ``orders__kafka__sasl_password`` in ``secrets_dir`` both fill
    ``orders.kafka.sasl_password``. Inputs are hidden in validation errors, since they hold passwords (but for
    ``ValidationError.errors()``, which isn't meant to be printed); a plain ``BaseSettings`` around pools prints them.

    The names of pools' and Kafka's settings are brought to one form in each source, also in those that a subclass adds
    by ``settings_customise_sources``. So the stronger source wins, whichever way each of them spells a setting.

    A variable changes one setting of a default and leaves the others. One that is near to a pool's or Kafka's, such as
    ``ORDER__SIZE``, is a warning; a validation error names the variable, or the file, that it is about.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_nested_delimiter="__",
        # Else ORDERS__SIZE=3 replaces a default as a whole, its transactional_id with it.
        nested_model_default_partial_update=True,
        # A dotenv file is often shared with other programs.
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    def __init__(self, **values: Any) -> None:
        told: Exception | None = None
        with reading() as sources:
            try:
                super().__init__(**values)
            except (UnreadError, ValidationError) as error:
                told = _told(error, Given(type(self), sources, _kinds))
        if told is not None:
            raise told  # outside of the handler: the original may show inputs
        given = Given(type(self), sources, _kinds)
        for remark in given.remarks(misspelt_arguments(type(self), values)):
            warnings.warn(f"{type(self).__name__}: {remark}", SettingsWarning, outside())
        self.__dict__.update(_with_way(type(self), self.__dict__, (), given.way_to_brokers))

    @field_validator("*", mode="before")
    @classmethod
    def _in_its_class(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[str(info.field_name)]
        partly = cls.model_config.get("nested_model_default_partial_update") and isinstance(value, dict)
        if not partly or field.default_factory_takes_validated_data or not leads(field.annotation):
            return value
        return in_its_class(value, field.get_default(call_default_factory=True))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy with changes, as pydantic does; a name that is no field would be kept where nobody looks.

        Raises:
            SettingsError: Names what is no field.
        """
        kind = type(self)
        # What the class itself has, such as a cached property, may be set so.
        others = [name for name in update or () if name not in kind.model_fields and not hasattr(kind, str(name))]
        if others and kind.model_config.get("extra") != "allow":
            near = get_close_matches(str(others[0]).lower(), kind.model_fields, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise SettingsError(f"{kind.__name__}: model_copy was told of {others[0]!r}, which is no field{hint}")
        return super().model_copy(update=update, deep=deep)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  (pydantic-settings passes it by name)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the secrets folder with nested names too: pydantic-settings' own source fills top-level fields only."""
        return (init_settings, env_settings, dotenv_settings, NestedSecretsSettingsSource(file_secret_settings))

    def __init_subclass__(cls, **options: Any) -> None:
        """Have the sources of the class in one form, whoever chose them."""
        super().__init_subclass__(**options)
        _kinds.add(cls)
        chosen = cls.settings_customise_sources.__func__  # type: ignore[attr-defined]  # mypy: a bound method has one

        @wraps(chosen)
        def sources(
            cls: type[Settings], settings_cls: type[BaseSettings], *own: Any, **named: Any
        ) -> tuple[Callable[..., object], ...]:
            given = chosen(cls, settings_cls, *own, **named)
            others = tuple(each for each in given if not isinstance(each, _Defaults))  # a parent's wrapper adds one too
            return (*all_in_one_form(others, settings_cls), _Defaults(settings_cls))

        cls.settings_customise_sources = classmethod(sources)  # type: ignore[assignment,method-assign]


class _Defaults(PydanticBaseSettingsSource):
    """Defaults that are changed in part where pydantic-settings doesn't look: factories, mappings, parts of models."""

    def get_field_value(self, _field: object, field_name: str) -> tuple[object, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, object]:
        if not self.config.get("nested_model_default_partial_update"):
            return {}
        arguments = self.settings_sources_data.get("InitSettingsSource")
        given = beneath(self.settings_cls, self.current_state, dict, arguments, TypeAdapter(object).dump_python)
        return {str(name): each for name, each in given.items()}


_Way = Callable[[tuple[str, ...]], str]

_kinds: weakref.WeakSet[type[Settings]] = weakref.WeakSet()


def _told(error: UnreadError | ValidationError, given: Given) -> Exception:
    """Return the error with the variables that it is about; also that of a source that isn't read, for want of JSON."""
    if isinstance(error, ValidationError):
        return retold(error, lambda each: each["msg"] + given.hint(each["loc"], each["type"], each["msg"]))
    cause = error.__cause__
    text = given.no_json(cause.doc) if isinstance(cause, json.JSONDecodeError) else ""
    return SettingsError(f"{given.title}: {text}") if text else error


def _with_way(kind: object, values: Mapping[str, Any], path: tuple[str, ...], way: _Way) -> dict[str, Any]:
    """Return a model's fields, in which each pool without brokers knows how they could have been given."""
    names = {str(ways[0][0]): map(str, read_as(kind, ways)[0]) for ways, _, _ in members(kind)}
    return {name: _knowing(values[name], (*path, *keys), way) for name, keys in names.items() if name in values}


def _knowing(value: Any, path: tuple[str, ...], way: _Way) -> Any:
    kind = type(value)
    if is_pool(kind):
        if value.kafka.bootstrap_servers is not None or not (told := way(path)):
            return value
        copied = value.model_copy()  # the default is the program's, and may be that of several fields
        copied.__dict__[WAY] = told  # no field and no private attribute: those are compared
        return copied
    if kind is dict:
        made = {key: _knowing(each, (*path, str(key)), way) for key, each in value.items()}
        return value if all(made[key] is value[key] for key in value) else made
    if isinstance(value, BaseModel):
        made = _with_way(kind, value.__dict__, path, way)
        if any(made[name] is not value.__dict__[name] for name in made):
            copied = value.model_copy()
            copied.__dict__.update(made)
            return copied
    return value
