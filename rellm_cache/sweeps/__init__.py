"""Sweeps: variants of a recipe, each trained with several seeds, and their comparison.

A recipe, variants and seeds enter, with a manifest and a cache. Run folders leave, with a table of
mean scores and of differences paired by seed.
"""
