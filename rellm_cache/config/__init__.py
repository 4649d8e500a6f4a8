"""Recipes of experiments, and specs that identify cached data.

TOML files and `--set` values are loaded as frozen dataclasses. Each field is checked.
"""
