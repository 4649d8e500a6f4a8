"""Training of adapter and heads from cached frames.

Input: a recipe, a manifest and a cache. Output: a finished run folder. A killed run continues and
gives the same bits.
"""
