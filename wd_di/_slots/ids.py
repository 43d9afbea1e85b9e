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

_reserved: dict[Id, tuple[weakref.ref[object], str]] = {}
# Re-entrant: a pool that is collected while another one reserves may free its own.
_reserved_lock = threading.RLock()


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
    global _reserved  # noqa: PLW0603  (replaced, never changed: a re-entrant release can't disturb a running loop)
    with _reserved_lock:
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
        _reserved = _reserved | dict.fromkeys(ids, (weakref.ref(owner), name))


def _other(key: tuple[str, str], owner: object) -> str | None:
    """Return the name of another live pool that has the id; not the pool, which a traceback would keep alive."""
    held, name = _reserved.get(key, (None, ""))
    pool = held() if held is not None else None
    return None if pool is None or pool is owner else name


def free_ids(owner: object) -> None:
    """Give back all ids of this owner; harmless when it has none."""
    global _reserved  # noqa: PLW0603  (as in reserve_ids)
    with _reserved_lock:
        _reserved = {
            key: value for key, value in _reserved.items() if value[0]() is not None and value[0]() is not owner
        }


def address(server: str) -> str:
    """Return a broker's address in one form."""
    address = server.strip().lower()
    return address if ":" in address else f"{address}:9092"


def _new_lock() -> None:
    # Another thread of the parent may have held the old one.
    global _reserved_lock  # noqa: PLW0603  (the one place where it is replaced)
    _reserved_lock = threading.RLock()


renew_in_child("ids", _new_lock)
