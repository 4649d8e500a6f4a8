"""model/losses."""
