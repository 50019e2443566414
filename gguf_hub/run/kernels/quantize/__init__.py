"""Kernels that quantise activations and weights."""
