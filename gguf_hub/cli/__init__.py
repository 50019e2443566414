"""The command line: options in, library called, results printed. No logic of its own."""
