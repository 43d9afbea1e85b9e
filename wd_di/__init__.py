"""A pool of Kafka producers as a provider for dependency-injector containers, over confluent-kafka."""

import sys

from wd_di._exit import at_exit
from wd_di._lazy import lazily

TYPE_CHECKING = False  # as in _forks
if TYPE_CHECKING:
    from wd_di._borrowing.checkout import Checkout
    from wd_di._borrowing.handles import AsyncProducer, AsyncTransaction, Producer, Transaction, TransactionScope
    from wd_di._records.delivery import Delivery, DeliveryReport
    from wd_di._records.record import Message
    from wd_di._slots.plan import Configure, ProducerConfig
    from wd_di._slots.stats import Holder, PoolStats, Totals
    from wd_di._transactions.options import Propagation, Retry, TransactionOptions
    from wd_di._version import __version__
    from wd_di.default import close, is_active, observer, producer, reload, setup, stats, transaction
    from wd_di.errors import (
        AbortTransaction,
        AlreadyConfiguredError,
        AuthorizationError,
        CheckoutReturnedError,
        CommitOutcomeUnknownError,
        DeliveryError,
        DeliveryTimeoutError,
        FencedError,
        ForkedPoolError,
        MissingExtraError,
        NotConfiguredError,
        NotTransactionalError,
        PoolClosedError,
        PoolError,
        PoolExhaustedError,
        PoolOpenError,
        PoolTimeoutError,
        PoolUnhealthyError,
        ProduceError,
        PropagationError,
        QueueFullError,
        RebalancedError,
        ScopeError,
        SettingsError,
        TransactionAbortedError,
        TransactionClosedError,
        TransactionError,
        TransactionTimedOutError,
        UnexpectedAbortError,
        UnopenedScopeError,
        WdDiError,
    )
    from wd_di.events import (
        CheckoutLost,
        CheckoutTimedOut,
        ConnectionPoolCreated,
        ConnectionPoolReload,
        ConnectionPoolReloaded,
        ConnectionPoolSetup,
        ConnectionPoolShutdown,
        ErrorOccurred,
        Event,
        MessageAcknowledged,
        MessageFailed,
        MessagePurged,
        Observer,
        ProducerClosed,
        ProducerContested,
        ProducerCreated,
        ProducerRetired,
        StatisticsEmitted,
        Subscription,
        TransactionAborted,
        TransactionCommitted,
        TransactionFinished,
        TransactionResolved,
        TransactionStarted,
    )
    from wd_di.lifecycle import close_pools, lifespan, open_pools, running
    from wd_di.observe.logging import LoggingObserver
    from wd_di.pool import CloseReport, ProducerPool
    from wd_di.providers import AsyncScopeProvider, PoolResource, ScopeProvider
    from wd_di.settings import KafkaSettings, PoolSettings, Settings, SettingsWarning
    from wd_di.wiring import inject, injected
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "_borrowing.checkout": "Checkout",
            "_borrowing.handles": "AsyncProducer AsyncTransaction Producer Transaction TransactionScope",
            "observe.logging": "LoggingObserver",
            "_records.delivery": "Delivery DeliveryReport",
            "_records.record": "Message",
            "_slots.plan": "Configure ProducerConfig",
            "_slots.stats": "Holder PoolStats Totals",
            "_transactions.options": "Propagation Retry TransactionOptions",
            "_version": "__version__",
            "default": "close is_active observer producer reload setup stats transaction",
            "errors": (
                "AbortTransaction AlreadyConfiguredError AuthorizationError CheckoutReturnedError "
                "CommitOutcomeUnknownError DeliveryError DeliveryTimeoutError FencedError ForkedPoolError "
                "MissingExtraError NotConfiguredError NotTransactionalError PoolClosedError PoolError "
                "PoolExhaustedError PoolOpenError PoolTimeoutError PoolUnhealthyError ProduceError PropagationError "
                "QueueFullError RebalancedError ScopeError SettingsError TransactionAbortedError "
                "TransactionClosedError TransactionError TransactionTimedOutError UnexpectedAbortError "
                "UnopenedScopeError WdDiError"
            ),
            "events": (
                "CheckoutLost CheckoutTimedOut ConnectionPoolCreated ConnectionPoolReload ConnectionPoolReloaded "
                "ConnectionPoolSetup ConnectionPoolShutdown ErrorOccurred Event MessageAcknowledged MessageFailed "
                "MessagePurged Observer ProducerClosed ProducerContested ProducerCreated ProducerRetired "
                "StatisticsEmitted Subscription TransactionAborted TransactionCommitted TransactionFinished "
                "TransactionResolved TransactionStarted"
            ),
            "lifecycle": "close_pools lifespan open_pools running",
            "pool": "CloseReport ProducerPool",
            "providers": "AsyncScopeProvider PoolResource ScopeProvider",
            "settings": "KafkaSettings PoolSettings Settings SettingsWarning",
            "wiring": "inject injected",
        },
    )

__all__ = [
    "AbortTransaction",
    "AlreadyConfiguredError",
    "AsyncProducer",
    "AsyncScopeProvider",
    "AsyncTransaction",
    "AuthorizationError",
    "Checkout",
    "CheckoutLost",
    "CheckoutReturnedError",
    "CheckoutTimedOut",
    "CloseReport",
    "CommitOutcomeUnknownError",
    "Configure",
    "ConnectionPoolCreated",
    "ConnectionPoolReload",
    "ConnectionPoolReloaded",
    "ConnectionPoolSetup",
    "ConnectionPoolShutdown",
    "Delivery",
    "DeliveryError",
    "DeliveryReport",
    "DeliveryTimeoutError",
    "ErrorOccurred",
    "Event",
    "FencedError",
    "ForkedPoolError",
    "Holder",
    "KafkaSettings",
    "LoggingObserver",
    "Message",
    "MessageAcknowledged",
    "MessageFailed",
    "MessagePurged",
    "MissingExtraError",
    "NotConfiguredError",
    "NotTransactionalError",
    "Observer",
    "PoolClosedError",
    "PoolError",
    "PoolExhaustedError",
    "PoolOpenError",
    "PoolResource",
    "PoolSettings",
    "PoolStats",
    "PoolTimeoutError",
    "PoolUnhealthyError",
    "ProduceError",
    "Producer",
    "ProducerClosed",
    "ProducerConfig",
    "ProducerContested",
    "ProducerCreated",
    "ProducerPool",
    "ProducerRetired",
    "Propagation",
    "PropagationError",
    "QueueFullError",
    "RebalancedError",
    "Retry",
    "ScopeError",
    "ScopeProvider",
    "Settings",
    "SettingsError",
    "SettingsWarning",
    "StatisticsEmitted",
    "Subscription",
    "Totals",
    "Transaction",
    "TransactionAborted",
    "TransactionAbortedError",
    "TransactionClosedError",
    "TransactionCommitted",
    "TransactionError",
    "TransactionFinished",
    "TransactionOptions",
    "TransactionResolved",
    "TransactionScope",
    "TransactionStarted",
    "TransactionTimedOutError",
    "UnexpectedAbortError",
    "UnopenedScopeError",
    "WdDiError",
    "__version__",
    "close",
    "close_pools",
    "inject",
    "injected",
    "is_active",
    "lifespan",
    "observer",
    "open_pools",
    "producer",
    "reload",
    "running",
    "setup",
    "stats",
    "transaction",
]


def _at_exit() -> None:
    pool = sys.modules.get(f"{__name__}.pool")
    if pool is not None:
        pool.close_all()


# Here and not with the first pool: what a program registers after its import comes before this, and may still produce.
at_exit(_at_exit)
