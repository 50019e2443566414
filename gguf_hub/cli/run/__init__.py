"""The command that generates text."""
