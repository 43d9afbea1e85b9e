"""How one pool comes by its plans, in this process and in those that are forked from it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from wd_di._kafka.checking import check
from wd_di._slots.plan import make_plan
from wd_di._slots.template import default_instance
from wd_di.errors import SettingsError
from wd_di.settings import KafkaSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wd_di._slots.plan import Configure, Plan, SlotPlan
    from wd_di.settings import PoolSettings


class Planner:
    """Makes the plans of one pool, whose settings librdkafka has judged.

    Args:
        name: The pool's name.
        configure: What may change each producer's settings.
    """

    def __init__(self, name: str, configure: Configure | None) -> None:
        self._name = name
        self._configure = configure
        self._parents_ids: frozenset[str] | None = None

    def forked(self, plan: Plan) -> None:
        """Make other ids from now on: the process is a child of the one that went by this plan."""
        ids = (slot.transactional_id for slot in plan.slots)
        self._parents_ids = (self._parents_ids or frozenset()).union(filter(None, ids))

    def plan(self, settings: PoolSettings) -> Plan:
        """Return the plan of these settings.

        Raises:
            SettingsError: They clash, or librdkafka refuses them.
        """
        instance = None
        if self._parents_ids is not None:  # in a forked child, whatever settings it gets
            instance = f"{settings.instance or default_instance()}-{os.getpid()}"
            settings = _own_ids(settings)
        plan = make_plan(settings, name=self._name, configure=self._configure, instance=instance)
        seen: list[dict[str, Any]] = []
        for slot in plan.slots:
            if slot.remote and slot.transactional_id in (self._parents_ids or ()):
                raise SettingsError(
                    f"{self._name}: configure sets transactional.id {slot.transactional_id!r} again in a forked child, "
                    "which would fence the parent's producer: make it of os.getpid(), or use transactional_id"
                )
            alike: dict[str, Any] = {"deliver": slot.deliver}
            alike |= {key: value for key, value in slot.kafka.items() if key not in ("transactional.id", "client.id")}
            if alike not in seen:
                seen.append(alike)
                self._check(slot)
        return plan

    def next_plan(self, settings: PoolSettings, present: Plan) -> Plan:
        """Return the plan that a reload goes by.

        Raises:
            SettingsError: As :meth:`plan`, or they change what a pool is.
        """
        plan = self.plan(settings)
        if settings.size != present.settings.size or plan.transactional != present.transactional:
            raise SettingsError(
                f"{self._name}: reload can't change size or transactional_id on and off: make another pool"
            )
        return plan

    def _check(self, slot: SlotPlan) -> None:
        for part in _to_check(slot):
            try:
                check(self._name, part)
            except SettingsError as error:
                if slot.deliver or "No such configuration property" in str(error):
                    raise


def _to_check(slot: SlotPlan) -> list[Mapping[str, object]]:
    """What librdkafka is asked about: where nothing is sent, names only, since the values may be right elsewhere."""
    if slot.deliver:
        return [slot.kafka]
    if "plugin.library.paths" in slot.kafka:  # a plugin brings settings of its own
        return []
    return [{name: ""} for name in slot.kafka if not KafkaSettings.knows(name)]


def _own_ids(settings: PoolSettings) -> PoolSettings:
    """A child's settings: an id that says nothing of the process would fence the parent's producers."""
    template = settings.transactional_id
    if template is None or "{instance}" in template or "{pid}" in template:
        return settings
    return settings.model_copy(update={"transactional_id": template + "-{pid}"})
