"""The only door to confluent-kafka."""
