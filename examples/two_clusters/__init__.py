"""Two isolated pools, each on a cluster of its own: ``python -m examples.two_clusters``."""
