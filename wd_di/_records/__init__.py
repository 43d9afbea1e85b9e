"""What becomes of a record."""
