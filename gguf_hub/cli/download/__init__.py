"""The command that downloads files."""
