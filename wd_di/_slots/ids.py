"""Which transactional ids are ours: no two pools of a process may have the same on one cluster."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING

from wd_di._forks import renew_in_child
from wd_di.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection

Id = tuple[str, str]
"""A broker's address and a transactional id."""


class _Registry:
    """Whose ids are whose, in this process."""

    def __init__(self) -> None:
        # Replaced, never changed: a re-entrant release can't disturb a running loop.
        self.owners: dict[Id, tuple[weakref.ref[object], str]] = {}
        self.renew()

    def renew(self) -> None:
        """Make a new lock: in a forked child another thread of the parent may have held the old one."""
        # Re-entrant: a pool that is collected while another one reserves may free its own.
        self.lock: threading.RLock = threading.RLock()


_registry = _Registry()
renew_in_child("ids", _registry.renew)


def reserve_ids(ids: Collection[Id], name: str, owner: object) -> None:
    """Keep transactional ids for one pool of this process.

    The owner's earlier ids stay, since its older producers may still be closing.

    Args:
        ids: Only those of slots that talk to a cluster.
        name: The pool's.
        owner: The pool; held weakly, so that a forgotten one keeps nothing.

    Raises:
        SettingsError: Another live pool has one of the ids on the same cluster; nothing was reserved.
    """
    with _registry.lock:
        for key in ids:
            if _other(key, owner) is None:
                continue
            gc.collect()  # the former pool of a notebook's cell is garbage that nobody has collected yet
            other = _other(key, owner)
            if other is not None:
                server, transactional_id = key
                raise SettingsError(
                    f"{name}: transactional.id {transactional_id!r} on {server} is in use by pool {other!r} of "
                    "this process: they would fence each other. Close that one first, as before a notebook cell "
                    "runs again, or give each pool its own, for example with {pool}"
                )
        _registry.owners = _registry.owners | dict.fromkeys(ids, (weakref.ref(owner), name))


def _other(key: tuple[str, str], owner: object) -> str | None:
    """Return the name of another live pool that has the id; not the pool, which a traceback would keep alive."""
    held, name = _registry.owners.get(key, (None, ""))
    pool = held() if held is not None else None
    return None if pool is None or pool is owner else name


def free_ids(owner: object) -> None:
    """Give back all ids of this owner; harmless when it has none."""
    with _registry.lock:
        _registry.owners = {
            key: value for key, value in _registry.owners.items() if value[0]() is not None and value[0]() is not owner
        }


def address(server: str) -> str:
    """Return a broker's address in one form."""
    address = server.strip().lower()
    return address if ":" in address else f"{address}:9092"
