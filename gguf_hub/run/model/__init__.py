"""The llama graph: configuration, weights, and the program of steps that computes logits."""
