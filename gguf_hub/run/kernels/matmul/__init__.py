"""Products of weights and activations."""
