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
"""Where it counts, a broker's address or a cluster by its id, and a transactional id."""


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
        why = _clash(ids, owner)
        if why is not None:
            raise SettingsError(f"{name}: {why}")
        _registry.owners = _registry.owners | dict.fromkeys(ids, (weakref.ref(owner), name))


def reserve_on_cluster(cluster: str, server: str, names: Collection[str]) -> str | None:
    """Keep ids on their whole cluster, which has many addresses, for the pool that has them on some of those.

    All at once: of two pools that are opened at the same moment one gets them all.

    Args:
        cluster: Its id, once brokers have told it.
        server: An address of it, by which the pool has them.
        names: All transactional ids that the pool has there.

    Returns:
        Why it can't have them; nothing was reserved.
    """
    with _registry.lock:
        owners = _registry.owners
        held, name = next((owners[server, each] for each in names if (server, each) in owners), (None, ""))
        owner = held() if held is not None else None
        if owner is None:  # it is gone, and what it has left is closed
            return None
        wanted = {(f"cluster {cluster}", each) for each in names}
        why = _clash(wanted, owner)
        if why is None and not wanted <= owners.keys():
            _registry.owners = _registry.owners | dict.fromkeys(wanted, (weakref.ref(owner), name))
        return why


def _clash(ids: Collection[Id], owner: object) -> str | None:
    """Say which of the ids another live pool has."""
    for key in ids:
        if _other(key, owner) is None:
            continue
        gc.collect()  # the former pool of a notebook's cell is garbage that nobody has collected yet
        other = _other(key, owner)
        if other is not None:
            where, transactional_id = key
            return (
                f"transactional.id {transactional_id!r} on {where} is in use by pool {other!r} of this process: they "
                "would fence each other. Close that one first, as before a notebook cell runs again, or give each "
                "pool its own, for example with {pool}"
            )
    return None


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
