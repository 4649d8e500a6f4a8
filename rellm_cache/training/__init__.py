"""Training of adapter and heads from cached frames.

It takes a recipe, a manifest and a cache. It writes a run folder. A killed run continues and gives
the same bits.
"""
