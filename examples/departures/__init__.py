"""Publishes a day of real flights, two records in one transaction for each: ``python -m examples.departures``."""
