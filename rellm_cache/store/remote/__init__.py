"""store/remote."""
