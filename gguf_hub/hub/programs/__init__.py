"""Other programs that keep GGUF files: where, under which names, and how to lend them one.

Knows their folders and the files in them; starts none of them and sends nothing.
"""
