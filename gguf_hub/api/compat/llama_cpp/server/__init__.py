"""``llama_cpp.server``: names that programs import; ``gguf-hub serve`` is the server."""
