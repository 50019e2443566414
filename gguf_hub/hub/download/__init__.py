"""From a name to verified bytes on disk."""
