"""Every public call ends by its deadline, and when it is called off, whatever brokers do: dead, frozen or slow ones.

The table is complete: a public method that is neither in it nor listed as one that can't wait is an error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

import wd_di
from tests.kafka.calls import TABLE
from tests.kafka.stage import Came, Case, Show, Stage, interrupted, trouble
from tests.pools import unique
from wd_di._borrowing.unopened import AsyncScope
from wd_di.lifecycle import Running

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.faults.proxy import FaultProxy
    from tests.kafka.stage import Trouble
    from wd_di.testing import LocalKafka

DEADLINE_MS = 500
CALLED_OFF_MS = 1_000
"""The deadlines of calls that are called off long before."""
AGAIN = 2
"""How often a case is played again that went wrong: a busy machine may be late once, our own lateness stays."""

CAN_BLOCK = ("__enter__", "__exit__", "__aenter__", "__aexit__", "__await__")
AT_ONCE = "it returns something that waits when it is entered, or called"
NOTES = "it notes what is asked for, or answers from what it knows"
CANNOT_WAIT = {
    "ProducerPool.producer": AT_ONCE,
    "ProducerPool.transaction": AT_ONCE,
    "ProducerPool.stats": NOTES,
    "Checkout.begin": AT_ONCE,
    "TransactionScope.begin": AT_ONCE,
    "Producer.transaction": AT_ONCE,
    "Transaction.transaction": AT_ONCE,
    "AsyncProducer.transaction": AT_ONCE,
    "AsyncTransaction.transaction": AT_ONCE,
    "AsyncProducer.produce_async": "a full queue raises at once",
    "AsyncProducer.produce_many_async": "a full queue raises at once",
    "AsyncTransaction.produce_async": "a full queue raises at once",
    "AsyncTransaction.produce_many_async": "a full queue raises at once",
    **{
        f"{kind}.{name}": NOTES
        for kind in ("Transaction", "AsyncTransaction")
        for name in ("abort_only", "before_commit", "after_commit", "after_abort", "after_completion")
    },
    "Delivery.done": NOTES,
    "Delivery.add_done_callback": NOTES,
    "PoolResource.adopt": NOTES,
    "PoolResource.transaction_with": AT_ONCE,
    "PoolResource.async_transaction_with": AT_ONCE,
    **{f"{kind}.{name}": NOTES for kind in ("Observer", "LoggingObserver") for name in ("subscribe", "on", "wants")},
    "Observer.emit": "it calls listeners, which take their own time",
    "LoggingObserver.emit": "it calls listeners, and handlers of logging",
    "Subscription.cancel": NOTES,
    "Subscription.__enter__": NOTES,
    "Subscription.__exit__": NOTES,
    "Retry.pause": "it says how long somebody else will wait",
    "Retry.covers": NOTES,
    "stats": NOTES,
    "is_active": NOTES,
    "injected": AT_ONCE,
    "running": AT_ONCE,
}


def public_calls() -> set[str]:
    """Return all public functions, and methods of public classes, that aren't settings, events or errors."""
    found: set[str] = set()
    for name in wd_di.__all__:
        thing: Any = getattr(wd_di, name)
        if inspect.isfunction(thing):
            found.add(name)
        elif inspect.isclass(thing) and not issubclass(thing, (BaseException, BaseModel, wd_di.Event)):
            found |= set(methods(thing))
    return found | set(methods(Running)) | set(methods(AsyncScope))


def methods(kind: type) -> Iterable[str]:
    """Return the public methods that wd_di has given to a class, as the first of its public classes has them."""
    for name in dir(kind):
        owner = next(each for each in kind.__mro__ if name in vars(each))
        method = inspect.unwrap(getattr(kind, name))
        mine = owner.__module__.startswith("wd_di") and inspect.isfunction(method)
        if mine and (not name.startswith("_") or name in CAN_BLOCK) and ":meta private:" not in (method.__doc__ or ""):
            yield f"{kind.__name__}.{name}"


# -- the table -----------------------------------------------------------------------------------------


def test_the_table_is_complete() -> None:
    """Each public call is in the table, or is known not to wait; and nothing else is."""
    measured = {call for case in TABLE.values() for call in case.of}

    assert not measured & CANNOT_WAIT.keys()
    assert public_calls() == measured | CANNOT_WAIT.keys()


# -- by their deadlines --------------------------------------------------------------------------------


Play = Callable[[Stage, Callable[[], object], list[Case]], dict[str, list[Came]]]


def shown(stage: Stage, strike: Callable[[], object], cases: list[Case]) -> dict[str, list[Came]]:
    """Let cases run to their ends."""
    show = Show(stage, strike)
    show.play(cases)
    return show.came


def cancelled(stage: Stage, strike: Callable[[], object], cases: list[Case]) -> dict[str, list[Came]]:
    """Cancel each step."""
    show = Show(stage, strike, cancelled=True)
    show.play(cases)
    return show.came


def played(proxied: tuple[LocalKafka, FaultProxy], kind: Trouble, cases: list[Case], play: Play) -> dict[str, str]:
    """Play cases, those again in which something was wrong, and return what was wrong each time."""
    kafka, proxy = proxied
    flaws: dict[str, str] = {}
    for _ in range(1 + AGAIN):
        ms = DEADLINE_MS if play is shown else CALLED_OFF_MS
        with Stage(kafka.bootstrap_servers, kafka.create_topic(unique("t")), ms) as stage:
            try:
                flaws = wrong(play(stage, lambda: trouble(proxy, kind), cases))
            finally:
                proxy.reset()
        cases = [case for case in cases if case.name in flaws]
        if not cases:
            break
    return flaws


def wrong(came: dict[str, list[Came]]) -> dict[str, str]:
    """Return what was wrong, by the case's name."""
    told = {name: "; ".join(filter(None, (each.flaw for each in steps))) for name, steps in came.items()}
    return {name: flaws for name, flaws in told.items() if flaws}


@pytest.fixture(scope="module", params=["dead", "frozen", "slow"])
def flaws(request: pytest.FixtureRequest, _proxied: tuple[LocalKafka, FaultProxy]) -> dict[str, str]:
    """What was wrong when all calls were made to a broker in trouble."""
    _proxied[1].reset()
    return played(_proxied, request.param, list(TABLE.values()), shown)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", TABLE)
def test_a_call_ends_by_its_deadline(flaws: dict[str, str], name: str) -> None:
    """It raises what it has met, or gives what there is, within the larger of 10 % and 250 ms of its deadline."""
    assert "" == flaws.get(name, "")


# -- called off ----------------------------------------------------------------------------------------


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["dead", "frozen"])
def test_a_cancelled_call_ends_at_once(proxied_kafka: LocalKafka, proxy: FaultProxy, kind: Trouble) -> None:
    """What a task awaits ends when it is cancelled, but for what must be brought to its end, within its deadline."""
    cases = [case for case in TABLE.values() if case.of_tasks]

    assert {} == played((proxied_kafka, proxy), kind, cases, cancelled)


@pytest.mark.timeout(180)
def test_ctrl_c_ends_a_call_at_once(proxied_kafka: LocalKafka, proxy: FaultProxy) -> None:
    """So does Ctrl-C with what a thread waits for: a first one in a commit waits for the answer, or for the abort."""
    cases = [case for case in TABLE.values() if not case.of_tasks]

    assert {} == played((proxied_kafka, proxy), "dead", cases, interrupted)
