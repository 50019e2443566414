"""Kernels for every CPU, and for every tensor type."""
