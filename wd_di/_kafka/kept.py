"""Where one of librdkafka's clients is kept, so that it is gone when that place is emptied.

A traceback keeps the frames that it came through, with what they have in variables: whoever keeps an error would keep
the client's handle, with its threads and connections, long after its end. So no frame of ours ever has one in a
variable. It is in a list of its own, and a call takes it from there as it is made, as in ``call(kept[0])``.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R")

_KEEPS = sys.version_info < (3, 12)
_set_handled = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("PyErr_SetHandledException", ctypes.pythonapi))

Kept = list[Any]
"""The one place: the handle, or what says why there is none."""


class Gone:
    """What stands in the place of a handle that was given up: each call of it raises why.

    Args:
        why: Makes the error.
    """

    def __init__(self, why: Callable[[], Exception]) -> None:
        self.why = why

    def __len__(self) -> int:
        return 0

    def __getattr__(self, _: str) -> NoReturn:
        raise self.why()


def taken(kept: Kept, instead: Gone) -> Kept:
    """Return another place, into which the handle was moved, for the one who ends it; once, then it has ``instead``."""
    other: Kept = [instead]
    if type(kept[0]) is not Gone:
        other[0], kept[0] = kept[0], other[0]
    return other


def empty(kept: Kept) -> None:
    """Let go of the handle, which ends here, unless a call is under way."""
    try:
        kept.clear()
    except SystemError as error:  # a signal's handler was called meanwhile, and nobody was there to take what it raised
        hidden = error.__cause__
        if hidden is None:
            raise
    else:
        return
    raise hidden


def unhandled(call: Callable[[Any], R], kept: Kept) -> R:
    """Make a call while no exception is being handled, as far as Python can see.

    On Python 3.11, what confluent-kafka raises while one is being handled keeps that for ever, with its frames: mostly
    a user's, for which a transaction aborts.
    """
    handled: BaseException | None = sys.exception()
    raised: BaseException | None = None
    if handled is None or not _KEEPS:
        return call(kept[0])
    _set_handled(None)
    try:
        result = call(kept[0])
    except BaseException as error:  # noqa: BLE001  (raised as soon as the other one is back)
        raised = error
    _set_handled(handled)  # not where the new one is handled: at the end of that it would be taken away again
    if raised is None:
        return result
    try:
        raise raised
    finally:
        del handled, raised  # this frame is in its traceback


def forget_frames(error: BaseException) -> None:
    """Clear the frames between the caller and where the error came up: methods of a handle's own class have it as self.

    What came up in a callback was caught there: then those frames aren't in its traceback, but before that.
    """
    clear_frames(error.__traceback__)
    here = sys._getframe(1)  # noqa: SLF001  (there is no other way to it)
    frame = error.__traceback__.tb_frame if error.__traceback__ is not None else None
    while frame is not None and frame is not here:
        with suppress(RuntimeError):  # it goes on
            frame.clear()
        frame = frame.f_back
