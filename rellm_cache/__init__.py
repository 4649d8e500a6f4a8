"""rellm: frozen speech encoders run once into a cache; adapters train from it."""

__version__ = "0.1.0"
