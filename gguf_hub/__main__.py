"""``python -m gguf_hub`` is ``gguf-hub``, and this is where both begin."""

from gguf_hub.importpath import leave_working_folder


def main() -> None:
    """Run the command line; nothing is imported from the working folder."""
    leave_working_folder()
    from gguf_hub.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
