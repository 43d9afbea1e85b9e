"""How to have a broker at once, and broken on request: `MockKafka`, librdkafka's own mock cluster."""

from __future__ import annotations

import ctypes
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Final, NoReturn

from confluent_kafka import cimpl

from wd_di._forks import WeakCalls, leave_to_parent, renew_in_child
from wd_di.errors import uncopyable
from wd_di.testing._errors import ClusterError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_NO_ERROR: Final = 0
_POINTER, _INT, _TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
# rdkafka.h and rdkafka_mock.h: what each function returns, then its arguments
_PROTOTYPES: Final[dict[str, tuple[object, ...]]] = {
    "rd_kafka_err2str": (_TEXT, _INT),
    "rd_kafka_handle_mock_cluster": (_POINTER, _POINTER),
    "rd_kafka_mock_broker_set_down": (_INT, _POINTER, ctypes.c_int32),
    "rd_kafka_mock_broker_set_rtt": (_INT, _POINTER, ctypes.c_int32, _INT),
    "rd_kafka_mock_broker_set_up": (_INT, _POINTER, ctypes.c_int32),
    "rd_kafka_mock_clear_request_errors": (None, _POINTER, ctypes.c_int16),
    "rd_kafka_mock_cluster_bootstraps": (_TEXT, _POINTER),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, _POINTER, ctypes.c_int32),
    "rd_kafka_mock_push_request_errors_array": (None, _POINTER, ctypes.c_int16, ctypes.c_size_t, _POINTER),
    "rd_kafka_mock_topic_create": (_INT, _POINTER, _TEXT, _INT, _INT),
    "rd_kafka_test_fatal_error": (_INT, _POINTER, _INT, _TEXT),
}


class ApiKey(IntEnum):
    """The requests of Kafka's protocol that a producer, or the reader beside it, sends."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


class MockKafka:
    """A mock cluster inside this process, which any number of its producers and consumers share.

    It knows topics (made on first use, with 4 partitions), transactions and consumer groups, and answers with the
    errors and delays it is told to. What it can't show: it fences nobody (push the error codes 47 and 90 instead),
    hides nothing from ``read_committed`` readers, times out no transaction, forgets a transaction's group offsets and
    acknowledges with a timestamp of its own. `LocalKafka` does all of it.

    It lives in the process that made it. A forked child reaches it by its ``bootstrap_servers``, and has no more of it.

    Faults are injected through ctypes into the librdkafka that confluent-kafka bundles, on CPython with the GIL.

    Args:
        brokers: How many brokers the cluster has; their ids start at 1.
    """

    def __init__(self, brokers: int = 1) -> None:
        if not isinstance(brokers, int) or isinstance(brokers, bool) or brokers < 1:
            raise ValueError(f"brokers is a number from 1 on, not {brokers!r}")  # without one there is no cluster in C
        self.brokers = brokers
        # Never what replaces confluent_kafka.Producer: nothing is sent through it.
        self._host: cimpl.Producer | None = cimpl.Producer({"test.mock.num.brokers": brokers, "log_level": 0})
        self._inherited = False
        _librdkafka().rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster(), 0)  # 3 s, else
        servers: bytes = _librdkafka().rd_kafka_mock_cluster_bootstraps(self._cluster())
        self._servers = servers.decode()
        _in_child.add(self._leave_to_parent)

    def __repr__(self) -> str:
        return f"<MockKafka: {self._servers if self._host or self._inherited else 'closed'}>"

    @property
    def bootstrap_servers(self) -> str:
        """The value for the client's ``bootstrap.servers``."""
        if not self._inherited:
            self._cluster()
        return self._servers

    def create_topic(self, name: str, partitions: int = 1) -> str:
        """Create a topic, replicated on every broker, and return its name.

        Raises:
            ClusterError: The topic exists.
            ValueError: The name has a NUL character, at which librdkafka would cut it.
        """
        if "\0" in name:
            raise ValueError(f"the topic's name {name!r} has a NUL character")
        self._call("rd_kafka_mock_topic_create", name.encode(), partitions, self.brokers)
        return name

    def push_errors(self, api_key: ApiKey | int, *codes: int) -> None:
        """Answer the next requests of a kind with these errors, one each, whichever broker they reach.

        Args:
            api_key: The kind of request.
            codes: Error codes of the protocol, such as ``KafkaError.INVALID_PRODUCER_EPOCH`` (47); -195 drops the
                connection instead.
        """
        errors = (ctypes.c_int * len(codes))(*codes)
        _librdkafka().rd_kafka_mock_push_request_errors_array(self._cluster(), api_key, len(codes), errors)

    def clear_errors(self, api_key: ApiKey | int) -> None:
        """Forget the errors that were pushed for a kind of request and not answered yet."""
        _librdkafka().rd_kafka_mock_clear_request_errors(self._cluster(), api_key)

    def set_rtt(self, rtt_ms: int, *, broker: int | None = None) -> None:
        """Delay every answer by ``rtt_ms`` milliseconds, of one broker or of all."""
        for number in [broker] if broker else range(1, self.brokers + 1):
            self._call("rd_kafka_mock_broker_set_rtt", number, rtt_ms)

    def broker_down(self, broker: int) -> None:
        """Close a broker's connections and refuse new ones."""
        self._call("rd_kafka_mock_broker_set_down", broker)

    def broker_up(self, broker: int) -> None:
        """Let a broker that is down accept connections again."""
        self._call("rd_kafka_mock_broker_set_up", broker)

    def close(self) -> None:
        """End the cluster. Harmless when it's closed, and in a forked child."""
        host, self._host = self._host, None
        self._inherited = False
        if host is not None:
            host.close()

    def __reduce__(self) -> NoReturn:
        raise uncopyable(self, "it belongs to this process. Hand over its bootstrap_servers")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _leave_to_parent(self) -> None:
        """After a fork, in the child: whatever is asked of the cluster would wait for threads of the parent's."""
        host, self._host = self._host, None
        if host is not None:
            self._inherited = True
            leave_to_parent(host)

    def _cluster(self) -> int:
        if self._inherited:
            raise ClusterError(
                "MockKafka lives in the process that made it, and this is a forked child, which has its "
                "bootstrap_servers only: do that in the parent, or make a new one"
            )
        if self._host is None:
            raise ClusterError("MockKafka is closed: make a new one")
        cluster: int = _librdkafka().rd_kafka_handle_mock_cluster(_handle(self._host))
        return cluster

    def _call(self, function: str, *arguments: object) -> None:
        code = getattr(_librdkafka(), function)(self._cluster(), *arguments)
        if code != _NO_ERROR:
            raise ClusterError(f"{function}{arguments} answered {_librdkafka().rd_kafka_err2str(code).decode()!r}")


_in_child = WeakCalls()
renew_in_child("mock clusters", _in_child)


def raise_fatal_error(producer: cimpl.Producer, code: int, reason: str) -> None:
    """Put a confluent-kafka producer into librdkafka's fatal state, as a broker's error would.

    Args:
        producer: The producer.
        code: The error code, such as ``KafkaError.INVALID_PRODUCER_EPOCH`` (47).
        reason: What the error's text says.
    """
    _librdkafka().rd_kafka_test_fatal_error(_handle(producer), code, reason.encode())


def _handle(producer: cimpl.Producer) -> int:
    """The client's ``rd_kafka_t *``: the first field after the object's header (confluent_kafka.h, ``Handle``)."""
    handle = ctypes.c_void_p.from_address(id(producer) + object.__basicsize__).value
    if handle is None:
        raise ClusterError("the producer is closed")
    return handle


@cache
def _librdkafka() -> ctypes.CDLL:
    """The librdkafka that confluent-kafka's extension module has loaded."""
    library = ctypes.CDLL(cimpl.__file__)
    for name, (result, *arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
