"""The command line: a server on a port of this machine, until it is interrupted."""

from __future__ import annotations

import argparse

import uvicorn
from dependency_injector import providers

from examples.brokers import bootstrap_servers
from examples.fastapi_orders.app import create_app
from examples.fastapi_orders.containers import Container, Settings


def main() -> None:
    """Serve, and say where Kafka is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="where to listen; 0 is any free port")
    port = parser.parse_args().port
    with bootstrap_servers() as servers:
        print(f"Kafka on {servers}", flush=True)
        kafka = {"bootstrap_servers": servers}
        settings = Settings.model_validate({"orders": {"kafka": kafka}, "clicks": {"kafka": kafka}})
        uvicorn.run(create_app(Container(settings=providers.Object(settings))), port=port)


if __name__ == "__main__":
    main()
