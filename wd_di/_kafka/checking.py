"""Whether librdkafka takes the settings, asked without connecting."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException, cimpl

from wd_di._kafka.callbacks import ConsumerSettings
from wd_di._kafka.translation import Translator, reveal
from wd_di._settings.kafka import near_setting
from wd_di._settings.warned import SettingsWarning, outside
from wd_di.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping


_CHECK_DROPS = ("bootstrap.servers", "metadata.broker.list", "test.mock.num.brokers", "statistics.interval.ms")


def check(pool: str, config: Mapping[str, object]) -> None:
    """Let librdkafka judge settings without connecting: a handle without brokers, gone at once.

    Always one of confluent-kafka's own, whatever replaces the class: it sends nothing that could be traced, and a
    stand-in would judge nothing.

    Raises:
        SettingsError: A property is unknown, has a bad value, or contradicts another.
    """
    alone = {key: value for key, value in config.items() if key not in _CHECK_DROPS and not callable(value)}
    said = ConsumerSettings()
    try:
        cimpl.Producer(reveal({**alone, "log_level": 4, "logger": said})).poll(0)  # as in _connect
    except (KafkaException, TypeError, ValueError) as error:
        reason = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        if unknown := re.fullmatch(r'No such configuration property: "(.*)"', reason, re.DOTALL):
            reason += near_setting(unknown[1])
        if "SASL mechanism GSSAPI" in reason:
            default = "" if "sasl.mechanism" in config else ", without which it is GSSAPI,"
            reason += f". Set kafka.sasl_mechanism{default} to one that the brokers offer and that is built in"
        if "PEM lib" in reason:  # OpenSSL has no other words for it
            reason += ": is it a file in PEM's format, and ssl.key.password what opens it?"
        raise SettingsError(
            f"{pool}: librdkafka refuses the kafka settings: {Translator(config).scrub(reason)}"
        ) from None
    if said.names:
        text = f"{pool}: a producer ignores {', '.join(said.names)}, which belongs to consumers: leave it out"
        warnings.warn(text, SettingsWarning, stacklevel=outside())
