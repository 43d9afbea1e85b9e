"""How a task waits for a job on a worker thread, and outwaits it when it is cancelled."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

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
    outcome: Outcome[R] = Outcome()
    told = loop.create_future()

    def tell() -> None:
        if not told.done():  # else it was cancelled, and the next one isn't there yet
            told.set_result(None)

    def work() -> None:
        outcome.of(job)
        with suppress(RuntimeError):  # the loop was closed meanwhile; what had to be done is done
            loop.call_soon_threadsafe(tell)

    workers.submit(work)
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            await told  # not by asyncio.wait, which costs as much as a short job
        except asyncio.CancelledError as error:
            cancelled = error
            told = loop.create_future()
            if on_cancel is not None:
                on_cancel()
        if outcome.known:
            break
    if cancelled is not None:
        raise cancelled  # what the job raised is an event, and on the way to nobody
    return outcome.get()
