"""Which variable of the environment a wrong setting came from, and which were meant for a pool and reach none."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

SEPARATOR = "__"


def variable(prefix: str, path: Sequence[object], environment: Iterable[str]) -> str | None:
    """Return the variable that gave the setting at this path, as it is spelt in the environment."""
    wanted = _bare(prefix + SEPARATOR.join(map(str, path)))
    return next((name for name in environment if _bare(name) == wanted), None)


def strays(
    prefix: str, pools: Iterable[str], settings: Collection[str], environment: Iterable[str], taken: Collection[str]
) -> dict[str, str]:
    """Return the variables that no field takes although they name a pool's settings, with what was meant.

    Args:
        prefix: What the names of the class's variables begin with.
        pools: The fields that are pools.
        settings: What a pool's settings are called.
        environment: The variables that there are.
        taken: Names of pools that other classes of settings read; prefixes included.
    """
    wanted = [f"{prefix}{pool}".upper() for pool in pools]
    found = {}
    for name in environment:
        head, rest = _split(name.upper(), settings)
        if not head or (head in taken and name.upper() == head + SEPARATOR + rest):
            continue
        near = [pool for pool in wanted if pool == head or head.endswith(f"_{pool}") or pool.endswith(f"_{head}")]
        near = near or get_close_matches(head, wanted, n=1, cutoff=0.8)
        if near:
            found[name] = near[0] + SEPARATOR + rest
    return found


def _split(name: str, settings: Collection[str]) -> tuple[str, str]:
    """Part a name like ``ORDERS__SIZE``, or ``ORDERS_SIZE``, where the name of a pool's setting begins."""
    for cut in re.finditer("_+", name):
        rest = name[cut.end() :]
        if rest in settings or rest.startswith(("KAFKA__", "KAFKA_BOOTSTRAP")):
            return name[: cut.start()], rest
    return "", ""


def _bare(name: str) -> str:
    return re.sub("[_.]+", "_", name).lower()
