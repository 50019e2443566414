"""Compiled arithmetic. The only room that imports numba."""
