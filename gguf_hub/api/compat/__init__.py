"""Other packages' names for what gguf-hub has."""
