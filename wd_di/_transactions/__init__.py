"""What becomes of a transaction."""
