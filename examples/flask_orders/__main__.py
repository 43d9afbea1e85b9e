"""The command line: a server on a port of this machine, until it is interrupted."""

from __future__ import annotations

import argparse
import signal
import sys

from dependency_injector import providers

from examples.brokers import bootstrap_servers
from examples.flask_orders.app import create_app
from examples.flask_orders.containers import Container, Settings
from wd_di import running


def main() -> None:
    """Serve, say where Kafka is, and in the end how the pool was closed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="where to listen; 0 is any free port")
    port = parser.parse_args().port
    # Without this, what process managers send would end the process at once, with orders half sent.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with bootstrap_servers() as servers:
        print(f"Kafka on {servers}", flush=True)
        settings = Settings.model_validate({"orders": {"kafka": {"bootstrap_servers": servers}}})
        container = Container(settings=providers.Object(settings))
        try:
            with running(container):
                create_app().run(port=port)
        finally:
            print(container.orders.report, flush=True)


if __name__ == "__main__":
    main()
