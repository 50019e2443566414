"""The commands about the model files on this machine."""
