"""A call that may take longer than its caller waits: it is made to its end, or said to be over."""

from __future__ import annotations

import threading
from contextlib import suppress

from tests.interrupts import interrupt_everywhere
from tests.pools import until
from wd_di._concurrency.errands import Errand
from wd_di._concurrency.workers import Workers


def test_no_place_leaves_an_errand_that_nobody_does() -> None:
    """Whoever is interrupted while it asks a worker leaves none behind for whose end others would wait in vain."""
    workers = Workers("errands", 1)
    errands: list[Errand[None]] = []

    def entrust() -> None:
        errands.append(Errand(lambda: None))
        errands[-1].run_on(workers)

    for _ in interrupt_everywhere(entrust):
        until(lambda: all(errand.over for errand in errands), timeout_ms=2_000)


def test_what_is_called_off_is_told_to_whoever_waits_for_its_end() -> None:
    """Somebody may have come to wait for it before its caller was interrupted."""
    told = threading.Event()
    errand: Errand[None] = Errand(lambda: None)

    class Interrupted(Workers):
        """Takes a job, and is interrupted before it has a thread for it."""

        def submit(self, _: object) -> None:
            assert errand.then(told.set)
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        errand.run_on(Interrupted("interrupted", 1))

    assert (True, True) == (told.is_set(), errand.over)
    assert not errand.known(0)
