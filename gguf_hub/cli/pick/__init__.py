"""The commands that choose a quant."""
