"""The command line: a job on an idle pool, one on a busy pool, and one whose message no broker takes."""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor

from dependency_injector import providers

from examples.background_job.containers import Container, Settings
from examples.brokers import bootstrap_servers
from wd_di import WdDiError, running

TOO_LONG = "x" * 2_000_000


def main() -> None:
    """Run the three jobs, and say how each ended."""
    logging.basicConfig(format="  %(levelname)s %(message)s", stream=sys.stdout)
    with bootstrap_servers() as servers:
        kafka = {"bootstrap_servers": servers}
        settings = Settings.model_validate({"notifications": {"kafka": kafka}, "spare": {"kafka": kafka}})
        container = Container(settings=providers.Object(settings))
        with running(container), ThreadPoolExecutor(1, "queue") as queue:

            def run(message: str) -> str:
                return queue.submit(_run, container, message).result()

            print("idle pool:", run("Your order has shipped"))
            with container.notifications().producer():
                print("busy pool:", run("Your order has arrived"))
            print("refused message:", run(TOO_LONG))


def _run(container: Container, message: str) -> str:
    try:
        report = container.job().perform(123, message)
    except WdDiError as error:
        return f"{type(error).__name__}: {error}"
    return f"{report.topic}[{report.partition}] at offset {report.offset}"


if __name__ == "__main__":
    main()
