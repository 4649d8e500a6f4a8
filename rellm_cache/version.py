"""Version of rellm."""

__version__ = "0.1.0"
