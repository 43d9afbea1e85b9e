"""A background job that knows a busy pool from a failed delivery: ``python -m examples.background_job``."""
