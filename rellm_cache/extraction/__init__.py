"""Extraction: encode every clip of a manifest once and store the frames.

Enters: a manifest, a recipe's encoders and a cache folder. Leaves: the frames of every clip in one
feature store for each encoder, and a list of the clips that failed.
"""
