"""Sweeps: variants of a recipe, each trained with several seeds, and their comparison.

They take a recipe, variants, seeds, a manifest and a cache. They write run folders, and a table of
mean scores and of differences paired by seed.
"""
