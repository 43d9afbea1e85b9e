"""The command line: a batch that is committed, and one that isn't."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dependency_injector import providers

from examples.brokers import bootstrap_servers
from examples.order_processing.containers import Container, Settings
from examples.order_processing.services import Order, OrderError, process_orders
from wd_di import running

if TYPE_CHECKING:
    from collections.abc import Sequence

GOOD = (Order(1, "tea", 2), Order(2, "cup", 6), Order(3, "pot", 1))
BAD = (Order(4, "tea", 1), Order(5, "cup", 0))


def main() -> None:
    """Process both batches, and say how each ended."""
    with bootstrap_servers() as servers:
        settings = Settings.model_validate({"orders": {"kafka": {"bootstrap_servers": servers}}})
        with running(Container(settings=providers.Object(settings))):
            for batch in (GOOD, BAD):
                print(f"{len(batch)} orders: {_process(batch)}")


def _process(batch: Sequence[Order]) -> str:
    try:
        process_orders(batch)
    except OrderError as error:
        return f"aborted, since {error}"
    return "committed"


if __name__ == "__main__":
    main()
