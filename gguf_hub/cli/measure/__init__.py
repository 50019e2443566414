"""The commands that measure models."""
