"""cache_admin."""
