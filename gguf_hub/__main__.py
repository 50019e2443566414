"""``python -m gguf_hub`` is ``gguf-hub``."""

from gguf_hub.cli.main import main

if __name__ == "__main__":
    main()
