"""A Flask service whose replies are sent after their commits: ``python -m examples.flask_orders``."""
