"""What somebody may have meant who types another client's names, with the way to it."""

from __future__ import annotations

import difflib
from functools import wraps
from typing import TYPE_CHECKING, NoReturn, TypedDict, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import FunctionType

    F = TypeVar("F", bound=Callable[..., object])


class NoOthers(TypedDict):
    """No other keywords: type checkers say so, and who runs without one gets a hint."""


WAYS = (
    "produce_sync waits until the broker has the record, produce_async returns a Delivery at once, produce_many_sync "
    "and produce_many_async take several"
)
_TRANSACTION = "with producer.transaction() begins, commits at the end of its block, and aborts if that raises"
_POOLS_OWN = "the pool does it by itself"
_METHODS = {
    **dict.fromkeys(("produce", "send", "send_and_wait", "produce_batch", "send_batch", "publish"), WAYS),
    **dict.fromkeys(("begin_transaction", "commit_transaction", "abort_transaction", "commit", "abort"), _TRANSACTION),
    "rollback": "a transaction aborts when its block raises, as by AbortTransaction, or after tx.abort_only()",
    **dict.fromkeys(("poll", "init_transactions", "start"), _POOLS_OWN),
    **dict.fromkeys(("close", "stop"), "it goes back to its pool at the end of its block, and the pool closes it"),
    "send_offsets_to_transaction": "a transaction has send_offsets(offsets, group_metadata)",
    "purge": "what a closing pool can't send in time is given up: pool.close(timeout_ms=...)",
    "list_topics": "that takes a confluent_kafka.admin.AdminClient",
}
FIELDS = ("topic", "value", "key", "headers", "partition", "timestamp_ms", "timeout_ms")
_BORROW = "a producer of the pool does that: with pool.producer() as producer, or with pool.transaction() as tx"
OF_POOLS = {
    **dict.fromkeys(
        (
            *("produce_sync", "produce_async", "produce_many_sync", "produce_many_async", "flush", "drain"),
            *("produce", "send", "send_and_wait", "publish", "produce_batch", "send_batch"),
        ),
        _BORROW,
    ),
    **dict.fromkeys(("begin_transaction", "commit_transaction", "abort_transaction"), "with pool.transaction() as tx"),
    **dict.fromkeys(
        ("acquire", "get", "checkout", "borrow", "with_producer", "with"), "with pool.producer() as producer"
    ),
    **dict.fromkeys(("release", "put", "give_back"), "a producer goes back at the end of its with block"),
    **dict.fromkeys(("shutdown", "stop", "disconnect"), "pool.close(), or with the pool"),
}
"""The same for a pool."""
OF_RESOURCES = {
    **dict.fromkeys(OF_POOLS, "it provides a pool, or what is injected: see PoolResource.producer and transaction"),
    **dict.fromkeys(
        ("open", "aopen", "close", "aclose", "reload", "areload", "stats", "run", "observer"),
        "it provides a pool, and gives it when called, as container.orders().stats(); init and shutdown are its own",
    ),
}
"""The same for what provides a pool."""
_SETTINGS = "all settings go into one argument, as in settings=PoolSettings(size=3, kafka=KafkaSettings(...))"
_KEYWORDS = {
    **dict.fromkeys(
        ("on_delivery", "callback", "cb"),
        "produce_async(...) returns a Delivery: delivery.add_done_callback(fn), or observer.subscribe for all of them",
    ),
    **dict.fromkeys(("msg", "message", "payload", "data"), "the payload is value"),
    **dict.fromkeys(("timestamp",), "it is timestamp_ms, milliseconds since the epoch"),
    **dict.fromkeys(("timeout", "timeout_s"), "it is timeout_ms, in milliseconds"),
    **dict.fromkeys(("partition_key", "key_serializer", "value_serializer"), "key and value are str or bytes"),
    "transactional_id": "it is a setting of the pool",
}


def no_attribute(owner: object, name: str, methods: Mapping[str, str] = _METHODS) -> NoReturn:
    """Raise the ``AttributeError`` that Python would, with what may have been meant.

    Raises:
        AttributeError: Always.
    """
    hint = methods.get(name)
    if hint is _TRANSACTION and type(owner).__name__.startswith("Async"):
        hint = f"async {hint}"
    text = f"{type(owner).__name__!r} object has no attribute {name!r}"
    raise AttributeError(f"{text}: {hint}" if hint else text, name=name, obj=owner)


def no_keyword(method: str, given: Iterable[str], known: Iterable[str], otherwise: str = "") -> NoReturn:
    """Raise the ``TypeError`` that Python would, with what may have been meant.

    Raises:
        TypeError: Always.
    """
    name = next(iter(given))
    near = difflib.get_close_matches(name, [*known], n=1)
    meant = f"did you mean {near[0]}?" if near else otherwise
    hint = meant if otherwise else _KEYWORDS.get(name, meant)
    text = f"{method}() got an unexpected keyword argument {name!r}"
    raise TypeError(f"{text}: {hint}" if hint else text)


def settings_elsewhere(name: str) -> Callable[[F], F]:
    """Decorate what takes a pool's settings as one argument: who gives them one by one is told so.

    A wrapper, so for what is called once for each pool.
    """

    def hinted(fn: F) -> F:
        code = cast("FunctionType", fn).__code__
        known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

        @wraps(fn)
        def call(*args: object, **given: object) -> object:
            if foreign := [each for each in given if each not in known]:
                no_keyword(name, foreign, known, _SETTINGS)
            if args and not code.co_argcount:
                raise TypeError(f"{name}() takes its arguments by name: {_SETTINGS}")
            return fn(*args, **given)

        return cast("F", call)

    return hinted
