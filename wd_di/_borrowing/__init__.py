"""How a producer or a transaction is taken, used and given back."""
