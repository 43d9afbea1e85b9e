"""How threads and tasks wait and work."""
