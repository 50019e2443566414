"""The commands that serve models and files over HTTP."""
