"""Songs with true stems for training a separator, and the examples made from them."""
