"""Several models behind one server: each is loaded on demand, in a process of its own."""
