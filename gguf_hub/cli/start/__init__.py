"""The commands for a first look."""
