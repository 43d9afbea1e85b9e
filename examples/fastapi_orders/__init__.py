"""A FastAPI service whose replies are sent after their commits: ``python -m examples.fastapi_orders``."""
