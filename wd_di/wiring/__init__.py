"""How a function gets its producers and transactions from a container: ``inject`` and the typed marker ``injected``."""

from wd_di.wiring.decorator import inject
from wd_di.wiring.markers import injected

__all__ = ["inject", "injected"]
