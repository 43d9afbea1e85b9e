"""The command line: a call for each cluster, and the topics that each has then."""

from __future__ import annotations

from confluent_kafka.admin import AdminClient
from dependency_injector import providers

from examples.brokers import bootstrap_servers
from examples.two_clusters.containers import Container, Settings
from examples.two_clusters.services import PUSH_NOTIFICATIONS, USER_EVENTS, notify, record
from wd_di import running


def main() -> None:
    """Run on the two clusters that the settings' variables name; a mock stands in for each that isn't named."""
    with (
        bootstrap_servers("ANALYTICS__KAFKA__BOOTSTRAP_SERVERS") as analytics,
        bootstrap_servers("NOTIFICATIONS__KAFKA__BOOTSTRAP_SERVERS") as notifications,
    ):
        run(analytics, notifications)
        print(f"the analytics cluster has {_topics(analytics)}")
        print(f"the notifications cluster has {_topics(notifications)}")


def run(analytics: str, notifications: str) -> None:
    """Record one action and send one notification."""
    settings = Settings.model_validate(
        {
            "analytics": {"kafka": {"bootstrap_servers": analytics}},
            "notifications": {"kafka": {"bootstrap_servers": notifications}},
        }
    )
    with running(Container(settings=providers.Object(settings))):
        record(7, "signed up")
        notify(7, "Welcome!")


def _topics(servers: str) -> str:
    names = AdminClient({"bootstrap.servers": servers}).list_topics(timeout=10).topics
    return ", ".join(sorted({USER_EVENTS, PUSH_NOTIFICATIONS} & names.keys())) or "neither topic"


if __name__ == "__main__":
    main()
