"""From a kernel's name to the address of its machine code."""
