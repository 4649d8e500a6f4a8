"""extraction/workers."""
