"""What becomes of what is given as settings: how it is found, spelt, checked and shown."""
