# ruff: noqa: B008  (markers are defaults that are calls)
from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from dependency_injector import containers, providers, wiring
from dependency_injector.wiring import Closing, Provide, Provider

from tests.standin import StandInPool
from wd_di import PoolSettings, Producer, Retry, Transaction
from wd_di.errors import AbortTransaction, ScopeError, UnopenedScopeError
from wd_di.events import Observer, TransactionFinished
from wd_di.lifecycle import running
from wd_di.providers import PoolResource
from wd_di.wiring import inject, injected

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTypeCheckers


class Base(containers.DeclarativeContainer):
    """Has what another container inherits."""

    orders = PoolResource(0, provides=StandInPool)


class Container(Base):
    """Pools and other providers."""

    greeting = providers.Object("hello")
    broken = providers.Callable(int, "not a number")
    session = providers.Resource(lambda: ["open"])
    clicks = PoolResource(0, provides=StandInPool)
    late = providers.Callable(lambda pool: pool.transaction(), clicks)
    service = providers.Factory(dict, pool=Base.orders)


class Root(containers.DeclarativeContainer):
    """Has a container in it."""

    sub = providers.Container(Container)


@pytest.fixture
def container() -> Iterator[Any]:
    """A container that isn't wired yet."""
    container = Container()
    yield container
    container.unwire()


def wired(container: Any) -> Any:
    """Wire this module; functions must have been decorated before."""
    container.wire(modules=[__name__])
    return container


def log(container: Any, pool: str = "orders") -> list[str]:
    """What happened to a pool that was opened."""
    return [entry.removeprefix(f"{pool}: ") for entry in getattr(container, pool)().log[1:]]


# -- what reaches the function -------------------------------------------------------------------


@inject
def _by_injected(tx: Any = injected(Base.orders.transaction)) -> Any:
    return tx


@inject
def _by_provide(tx: Any = Provide[Container.orders.transaction]) -> Any:
    return tx


@inject
def _by_string(tx: Any = Provide["orders.transaction"]) -> Any:
    return tx


@inject
def _by_annotation(tx: Annotated[Any, Provide[Container.orders.transaction]]) -> Any:
    return tx


@inject
def _by_annotated_injected(
    decimal: OnlyForTypeCheckers, tx: Annotated[Any, injected(Container.orders.transaction)]
) -> Any:
    return tx


@inject
def _by_options(tx: Any = injected(Container.orders.transaction_with(propagation="new"))) -> Any:
    return tx


@inject
def _by_dependency(tx: Any = Provide[Container.late]) -> Any:
    return tx


@pytest.mark.parametrize("fn", [_by_injected, _by_provide, _by_string, _by_annotation, _by_options])
def test_a_transaction_is_injected(container: Any, fn: Any):
    """Every way of marking a parameter gives the function an open transaction, committed when it returns."""
    wired(container)
    scope = fn()

    assert "transaction" == scope.kind
    assert container.orders() is scope.pool
    assert ["begin transaction", "commit"] == log(container)


def test_an_annotation_next_to_one_for_type_checkers_only(container: Any):
    """A marker in a postponed annotation is found though another annotation can't be evaluated."""
    wired(container)

    assert "transaction" == _by_annotated_injected(1).kind


def test_options_are_injected(container: Any):
    """transaction_with passes its options on through a marker."""
    wired(container)

    assert {"propagation": "new"} == _by_options().options


def test_a_producer_is_injected(container: Any):
    """A producer goes back when the function returns."""

    @inject
    def fn(producer: Any = injected(Container.orders.producer)) -> str:
        return producer.kind

    wired(container)

    assert "producer" == fn()
    assert ["begin producer", "return"] == log(container)


def test_a_recipe_from_any_provider_is_opened(container: Any):
    """It is the value that counts: a scope that came by way of another provider is opened, too."""
    wired(container)

    assert "transaction" == _by_dependency().kind
    assert ["begin transaction", "commit"] == log(container, "clicks")


def test_a_provider_marker_gives_the_factory(container: Any):
    """Provider[...] leaves the opening to the function."""

    @inject
    def fn(new: Any = Provider[Container.orders.transaction]) -> list[str]:
        with new(), new():
            return log(container)

    wired(container)

    assert ["begin transaction", "begin transaction"] == fn()


def test_a_nested_containers_pool():
    """Pools in a container within the container are reached by provider and by path."""

    @inject
    def fn(tx: Any = injected(Root.sub.orders.transaction), by_path: Any = Provide["sub.clicks.producer"]) -> str:
        return f"{tx.pool.name} {by_path.pool.name}"

    root = wired(Root())

    assert "orders clicks" == fn()
    root.unwire()


def test_the_whole_pool_is_injected(container: Any):
    """A marker of the pool itself gives the pool, and opens no scope."""

    @inject
    def fn(pool: Any = injected(Container.orders)) -> Any:
        return pool

    wired(container)

    assert container.orders() is fn()
    assert [] == log(container)


def test_an_override_is_injected(container: Any):
    """A pool overridden before its opening or after it gives its scopes to wired functions."""
    wired(container)
    first, second = StandInPool(name="first"), StandInPool(name="second")
    with container.orders.override(first):
        _by_injected()
    _by_injected()
    with container.orders.override(providers.Object(second)):
        _by_injected()

    assert ["first: begin transaction", "first: commit"] == first.log
    assert ["second: begin transaction", "second: commit"] == second.log
    assert ["begin transaction", "commit"] == log(container)


# -- order and outcome ---------------------------------------------------------------------------


def test_scopes_open_in_parameter_order(container: Any):
    """Several scopes are opened in the order of the parameters and closed in reverse."""
    order: list[str] = []
    for pool in (container.orders(), container.clicks()):
        pool.log, pool.note = order, lambda what, name=pool.name: order.append(f"{name} {what}")

    @inject
    def fn(b: Any = injected(Container.clicks.producer), a: Any = injected(Container.orders.transaction)) -> None:
        order.append(f"{b.kind} {a.kind}")

    wired(container)
    fn()

    expected = ["clicks begin producer", "orders begin transaction", "producer transaction"]
    assert [*expected, "orders commit", "clicks return"] == order


def test_a_failing_sibling_opens_nothing(container: Any):
    """If another injection fails, no scope has been opened."""

    @inject
    def fn(tx: Any = injected(Container.orders.transaction), bad: Any = Provide[Container.broken]) -> None: ...

    wired(container)
    with pytest.raises(ValueError, match="not a number"):
        fn()

    assert [] == log(container)


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
def test_an_exception_reaches_the_scope(container: Any, error: type[BaseException]):
    """What the function raises aborts its transaction and goes on to the caller."""

    @inject
    def fn(tx: Any = injected(Container.orders.transaction)) -> None:
        raise error

    wired(container)
    with pytest.raises(error):
        fn()

    assert ["begin transaction", f"abort {error.__name__}"] == log(container)


def test_an_abort_signal_returns_none(container: Any):
    """AbortTransaction is swallowed by the scope, with one and with several of them."""

    @inject
    def one(tx: Any = injected(Container.orders.transaction)) -> str:
        raise AbortTransaction

    @inject
    def two(a: Any = injected(Container.clicks.producer), b: Any = injected(Container.orders.transaction)) -> str:
        raise AbortTransaction

    wired(container)

    assert one() is None
    assert two() is None
    assert ["begin transaction", "abort"] * 2 == log(container)


def test_success_inside_an_except_block_commits(container: Any):
    """The caller's own handled exception doesn't abort what is called meanwhile."""
    wired(container)
    try:
        {}["missing"]
    except KeyError:
        _by_injected()

    assert ["begin transaction", "commit"] == log(container)


def test_each_call_opens_a_scope_of_its_own(container: Any):
    """Calls share no scope, though they share the pool."""
    wired(container)

    assert _by_injected() is not _by_injected()


def test_a_retrying_decorator_above_gets_a_fresh_scope(container: Any):
    """Each attempt of a decorator above inject runs in a transaction of its own, also after wire has seen it."""
    attempts: list[Any] = []

    def twice(fn: Any) -> Any:
        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with contextlib.suppress(KeyError):
                fn(*args, **kwargs)
            return fn(*args, **kwargs)

        return wrapper

    @twice
    @inject
    def fn(tx: Any = injected(Container.orders.transaction)) -> None:
        attempts.append(tx)
        if len(attempts) == 1:
            raise KeyError

    setattr(sys.modules[__name__], "retried", fn)  # noqa: B010  (so that wire finds it)
    wired(container)
    assert fn is getattr(sys.modules[__name__], "retried")  # noqa: B009
    fn()

    assert attempts[0] is not attempts[1]
    assert ["begin transaction", "abort KeyError", "begin transaction", "commit"] == log(container)


# -- the caller's own arguments ------------------------------------------------------------------


@inject
def place(order: str, tx: Any = injected(Container.orders.transaction), note: str = "-", *, greeting: str = "") -> str:
    """A service with arguments of its own."""
    return f"{order} {getattr(tx, 'kind', tx)} {note} {greeting}"


@pytest.mark.parametrize("call", [lambda: place("o", "fake"), lambda: place("o", tx="fake"), lambda: place("o", None)])
def test_an_explicit_argument_wins(container: Any, call: Callable[[], str]):
    """What the caller passes, by position or by name, is used as it is, and the pool isn't even opened."""
    wired(container)

    assert call() in {"o fake - ", "o None - "}
    assert not container.orders.initialized


def test_explicit_arguments_need_no_wiring():
    """A function can be tested without any container."""
    assert "o fake n g" == place("o", "fake", "n", greeting="g")


def test_an_explicit_recipe_is_opened(container: Any):
    """A recipe in place of the injected one is opened like it."""
    pool = StandInPool(name="own")

    assert "o transaction - " == place("o", pool.transaction())
    assert ["own: begin transaction", "own: commit"] == pool.log


@pytest.mark.parametrize("call", [lambda: place("o", "fake", "n", "x"), lambda: place("o", "fake", tx="fake")])
def test_wrong_arguments_are_pythons_error(call: Callable[[], str]):
    """Too many arguments, or one given twice, are the TypeError of an ordinary call."""
    with pytest.raises(TypeError, match=r"too many positional arguments|multiple values for argument 'tx'"):
        call()


def test_star_args_stay_the_functions(container: Any):
    """A function with *args gets its marked parameters by keyword only."""

    @inject
    def fn(*rest: int, tx: Any = injected(Container.orders.transaction)) -> tuple[Any, ...]:
        return (*rest, tx.kind)

    wired(container)

    assert (1, 2, "transaction") == fn(1, 2)


def test_a_default_beside_an_annotation_is_kept():
    """An unwired function falls back on the real default of an annotated parameter, as it does without wd_di."""

    @inject
    def fn(tx: Annotated[Any, Provide[Container.orders.transaction]] = "default") -> Any:
        return tx

    assert "default" == fn()


# -- kinds of functions --------------------------------------------------------------------------


class Service:
    """Has methods of every kind."""

    def __init__(self) -> None:
        self.name = "service"

    @inject
    def method(self, a: int, tx: Any = injected(Container.orders.transaction)) -> str:
        """Tell how it was called."""
        return f"{self.name} {a} {tx.kind}"

    @inject
    @classmethod
    def class_inside(cls, a: int, tx: Any = injected(Container.orders.transaction)) -> str:
        """Tell how it was called."""
        return f"{cls.__name__} {a} {tx.kind}"

    @classmethod
    @inject
    def class_outside(cls, a: int, tx: Any = injected(Container.orders.transaction)) -> str:
        """Tell how it was called."""
        return f"{cls.__name__} {a} {tx.kind}"

    @inject
    @staticmethod
    def static_inside(a: int, tx: Any = injected(Container.orders.transaction)) -> str:
        """Tell how it was called."""
        return f"static {a} {tx.kind}"

    @staticmethod
    @inject
    def static_outside(a: int, tx: Any = injected(Container.orders.transaction)) -> str:
        """Tell how it was called."""
        return f"static {a} {tx.kind}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("method", "service 1 transaction"),
        ("class_inside", "Service 1 transaction"),
        ("class_outside", "Service 1 transaction"),
        ("static_inside", "static 1 transaction"),
        ("static_outside", "static 1 transaction"),
    ],
)
def test_methods(container: Any, name: str, expected: str):
    """Methods, class methods and static methods are injected, in either order of the decorators."""
    wired(container)

    assert expected == getattr(Service(), name)(1)
    assert ["begin transaction", "commit"] == log(container)


@pytest.mark.parametrize("name", ["class_inside", "class_outside", "static_inside", "static_outside"])
def test_methods_take_an_explicit_argument_by_position(name: str):
    """The position of an explicit argument is counted without the class."""
    assert getattr(Service, name)(1, StandInPool().producer()).endswith("1 producer")


@inject
def numbers(count: int, tx: Any = injected(Container.orders.transaction)) -> Generator[Any, Any, str]:
    """Count, and return what was received."""
    received = []
    for index in range(count):
        try:
            received.append((yield index, tx.ambient))
        except KeyError:
            received.append("caught")
    return f"{received}"


def test_a_generator_commits_when_exhausted(container: Any):
    """A generator's transaction is open while it is iterated, isn't joined by its caller, and commits at its end."""
    wired(container)
    generator = numbers(2)

    assert inspect.isgeneratorfunction(numbers)
    assert not container.orders.initialized
    assert (0, False) == next(generator)
    assert ["begin transaction"] == log(container)
    assert [(1, False)] == list(generator)
    assert ["begin transaction", "commit"] == log(container)


def test_a_generator_aborts_when_closed(container: Any):
    """A generator that is left early aborts its transaction."""
    wired(container)
    generator = numbers(2)
    next(generator)
    generator.close()

    assert ["begin transaction", "abort GeneratorExit"] == log(container)


def test_a_generator_is_spoken_to(container: Any):
    """What is sent to or thrown into a generator reaches it, and its return value comes back."""
    wired(container)
    generator = numbers(2)
    next(generator)
    generator.send("sent")

    with pytest.raises(StopIteration, match="'sent', 'caught'"):
        generator.throw(KeyError)
    assert ["begin transaction", "commit"] == log(container)


def test_a_generator_that_raises_aborts(container: Any):
    """An exception that leaves the generator aborts its transaction."""
    wired(container)
    generator = numbers(2)
    next(generator)
    with pytest.raises(ValueError, match="x"):
        generator.throw(ValueError("x"))

    assert ["begin transaction", "abort ValueError"] == log(container)


def test_a_context_manager_above_a_generator(container: Any):
    """Inject below contextmanager makes a context manager whose block is the transaction."""

    @contextlib.contextmanager
    @inject
    def unit(tx: Any = injected(Container.orders.transaction)) -> Iterator[Any]:
        yield tx

    wired(container)
    with unit() as tx:
        assert "transaction" == tx.kind
    with pytest.raises(KeyError), unit():
        raise KeyError

    assert ["begin transaction", "commit", "begin transaction", "abort KeyError"] == log(container)


@inject
async def greet(name: str, greeting: str = Provide[Container.greeting], tx: Any = None) -> str:
    """A coroutine function without scopes."""
    await asyncio.sleep(0)
    return f"{greeting} {name}"


async def test_a_coroutine_function_is_injected(container: Any):
    """A coroutine function without scopes behaves as with dependency-injector's inject."""
    wired(container)

    assert inspect.iscoroutinefunction(greet)
    assert "hello you" == await greet("you")
    assert "bye you" == await greet("you", "bye")


async def test_an_awaitable_injection_is_awaited():
    """A coroutine function gets the value of an asynchronous provider."""

    async def make() -> str:
        return "made"

    class Async(containers.DeclarativeContainer):
        value = providers.Coroutine(make)

    @inject
    async def fn(value: str = Provide[Async.value]) -> str:
        return value

    container = wired(Async())

    assert "made" == await fn()
    container.unwire()


@inject
async def echo(session: Any = Closing[Provide[Container.session]]) -> AsyncGenerator[Any, Any]:
    """Yield what was received last."""
    received = "nothing"
    try:
        while True:
            try:
                received = yield (received, session)
            except KeyError:
                received = "caught"
            if received == "stop":
                return
    finally:
        session.append("left")


async def test_an_async_generator_is_spoken_to(container: Any):
    """What is sent to or thrown into an async generator reaches it, and its resources close after its body."""
    wired(container)
    stream = echo()

    assert inspect.isasyncgenfunction(echo)
    assert ("nothing", ["open"]) == await anext(stream)
    assert "sent" == (await stream.asend("sent"))[0]
    received, session = await stream.athrow(KeyError())
    assert "caught" == received
    assert container.session.initialized
    with pytest.raises(StopAsyncIteration):
        await stream.asend("stop")
    assert ["open", "left"] == session
    assert not container.session.initialized


async def test_an_async_generator_is_closed_at_once(container: Any):
    """Closing an async generator runs its cleanup before aclose returns."""
    wired(container)
    stream = echo()
    _, session = await anext(stream)
    await stream.aclose()

    assert ["open", "left"] == session
    assert not container.session.initialized


async def test_an_exception_leaves_an_async_generator(container: Any):
    """What the generator doesn't handle comes out of it, after its cleanup."""
    wired(container)
    stream = echo()
    _, session = await anext(stream)
    with pytest.raises(ValueError, match="x"):
        await stream.athrow(ValueError("x"))

    assert ["open", "left"] == session
    assert not container.session.initialized


# -- the wrong colour ----------------------------------------------------------------------------


def test_a_coroutine_function_refuses_a_sync_scope():
    """A scope that would block the event loop is refused at decoration, with the way out."""
    with pytest.raises(TypeError, match=r"'tx'.*would block the event loop.*async_transaction"):

        @inject
        async def fn(tx: Any = injected(Container.orders.transaction)) -> None: ...


def test_an_async_generator_refuses_a_sync_scope():
    """An async generator refuses it likewise."""
    with pytest.raises(TypeError, match=r"'p'.*would block the event loop"):

        @inject
        async def fn(p: Any = injected(Container.orders.producer)) -> AsyncGenerator[int, None]:
            yield 1


async def test_a_sync_scope_behind_a_path_is_refused_at_the_call(container: Any):
    """Where only the call can tell, the call says it, and opens nothing."""

    @inject
    async def coroutine(tx: Any = Provide["orders.transaction"]) -> None: ...

    @inject
    async def stream(tx: Any = Provide["orders.transaction"]) -> AsyncGenerator[int, None]:
        yield 1

    wired(container)
    with pytest.raises(ScopeError, match="would block the event loop"):
        await coroutine()
    with pytest.raises(ScopeError, match="would block the event loop"):
        await anext(stream())

    assert [] == log(container)


async def test_a_thread_may_hold_what_a_coroutine_may_not(container: Any):
    """The way out that the error names works."""
    wired(container)
    scope = await asyncio.to_thread(_by_injected)

    assert "transaction" == scope.kind


@pytest.mark.parametrize("make", ["coroutine", "generator", "async_generator"])
def test_a_lazy_result_is_refused(container: Any, make: str):
    """A plain function that returns what would run after its scope is refused, and its transaction aborted."""

    async def coroutine() -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncGenerator[int, None]:
        yield 1

    lazy: Any = {"coroutine": coroutine, "generator": generator, "async_generator": async_generator}[make]

    @inject
    def fn(tx: Any = injected(Container.orders.transaction)) -> Any:
        return lazy()

    wired(container)
    with pytest.raises(ScopeError, match=rf"returned a {make} whose body would run after the end of the scope"):
        fn()

    assert ["begin transaction", "abort ScopeError"] == log(container)


@pytest.mark.parametrize("marker", [injected(Container.orders.transaction), Provide["orders.transaction"]])
def test_a_hidden_generator_is_refused(marker: Any):
    """Inject above a decorator that hides a generator is refused: the scope would end before the body."""
    with pytest.raises(TypeError, match="directly above the function, below other decorators"):

        @inject
        @contextlib.contextmanager
        def fn(tx: Any = marker) -> Iterator[Any]:
            yield tx


def test_a_hidden_generator_without_scopes_is_injected(container: Any):
    """Without scopes, inject works above contextmanager as dependency-injector's does."""

    @inject
    @contextlib.contextmanager
    def fn(greeting: str = Provide[Container.greeting]) -> Iterator[str]:
        yield greeting

    wired(container)
    with fn() as greeting:
        assert "hello" == greeting


# -- beside dependency-injector's own ------------------------------------------------------------


def test_stock_inject_below(container: Any):
    """Inject above dependency-injector's opens the scopes for it."""

    @inject
    @wiring.inject
    def fn(a: int, tx: Any = injected(Container.orders.transaction)) -> str:
        return f"{a} {tx.kind}"

    wired(container)

    assert "1 transaction" == fn(1)
    assert ["begin transaction", "commit"] == log(container)


def test_stock_inject_above(container: Any):
    """dependency-injector's above ours finds nothing left to do and says so."""
    with pytest.warns(wiring.DIWiringWarning, match="not required"):

        @wiring.inject
        @inject
        def fn(tx: Any = injected(Container.orders.transaction)) -> str:
            return tx.kind

    wired(container)

    assert "transaction" == fn()
    assert ["begin transaction", "commit"] == log(container)


def test_stock_inject_instead(container: Any):
    """A recipe that dependency-injector's inject left unopened says which inject opens it."""

    @wiring.inject
    def fn(tx: Any = injected(Container.orders.transaction)) -> None:
        tx.produce_async("topic")

    wired(container)
    with pytest.raises(UnopenedScopeError, match=r"'produce_async'.*decorate the function with wd_di.inject"):
        fn()


def test_nothing_to_inject():
    """A function without markers is returned as it is, with dependency-injector's warning for this line."""

    def fn(a: int) -> int:
        return a

    with pytest.warns(wiring.DIWiringWarning, match="not required") as caught:
        assert fn is inject(fn)
    assert __file__ == caught[0].filename


def test_markers_are_hidden():
    """The signature shows what the caller must give, with postponed annotations evaluated."""
    signature = inspect.signature(place)

    assert ["order", "note", "greeting"] == list(signature.parameters)
    assert str is signature.parameters["order"].annotation
    assert "place" == place.__name__
    assert __name__ == place.__module__


def test_a_dependency_of_a_framework_is_seen_through(monkeypatch: pytest.MonkeyPatch, container: Any):
    """A marker inside of FastAPI's Depends, or what else dependency-injector knows, is found."""

    class Depends:
        def __init__(self, dependency: Any) -> None:
            self.dependency = dependency

    monkeypatch.setattr(wiring, "MARKER_EXTRACTORS", [lambda value: getattr(value, "dependency", None)])

    @inject
    def fn(tx: Any = Depends(Provide[Container.orders.transaction])) -> str:
        return tx.kind

    wired(container)

    assert "transaction" == fn()


# -- errors that say what to do ------------------------------------------------------------------


@pytest.mark.parametrize(
    "marker",
    [
        Closing[Provide[Container.orders]],
        Closing[Provide[Container.orders.transaction]],
        Closing[Provide[Container.service]],
    ],
)
def test_closing_is_refused(marker: Any):
    """Closing on a pool, its scopes or what is made of it is refused at decoration, with the reason."""
    with pytest.raises(TypeError, match=r"Closing on the parameter 'x' would shut the whole pool down.*Drop Closing"):

        @inject
        def fn(x: Any = marker) -> None: ...


def test_closing_behind_a_path_is_refused_at_the_call(container: Any):
    """Where the marker is only a path, the first call says it."""

    @inject
    def fn(x: Any = Closing[Provide["orders.transaction"]]) -> None: ...

    wired(container)
    with pytest.raises(ScopeError, match="Drop Closing"):
        fn()


def test_closing_elsewhere_stays(container: Any):
    """Another resource marked Closing is closed after the function and after its scope."""
    seen = []

    @inject
    def fn(s: Any = Closing[Provide[Container.session]], tx: Any = injected(Container.orders.transaction)) -> None:
        seen.append((s, container.session.initialized, tx.kind))

    wired(container)
    fn()

    assert [(["open"], True, "transaction")] == seen
    assert not container.session.initialized


def test_an_unwired_function_says_so():
    """A function whose module nobody wired names the call that is missing."""
    with pytest.raises(ScopeError, match=r"place: .*'tx': container.wire\(modules=\['test_wiring'\]\) wasn't called"):
        place("o")


async def test_an_unwired_coroutine_function_says_so():
    """So does a coroutine function."""
    with pytest.raises(ScopeError, match=r"greet: nothing was injected for 'greeting': container.wire"):
        await greet("you")


def test_a_misspelt_path_is_named(container: Any):
    """A path that the wired container doesn't have is named."""

    @inject
    def fn(tx: Any = Provide["order.transaction"]) -> None: ...

    wired(container)
    with pytest.raises(ScopeError, match=r"the Container .* has no 'order\.transaction'\. Did you mean 'orders\."):
        fn()


def test_a_marker_as_an_argument_is_not_a_value():
    """A framework that resolved the marker itself, and got the marker, doesn't pass for one that wired."""
    with pytest.raises(ScopeError, match="nothing was injected for 'tx'"):
        place("o", tx=Provide[Container.orders.transaction])


def test_an_unreadable_marker_is_refused():
    """A marker in an annotation that can't be evaluated is an error, not silently no marker."""
    local = Container
    with pytest.raises(TypeError, match=r"annotation of 'tx' can't be read \(name 'local' is not defined\)"):

        @inject
        def fn(tx: Annotated[Any, Provide[local.orders.transaction]]) -> None: ...


# -- with a real pool ----------------------------------------------------------------------------

RETRY = Retry(attempts=2, backoff_ms=0, on=(KeyError,))
SETTINGS = PoolSettings(deliver=False, size=2, transactional_id="wiring-{index}", instance="tests")


class Real(containers.DeclarativeContainer):
    """Its messages stay in memory."""

    observer = providers.Singleton(Observer)
    orders = PoolResource(SETTINGS, observer=observer)
    clicks = PoolResource(PoolSettings(deliver=False, size=1))
    retried = providers.Callable(lambda pool: pool.transaction(retry=RETRY), orders)


@pytest.fixture
def real() -> Iterator[Any]:
    """A running container."""
    with running(Real()) as container:
        yield container


@pytest.fixture
def outcomes(real: Any) -> list[str]:
    """How the transactions of the real pool have ended."""
    ended: list[str] = []
    real.observer().subscribe(TransactionFinished, lambda event: ended.append(event.outcome))
    return ended


@inject
def inner(tx: Transaction = injected(Real.orders.transaction)) -> Transaction:
    """A service that another one calls."""
    tx.produce_async("topic", b"value")
    return tx


def test_a_nested_call_joins(real: Any, outcomes: list[str]):
    """A service called inside another one's transaction takes part in it."""

    @inject
    def outer(tx: Transaction = injected(Real.orders.transaction)) -> bool:
        return tx is inner()

    wired(real)

    assert outer()
    assert ["committed"] == outcomes


def test_a_generators_caller_does_not_join(real: Any, outcomes: list[str]):
    """What runs between two values of a generator has a transaction of its own."""

    @inject
    def values(tx: Transaction = injected(Real.orders.transaction)) -> Iterator[Transaction]:
        yield tx

    wired(real)

    assert [False] == [tx is inner() for tx in values()]
    assert ["committed", "committed"] == outcomes


@pytest.mark.parametrize("marker", [injected(Real.orders.transaction_with(retry=RETRY)), Provide[Real.retried]])
def test_a_retry_calls_the_whole_function_again(real: Any, outcomes: list[str], marker: Any):
    """With a retry, a function whose transaction was aborted is called again, in a new transaction."""
    attempts: list[Transaction] = []

    @inject
    def fn(word: str, tx: Transaction = marker) -> str:
        attempts.append(tx)
        if len(attempts) == 1:
            raise KeyError
        return f"{word} {len(attempts)}"

    wired(real)

    assert "attempt 2" == fn("attempt")
    assert attempts[0] is not attempts[1]
    assert ["aborted", "committed"] == outcomes


def test_a_retry_gives_up(real: Any, outcomes: list[str]):
    """After the last attempt, the function's own error comes out."""

    @inject
    def fn(tx: Transaction = injected(Real.orders.transaction_with(retry=RETRY))) -> None:
        raise KeyError("stays")

    wired(real)
    with pytest.raises(KeyError, match="stays"):
        fn()

    assert ["aborted", "aborted"] == outcomes


def test_a_retry_stands_alone(real: Any, outcomes: list[str]):
    """A generator, or a function with a second scope, can't be called again, and is refused before anything opens."""

    @inject
    def values(tx: Transaction = injected(Real.orders.transaction_with(retry=RETRY))) -> Iterator[int]:
        yield 1

    @inject
    def both(
        tx: Transaction = injected(Real.orders.transaction_with(retry=RETRY)),
        clicks: Producer = injected(Real.clicks.producer),
    ) -> None: ...

    wired(real)
    with pytest.raises(ScopeError, match="'tx' has a retry, but what a generator has yielded"):
        next(values())
    with pytest.raises(ScopeError, match="a plain function with this as its only scope"):
        both()

    assert [] == outcomes


# -- isolation -----------------------------------------------------------------------------------


def test_threads_have_their_own_scopes(container: Any):
    """Two threads inside the same function at once hold two scopes."""
    barrier = threading.Barrier(2, timeout=10)
    scopes = []

    @inject
    def fn(tx: Any = injected(Container.orders.transaction)) -> None:
        barrier.wait()
        scopes.append(tx)

    wired(container)
    threads = [threading.Thread(target=fn) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert 2 == len(set(scopes))
