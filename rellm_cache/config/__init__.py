"""Recipes: what an experiment consists of, and the identity of what is cached.

TOML files and `--set` values enter. Frozen dataclasses leave, checked field by field.
"""
