"""The GGUF file format: reading, writing, validating."""
