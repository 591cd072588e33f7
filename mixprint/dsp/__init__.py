"""Signal processing: pure functions from tensors to tensors."""
