"""Block formats of quantised tensors."""
