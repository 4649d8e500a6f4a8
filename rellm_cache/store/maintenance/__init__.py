"""store/maintenance."""
