"""How a pool's template of ids becomes the id of each producer, and which templates two processes would share."""

from __future__ import annotations

import os
import re
import secrets
import socket
import string
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from wd_di._settings.warned import SettingsWarning, outside
from wd_di.errors import SettingsError

if TYPE_CHECKING:
    from wd_di.settings import PoolSettings

_PLACEHOLDERS = ("index", "instance", "pool", "host", "pid")
_FIRST_NUMBERS = "pid:[4026531836]"
"""The namespace of the processes that are in no container; Linux gives it this name everywhere."""

_instances: dict[int, str] = {}


def default_instance() -> str:
    """Return what tells this process from its replicas if nobody says: random, one per start, another after a fork."""
    return _instances.setdefault(os.getpid(), secrets.token_hex(4))


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()) or "localhost"


class Template:
    """``PoolSettings.transactional_id`` with its placeholders."""

    def __init__(self, settings: PoolSettings, name: str, instance: str | None) -> None:
        self.text = settings.transactional_id
        self._name = name
        self._drawn = settings.instance is None and instance is None
        self.instance = instance or settings.instance or default_instance()
        self.used = self._parse() if self.text is not None else frozenset()
        if self.text is not None and settings.size > 1 and "index" not in self.used:
            raise SettingsError(
                f"{name}: transactional_id {self.text!r} needs {{index}}: {settings.size} producers under one id "
                "would fence each other"
            )

    def _parse(self) -> frozenset[str]:
        try:
            parts = [part for part in string.Formatter().parse(self.text or "") if part[1] is not None]
        except ValueError as error:
            raise SettingsError(f"{self._name}: transactional_id {self.text!r}: {error}; a brace is '{{{{'") from None
        unknown = [part[1] for part in parts if part[1] not in _PLACEHOLDERS]
        if unknown:
            known = ", ".join(f"{{{each}}}" for each in _PLACEHOLDERS)
            raise SettingsError(
                f"{self._name}: transactional_id {self.text!r} has the unknown placeholder {{{unknown[0]}}}; "
                f"known are {known}, and a brace is '{{{{'"
            )
        return frozenset(str(part[1]) for part in parts)

    def render(self, index: int) -> str | None:
        """Return the id of this slot, or ``None`` without a template."""
        if self.text is None:
            return None
        values = {"index": index, "instance": self.instance, "pool": self._name, "host": _host(), "pid": os.getpid()}
        try:
            return self.text.format_map(values)
        except (KeyError, ValueError) as error:
            raise SettingsError(f"{self._name}: transactional_id {self.text!r}: {error}") from None

    def warn(self) -> None:
        """Say what works in one process and surprises with the second, or at the next start.

        Not of {host} alone: it is right where each host runs one process, as a pod does, and where one runs more of
        them, those are seen; see rivals.
        """
        if self.text is None:
            return
        if not self.used & {"instance", "host", "pid"}:
            _warn(
                f"{self._name}: transactional_id {self.text!r} is the same in every process, so a second replica would "
                "fence this one: add {instance} and set PoolSettings.instance, or add {host} and {pid} ({host} alone "
                "where each host, such as a pod, runs one process)"
            )
        elif not self.used & {"instance", "host"} and _numbered_anew():
            _warn(
                f"{self._name}: transactional_id {self.text!r} has {{pid}} alone, and a container numbers its "
                f"processes anew: a second replica's number is likely {os.getpid()}, too, and it would fence this one. "
                "Add {host}"
            )
        elif self._drawn and "instance" in self.used:
            _warn(
                f"{self._name}: transactional_id uses {{instance}}, which isn't set, so {self.instance!r} was drawn "
                "for this start; after a crash readers stay blocked until transaction.timeout.ms has passed. Set "
                "PoolSettings.instance to what this process keeps through a restart: the pod's ordinal or the worker's "
                "number"
            )


def _numbered_anew() -> bool:
    """Whether this process has its number in a container."""
    with suppress(OSError):  # no Linux, or no /proc
        return str(Path("/proc/self/ns/pid").readlink()) != _FIRST_NUMBERS
    return False


def _warn(message: str) -> None:
    warnings.warn(message, SettingsWarning, stacklevel=outside())  # who made the pool
