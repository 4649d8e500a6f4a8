"""Training of adapter and heads from cached frames.

A recipe, a manifest and a cache enter. A finished run folder leaves; a killed run continues to the
same bits.
"""
