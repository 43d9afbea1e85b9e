"""The writer under Celery: a worker whose children publish, each with a pool of its own.

``celery --app tests.chaos.tasks worker``, with the configuration as JSON in ``CHAOS``; its own broker is a folder.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown
from dependency_injector import containers

from tests import celery_broker
from tests.chaos.history import Journal
from tests.chaos.watch import Watch, load, settled, told
from tests.chaos.work import Desk, Worker
from tests.chaos.writer import SETTLE_S, Config
from wd_di import PoolResource, running

CONFIG = Config.of(os.environ["CHAOS"])
STEPS = 4
SLOTS = ("size", "idle", "in_use", "waiting", "creating", "retiring")

app = Celery("chaos")


def folders(folder: Path) -> dict[str, object]:
    """Return where Celery keeps what is sent, which is what arrives."""
    place = str(folder / "celery")
    return {"data_folder_in": place, "data_folder_out": place, "control_folder": f"{place}-control"}


app.conf.update(
    broker_url=celery_broker.URL,
    broker_transport_options=folders(Path(CONFIG.folder)),
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    worker_proc_alive_timeout=60,
    broker_connection_retry_on_startup=True,
)


class Container(containers.DeclarativeContainer):
    """What a child opens and closes."""

    pool = PoolResource(
        CONFIG.settings("chaos-{host}-{pid}-{index}").model_copy(update={"open_policy": "background"}), name="chaos"
    )


_process = ExitStack()
_worker: list[Worker] = []


@worker_process_init.connect
def opened(**_: object) -> None:
    """Open the child's pool."""
    name = f"{CONFIG.name}-{os.getpid()}"
    journal = CONFIG.journal(name)
    journal.write("start", pid=os.getpid(), version=CONFIG.version, kind="celery")
    container = _process.enter_context(running(Container()))
    pool = container.pool()
    desk = Desk(name, pool, CONFIG.settings(), journal, Watch(journal))
    _worker.append(Worker(desk, 0, CONFIG.seed, CONFIG.topics, CONFIG.pause))
    journal.write("open", name=CONFIG.name)


@worker_process_shutdown.connect
def closed(**_: object) -> None:
    """Tell what is left, and close it."""
    for worker in _worker:
        pool, journal = worker.desk.pool, worker.desk.journal
        calm = settled(lambda: pool.stats().idle == pool.stats().size, SETTLE_S)  # noqa: B023  (called here)
        slots = {name: getattr(pool.stats(), name) for name in SLOTS}
        totals = asdict(pool.stats().totals)
        journal.write("idle", load=told(load()), slots=slots, handles=CONFIG.size, settled=calm, totals=totals)
        _process.close()
        journal.write("finished")


@app.task
def publish() -> None:
    """Do some transactions."""
    for worker in _worker:
        for _ in range(STEPS):
            worker.step()


__all__ = ["Journal", "app", "folders"]
