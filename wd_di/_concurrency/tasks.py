"""How a task waits for a job on a worker thread, and outwaits it when it is cancelled."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from wd_di._concurrency.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._concurrency.workers import Workers


R = TypeVar("R")


async def outwaited(workers: Workers, job: Callable[[], R], on_cancel: Callable[[], object] | None = None) -> R:
    """Run a job on a worker thread. A cancellation waits for its end, and then goes on.

    A job that was abandoned would go on using what its task has given back.

    Args:
        workers: Who does it.
        job: What is to be done.
        on_cancel: Called when the task is cancelled meanwhile, so that the job may hurry.
    """
    loop = _get_running_loop()
    if loop is None:
        workers.submit(job)
        raise GeneratorExit  # a forgotten task is collected after its loop's end: nobody is left to wait
    done: asyncio.Future[R] = loop.create_future()

    def work() -> None:
        outcome: Outcome[R] = Outcome()
        outcome.of(job)
        if outcome.raised is None:
            _tell(loop, done.set_result, outcome.get())
        else:
            _tell(loop, done.set_exception, outcome.raised)

    workers.submit(work)
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError as error:
            cancelled = error
            if on_cancel is not None:
                on_cancel()
    if cancelled is not None:
        done.exception()  # seen: it is an event, and on the way to nobody
        raise cancelled
    return done.result()


def _tell(loop: asyncio.AbstractEventLoop, set_: Callable[[Any], None], value: Any) -> None:
    with suppress(RuntimeError):  # the loop was closed meanwhile; what had to be done is done
        loop.call_soon_threadsafe(set_, value)
