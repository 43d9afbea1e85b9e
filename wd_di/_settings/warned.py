"""How a program is told of settings that are taken, and were likely meant otherwise."""

from __future__ import annotations

import inspect

SHORT_TIMEOUT_MS = 50
"""Below this many milliseconds the alias without a unit was most likely meant as seconds."""


class SettingsWarning(UserWarning):
    """Settings that are taken, and were likely meant otherwise or surprise on the second machine."""

    __module__ = "wd_di.settings"  # Python prints it, and filters name it so


def outside() -> int:
    """Return the ``stacklevel`` of a warning, for who calls this, that is at the user's line."""
    # From Python 3.12 on, warnings have skip_file_prefixes.
    frame, level = inspect.currentframe(), 0
    while frame and frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    return level


_INSIDE = {"wd_di", "pydantic", "pydantic_settings", "contextlib"}


def short_timeout(given: object) -> str | None:
    """Return what to say of a ``timeout`` that was likely meant in seconds."""
    try:
        number = float(str(given))
    except ValueError:
        return None
    if not (0 < number < SHORT_TIMEOUT_MS and number.is_integer()):
        return None
    ms, text = int(number), str(given).strip()
    return (
        f"timeout={text} is milliseconds, as in WaterDrop, and very short: say timeout_ms={ms} if that is meant, "
        f"timeout_ms={ms * 1000} for seconds"
    )
