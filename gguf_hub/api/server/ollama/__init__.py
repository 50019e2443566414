"""Ollama's interface, for the model that is served."""
