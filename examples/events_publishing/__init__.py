"""Publishes many events from many threads, each with headers: ``python -m examples.events_publishing``."""
