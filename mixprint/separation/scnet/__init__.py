"""SCNet, a separator: network, compiled form, checkpoint, training."""
