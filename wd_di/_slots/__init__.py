"""Which producers there are, and who makes, serves and closes them."""
