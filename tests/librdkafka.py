"""What librdkafka itself says of its properties."""

from __future__ import annotations

import ctypes
import re
from tempfile import NamedTemporaryFile

import pytest
from confluent_kafka import cimpl


def properties() -> dict[str, str]:
    """Return the names, each with ``P``, ``C`` or ``*`` for producers, consumers or both."""
    of_c, library = ctypes.CDLL(None), ctypes.CDLL(cimpl.__file__)
    if not hasattr(library, "rd_kafka_conf_properties_show"):
        pytest.skip("this build of librdkafka is linked statically")
    of_c.fopen.restype, pointer = ctypes.c_void_p, [ctypes.c_void_p]
    of_c.fclose.argtypes = library.rd_kafka_conf_properties_show.argtypes = pointer
    with NamedTemporaryFile("r") as file:
        opened = of_c.fopen(file.name.encode(), b"w")
        library.rd_kafka_conf_properties_show(opened)
        of_c.fclose(opened)
        return dict(re.findall(r"^([\w.]+) +\| +([CP*]) ", file.read(), re.MULTILINE))
