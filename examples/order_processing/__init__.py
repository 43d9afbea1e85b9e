"""Processes a batch of orders in one transaction: ``python -m examples.order_processing``."""
