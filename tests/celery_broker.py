"""A folder as Celery's broker, ``folder://``: a worker ends that finds a half written message, as in one of kombu's."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps

URL = "folder://"


class Channel(filesystem.Channel):
    """Shows a message when it is whole."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        name = f"{time.monotonic_ns():020}_{uuid.uuid4()}.{queue}.msg"
        half = Path(self.data_folder_out, f".{name}")
        half.write_text(dumps(payload))
        half.rename(half.with_name(name))


class Transport(filesystem.Transport):
    """Has such channels."""

    Channel = Channel


TRANSPORT_ALIASES["folder"] = f"{__name__}:{Transport.__name__}"
