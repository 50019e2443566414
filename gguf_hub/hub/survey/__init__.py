"""The GGUF files of the catalog, of this machine, or of a repository on a hub, as facts."""
