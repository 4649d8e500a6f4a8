"""Extraction: encode every clip of a manifest once and store the frames.

It takes a manifest, a recipe's encoders and a cache folder. It writes one feature store for each
encoder, with the frames of every clip, and a list of the clips that failed.
"""
