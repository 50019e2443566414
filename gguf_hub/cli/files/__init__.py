"""The commands that read, check and write GGUF files."""
