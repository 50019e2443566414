"""Vectors of LLVM, and what each instruction set does with them."""
